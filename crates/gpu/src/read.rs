//! Reading back: a copy into a buffer that the CPU may map, and a future that waits for it.

use shoal_learn::EngineError;

use crate::{
    device::{FaultLog, Gpu, pump},
    signal::Signal,
};

impl Gpu {
    /// Copies `count` f32 from the start of `source` plus `first` to the CPU, after everything submitted so far.
    pub async fn read(&self, source: &wgpu::Buffer, first: usize, count: usize) -> Result<Vec<f32>, EngineError> {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let copy = self.copy_out(&mut encoder, source, first, count);
        self.queue.submit([encoder.finish()]);
        copy.start().values().await
    }

    /// Adds to `encoder` a copy of `count` f32 from the start of `source` plus `first`.
    pub fn copy_out(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        source: &wgpu::Buffer,
        first: usize,
        count: usize,
    ) -> CopyOut {
        let bytes = count as u64 * 4;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read back"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(source, first as u64 * 4, &staging, 0, bytes);
        CopyOut { staging, device: self.device.clone(), faults: self.faults.clone() }
    }
}

/// A copy that is recorded.
pub(crate) struct CopyOut {
    staging: wgpu::Buffer,
    device: wgpu::Device,
    faults: FaultLog,
}

impl Drop for CopyOut {
    /// A browser would keep it until its collector comes by.
    fn drop(&mut self) {
        self.staging.destroy();
    }
}

impl CopyOut {
    /// To be called when the copy is submitted.
    pub fn start(self) -> Reading {
        let mapped = Signal::default();
        let done = mapped.clone();
        self.staging.map_async(wgpu::MapMode::Read, .., move |result| done.send(result));
        Reading { copy: self, mapped }
    }
}

/// A copy on its way. The device works on meanwhile.
pub(crate) struct Reading {
    copy: CopyOut,
    mapped: Signal<Result<(), wgpu::BufferAsyncError>>,
}

impl Reading {
    pub async fn values(self) -> Result<Vec<f32>, EngineError> {
        let CopyOut { staging, device, faults } = &self.copy;
        pump(device, faults)?;
        let outcome = self.mapped.await;
        faults.check()?;
        outcome.map_err(|error| EngineError::Failed(error.to_string()))?;
        let view = staging.get_mapped_range(..).map_err(|error| EngineError::Failed(error.to_string()))?;
        Ok(view.chunks_exact(4).map(|part| f32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect())
    }
}
