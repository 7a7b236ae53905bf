//! What peers compute, and how long it takes.

use shoal_swarm::{
    Bytes,
    crowd::{Job, Outcome},
};
use shoal_wire::Digest;

use super::{CrowdWorld, Happening, Phase};

impl CrowdWorld {
    pub(super) fn compute(&mut self, at: u32, job: u64, work: &Job) {
        let (outcome, busy_ms, size) = {
            let peer = &self.peers[at as usize];
            let (me, liar) = (peer.id, peer.liar);
            let outcome = match work {
                Job::Next { body, .. } => match self.next_epochs.get(&body.digest()) {
                    Some(known) => Outcome::Next(known.clone()),
                    None => self.engine.run(me, liar, work),
                },
                _ => self.engine.run(me, liar, work),
            };
            let (busy_ms, size) = match (work, &outcome) {
                (Job::Train { .. }, _) => {
                    let train_ms = self.settings.train_ms;
                    (self.random.between(train_ms * 97 / 100, train_ms), self.costs.update_bytes())
                }
                (Job::Sum { updates, .. }, _) => {
                    (self.costs.sum_ms(updates.len()), self.costs.sum_bytes(updates.len() as u32))
                }
                (Job::Merge { part, sums }, Outcome::Merged { sum }) => {
                    (self.costs.merge_ms(sums.len()), self.costs.sum_bytes(self.engine.contributors(*part, sum)))
                }
                (Job::Finish { epoch, .. }, _) => {
                    (self.costs.finish_ms(epoch.is_one_group()), self.costs.coded_bytes())
                }
                (Job::Apply { epoch, .. }, _) => {
                    (self.costs.apply_ms(epoch.is_one_group()), 4 * self.settings.parameters)
                }
                _ => (20, 0),
            };
            (outcome, busy_ms, size)
        };
        if let (Job::Next { body, .. }, Outcome::Next(epoch)) = (work, &outcome) {
            self.next_epochs.insert(body.digest(), epoch.clone());
        }
        let made: Vec<&Bytes> = match &outcome {
            Outcome::Summed { sums } => sums.iter().collect(),
            Outcome::Merged { sum } => vec![sum],
            Outcome::Finished { coded, .. } => vec![coded],
            _ => Vec::new(),
        };
        for bytes in made {
            self.sizes.entry(Digest::of(bytes)).or_insert((size, bytes.clone()));
        }
        let trained = if matches!(work, Job::Train { .. }) { busy_ms * 1000 } else { 0 };
        let peer = &mut self.peers[at as usize];
        let done = if trained > 0 { self.now } else { self.now.max(peer.worker_free) } + busy_ms * 1000;
        if trained == 0 {
            peer.worker_free = done;
        }
        let marks = match work {
            Job::Train { .. } => vec![(Phase::Trained, done)],
            Job::Sum { .. } => vec![(Phase::Exchanged, self.now), (Phase::Summed, done)],
            Job::Merge { .. } => vec![(Phase::Merged, done)],
            Job::Finish { .. } => vec![(Phase::Coded, done)],
            Job::Apply { .. } => vec![(Phase::Spread, self.now), (Phase::Applied, done)],
            Job::Next { .. } => Vec::new(),
        };
        peer.marks.extend(marks);
        self.later(done, at, Happening::Done { job, outcome, trained });
    }
}
