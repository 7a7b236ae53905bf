//! Reading back: a copy into a buffer that the CPU may map, and a future that waits for it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use shoal_learn::EngineError;

use crate::device::Gpu;

#[derive(Debug, Default)]
struct Slot {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

/// Resolves when the mapping's callback was called.
#[derive(Debug, Default)]
struct Mapped(Arc<Mutex<Slot>>);

impl Future for Mapped {
    type Output = Result<(), wgpu::BufferAsyncError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = slot.result.take() {
            return Poll::Ready(result);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Gpu {
    /// Copies `count` f32 from the start of `source` plus `first` to the CPU, after everything submitted so far.
    pub async fn read(&self, source: &wgpu::Buffer, first: usize, count: usize) -> Result<Vec<f32>, EngineError> {
        let bytes = count as u64 * 4;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read back"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(source, first as u64 * 4, &staging, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let mapped = Mapped::default();
        let slot = mapped.0.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.result = Some(result);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        });
        if cfg!(not(target_arch = "wasm32")) {
            // Natively nobody else runs the callbacks; in browsers the event loop does.
            if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
                self.faults.check()?;
                return Err(EngineError::Failed(error.to_string()));
            }
        }
        let outcome = mapped.await;
        self.faults.check()?;
        outcome.map_err(|error| EngineError::Failed(error.to_string()))?;
        let view = staging.get_mapped_range(..).map_err(|error| EngineError::Failed(error.to_string()))?;
        Ok(view.chunks_exact(4).map(|part| f32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect())
    }
}
