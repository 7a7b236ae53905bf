//! A model of eight integers whose training and outer step take no time to compute, and whose every bit depends on
//! the updates, their weights and their order.

use shoal_swarm::{Bytes, Job, Outcome, Subject};
use shoal_wire::{
    Digest, Manifest, PeerId, Round,
    judging::Score,
    manifest::{
        AdamW, Charter, Codec, CreditRule, DataSpec, ModelSpec, Outer, Privacy, Recipe, RopeScaling, Timing, Tokenizer,
    },
};

use crate::engine::Engine;

const VALUES: usize = 8;

pub fn toy_genesis() -> Bytes {
    vec![0; VALUES * 8].into()
}

/// A manifest of a toy run with these anchors.
pub fn toy_manifest(anchors: Vec<PeerId>) -> Manifest {
    Manifest {
        version: shoal_wire::manifest::VERSION,
        name: "toy".to_owned(),
        description: "eight integers".to_owned(),
        host: "simulation".to_owned(),
        model: ModelSpec {
            vocab_size: 256,
            hidden_size: 2,
            intermediate_size: 2,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            max_position_embeddings: 8,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: true,
        },
        tokenizer: Tokenizer::Bytes,
        genesis: Digest::of(&toy_genesis()),
        data: DataSpec { sources: Vec::new(), held_out_bytes: 0 },
        recipe: Recipe {
            batch: 1,
            context: 8,
            local_steps: 10,
            inner: AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, grad_clip: None }.into(),
            warmup_rounds: 0,
            decay_from: 0,
            decay_rounds: 0,
            outer: Outer { codec: Codec::Dense4, alpha_1024: 1024, feedback_1024: 1024 },
        },
        timing: Timing {
            train_ms_max: 10_000,
            exchange_ms_max: 5_000,
            view_ms: 2_000,
            recovery_ms: 15_000,
            recovery_window_rounds: 100,
        },
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors,
        seed: Digest::of(b"toy"),
    }
}

/// Runs jobs of the toy model for a peer.
pub(crate) struct Toy {
    pub me: PeerId,
}

impl Engine for Toy {
    fn run(&mut self, job: &Job, share_1024: u64) -> Outcome {
        run(self.me, job, share_1024)
    }
}

fn run(me: PeerId, job: &Job, share_1024: u64) -> Outcome {
    match job {
        Job::Train { round, randomness, steps, .. } => {
            let update = honest(me, *round, *randomness);
            let steps = (u64::from(*steps) * share_1024 / 1024).max(1);
            let tokens = steps * 8;
            Outcome::Trained { update, steps: steps as u32, tokens, loss_first: 2.0, loss_last: 1.0 }
        }
        Job::Judge { round, randomness, subjects, own, round_updates, .. } => {
            let score = |subject: &Subject| {
                let helps = subject.update == honest(subject.author, *round, *randomness);
                let first = round_updates.iter().find(|(_, update)| *update == subject.update);
                Score {
                    assigned: if helps { 20_000 } else { -20_000 },
                    other: if helps { 10_000 } else { -20_000 },
                    own: own.as_ref().map(|_| 10_000),
                    alignment_1024: None,
                    copies: first.map(|(author, _)| *author).filter(|author| *author != subject.author),
                }
            };
            Outcome::Judged { scores: subjects.iter().map(score).collect() }
        }
        Job::Check { update } => Outcome::Checked { well_formed: update.len() == VALUES * 8 },
        Job::Aggregate { model, updates, share, .. } => {
            let mut values = read(model);
            for (weight, update) in updates {
                for (value, change) in values.iter_mut().zip(read(update)) {
                    *value = value.wrapping_mul(31).wrapping_add(change.wrapping_mul(i64::from(*weight)));
                }
            }
            for value in &mut values {
                *value = value.wrapping_add(i64::from(share.promised) - i64::from(share.taken));
            }
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Outcome::Aggregated { model: bytes.into(), norms: vec![updates.len() as u64] }
        }
    }
}

/// The update that an honest peer makes in a round.
fn honest(peer: PeerId, round: Round, randomness: Digest) -> Bytes {
    let mut material = peer.0.to_vec();
    material.extend_from_slice(&round.to_le_bytes());
    material.extend_from_slice(&randomness.0);
    Digest::of(&material).0.repeat(VALUES / 4).into()
}

fn read(bytes: &[u8]) -> Vec<i64> {
    bytes
        .chunks_exact(8)
        .map(|part| {
            let mut value = [0; 8];
            value.copy_from_slice(part);
            i64::from_le_bytes(value)
        })
        .collect()
}
