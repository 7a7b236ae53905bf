//! What each kernel of a step takes, measured on the device.

use std::collections::BTreeMap;

use shoal_learn::{Batch, EngineError, StepSettings};

use crate::engine::GpuEngine;

/// A kernel's share of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    pub kernel: &'static str,
    pub dispatches: usize,
    pub ms: f64,
}

impl KernelTime {
    /// What kind of work the kernel does: `gemm`, `attention`, `loss`, `optimiser`, or `elementwise` for norms,
    /// rotations, activations and embeddings.
    pub fn class(&self) -> &'static str {
        let starts = |heads: &[&str]| heads.iter().any(|head| self.kernel.starts_with(head));
        if starts(&["Gemm"]) {
            "gemm"
        } else if starts(&["Attention"]) {
            "attention"
        } else if starts(&["CrossEntropy"]) {
            "loss"
        } else if starts(&["AdamW", "NormPartial", "Finish"]) {
            "optimiser"
        } else {
            "elementwise"
        }
    }

    /// Milliseconds by class.
    pub fn by_class(times: &[Self]) -> BTreeMap<&'static str, f64> {
        let mut sums = BTreeMap::new();
        for time in times {
            *sums.entry(time.class()).or_insert(0.0) += time.ms;
        }
        sums
    }
}

impl GpuEngine {
    /// Trains one step with each dispatch timed on its own, and sums by kernel, the costliest first. `None` where the
    /// device has no timestamps.
    pub async fn profile(
        &mut self,
        batch: &Batch,
        settings: &StepSettings,
    ) -> Result<Option<Vec<KernelTime>>, EngineError> {
        if !self.machine().gpu.timestamps {
            return Ok(None);
        }
        self.prepare_step(batch, settings)?;
        let turns = self.turns();
        let gpu = &self.machine().gpu;
        let device = &gpu.device;
        let mut sums = BTreeMap::new();
        // A query set holds few stamps, so the step is timed in parts.
        for part in turns.chunks(STAMPS / 2) {
            let stamps = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: part.len() as u32 * 2,
            });
            let bytes = part.len() as u64 * 16;
            let resolved = gpu.buffer("profile", bytes, wgpu::BufferUsages::QUERY_RESOLVE);
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for (index, turn) in part.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &stamps,
                        beginning_of_pass_write_index: Some(index as u32 * 2),
                        end_of_pass_write_index: Some(index as u32 * 2 + 1),
                    }),
                });
                self.machine().record(&mut pass, *turn);
            }
            encoder.resolve_query_set(&stamps, 0..part.len() as u32 * 2, &resolved, 0);
            gpu.queue.submit([encoder.finish()]);
            let words = gpu.read(&resolved, 0, part.len() * 4).await?;
            let period = f64::from(gpu.queue.get_timestamp_period());
            for (turn, words) in part.iter().zip(words.chunks_exact(4)) {
                let stamp = |at: usize| u64::from(words[at].to_bits()) | u64::from(words[at + 1].to_bits()) << 32;
                let ms = stamp(2).saturating_sub(stamp(0)) as f64 * period / 1e6;
                let (count, sum) = sums.entry(self.machine().kernel_of(*turn)).or_insert((0, 0.0));
                *count += 1;
                *sum += ms;
            }
        }
        let mut times: Vec<KernelTime> =
            sums.into_iter().map(|(kernel, (dispatches, ms))| KernelTime { kernel, dispatches, ms }).collect();
        times.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        Ok(Some(times))
    }
}

/// Timestamps in one query set.
const STAMPS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_summed_by_what_they_do() {
        let time = |kernel, ms| KernelTime { kernel, dispatches: 1, ms };
        let names = ["GemmNtQuad", "GemmTn", "AttentionDkvVec4", "CrossEntropyRow", "AdamWVec4", "RmsNormDw", "Rope"];
        let times: Vec<KernelTime> = names.into_iter().map(|name| time(name, 1.0)).collect();
        let sums: Vec<(&str, f64)> = KernelTime::by_class(&times).into_iter().collect();
        let expected = [("attention", 1.0), ("elementwise", 2.0), ("gemm", 2.0), ("loss", 1.0), ("optimiser", 1.0)];
        assert_eq!(sums, expected);
    }
}
