//! Which examples are held out, and which come next: orders that follow from a seed, the same on every platform.

use blake3::{Hasher, OutputReader};

use crate::data::below;

const DOMAIN: &str = "shoal 2026 v1 order of examples";
/// The epoch that stands for holding out.
const HOLDING_OUT: u64 = u64::MAX;

/// Fisher and Yates's shuffle.
fn shuffle(rows: &mut [usize], seed: u64, epoch: u64) {
    let mut hasher = Hasher::new_derive_key(DOMAIN);
    hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes());
    let mut stream: OutputReader = hasher.finalize_xof();
    for last in (1..rows.len()).rev() {
        rows.swap(last, below(&mut stream, last + 1));
    }
}

/// Splits `0..count` by a seed into those to train on and `held_out` others, each in order.
pub fn hold_out(count: usize, held_out: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut rows: Vec<usize> = (0..count).collect();
    shuffle(&mut rows, seed, HOLDING_OUT);
    let mut others = rows.split_off(count - held_out.min(count));
    rows.sort_unstable();
    others.sort_unstable();
    (rows, others)
}

/// Examples by the batch: each comes once before any comes again, in an order that changes.
#[derive(Clone, Debug)]
pub struct Epochs {
    rows: Vec<usize>,
    seed: u64,
    epoch: u64,
    next: usize,
}

impl Epochs {
    /// `None` where there are no examples.
    pub fn new(rows: Vec<usize>, seed: u64) -> Option<Self> {
        let next = rows.len();
        (next > 0).then_some(Self { rows, seed, epoch: 0, next })
    }

    /// The next batch; it may reach into the next epoch.
    pub fn next_batch(&mut self, batch: usize) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(batch);
        while chosen.len() < batch {
            if self.next == self.rows.len() {
                shuffle(&mut self.rows, self.seed, self.epoch);
                self.epoch += 1;
                self.next = 0;
            }
            let take = (batch - chosen.len()).min(self.rows.len() - self.next);
            chosen.extend_from_slice(&self.rows[self.next..self.next + take]);
            self.next += take;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holding_out_splits_all_examples_in_two(count in 0usize..200, share in 0usize..250, seed: u64) {
            let (train, held) = hold_out(count, share, seed);
            prop_assert_eq!(held.len(), share.min(count));
            let mut all = [train, held].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn each_epoch_has_every_example_once(count in 1usize..50, batch in 1usize..70, seed: u64) {
            let mut epochs = Epochs::new((0..count).collect(), seed).unwrap();
            let mut all = Vec::new();
            while all.len() < 3 * count {
                all.extend(epochs.next_batch(batch));
            }
            for epoch in all.chunks_exact(count) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                prop_assert_eq!(epoch, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn orders_follow_from_the_seed_and_change_with_the_epoch() {
        let batches = |seed| {
            let mut epochs = Epochs::new((0..40).collect(), seed).unwrap();
            [epochs.next_batch(40), epochs.next_batch(40)]
        };
        assert_eq!(batches(1), batches(1));
        assert_ne!(batches(1), batches(2));
        assert_ne!(batches(1)[0], batches(1)[1]);
        assert_ne!(hold_out(40, 10, 1), hold_out(40, 10, 2));
        assert!(Epochs::new(vec![], 1).is_none());
    }
}
