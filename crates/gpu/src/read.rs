//! Reading back: a copy into a buffer that the CPU may map, and a future that waits for it.

use shoal_learn::EngineError;

use crate::{device::Gpu, signal::Signal};

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
        let mapped = Signal::default();
        let done = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| done.send(result));
        self.pump()?;
        let outcome = mapped.await;
        self.faults.check()?;
        outcome.map_err(|error| EngineError::Failed(error.to_string()))?;
        let view = staging.get_mapped_range(..).map_err(|error| EngineError::Failed(error.to_string()))?;
        Ok(view.chunks_exact(4).map(|part| f32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect())
    }
}
