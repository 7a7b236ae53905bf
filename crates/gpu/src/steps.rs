//! Steps in a device's queue: the slots of their losses, and how each is cut into submits.

use shoal_learn::EngineError;

use crate::{
    engine::Counters,
    machine::{EVALUATION_SLOT, Machine},
    pace::Pace,
};

#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// Steps whose losses are still on the device.
    pending: usize,
    pace: Pace,
}

impl Steps {
    /// Where the next step's loss goes.
    pub fn slot(&self) -> Result<usize, EngineError> {
        if self.pending >= EVALUATION_SLOT {
            return Err(EngineError::Failed(format!("more than {EVALUATION_SLOT} steps without reading their losses")));
        }
        Ok(self.pending)
    }

    /// Counts a step for which everything is written.
    pub fn count(&mut self) {
        self.pending += 1;
    }

    /// Submits a step that is counted.
    pub fn submit(&mut self, machine: &Machine) {
        // Dispatches differ in cost, but layers repeat: equal counts are nearly equal times.
        let turns = machine.step_turns();
        let part = turns.len().div_ceil(self.pace.submits());
        for start in (0..turns.len()).step_by(part) {
            machine.replay(turns.clone().skip(start).take(part));
        }
        self.pace.enqueued();
    }

    /// How many steps may wait.
    pub fn ahead(&self) -> u32 {
        self.pace.steps_ahead()
    }

    /// The losses of all steps that wait.
    pub async fn losses(&mut self, machine: &Machine) -> Result<Vec<f32>, EngineError> {
        if self.pending == 0 {
            return Ok(Vec::new());
        }
        let losses = machine.losses(0, self.pending).await?;
        self.pace.read(self.pending);
        self.pending = 0;
        Ok(losses)
    }

    pub fn counters(&self, machine: &Machine) -> Counters {
        Counters {
            dispatches: machine.step_turns().len() as u64,
            submits: self.pace.submits() as u64,
            buffer_bytes: machine.buffer_bytes,
            micro_batches: machine.thrift.micro_batches,
            recomputes: machine.thrift.recompute,
        }
    }
}
