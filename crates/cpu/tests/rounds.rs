//! Rounds as a run does them: peers train apart, their updates are merged, everyone goes on from the result.

#![allow(clippy::unwrap_used)]

use pollster::block_on;
use shoal_cpu::CpuEngine;
use shoal_learn::data::Corpus;
use shoal_learn::init::genesis;
use shoal_learn::outer::{aggregate, params_to_bytes};
use shoal_learn::presets::Preset;
use shoal_learn::stories::stories;
use shoal_learn::trainer::{Go, TrainOrder, Trainer};
use shoal_wire::manifest::{Charter, CreditRule, DataSpec, Manifest, Privacy, Tokenizer};
use shoal_wire::{Digest, PeerId, share::Share};

const HELD_OUT_BYTES: u64 = 20_000;

fn manifest(preset: Preset) -> Manifest {
    Manifest {
        version: shoal_wire::manifest::VERSION,
        name: "rounds".to_owned(),
        description: String::new(),
        host: String::new(),
        model: preset.model(),
        tokenizer: Tokenizer::Bytes,
        genesis: Digest::default(),
        data: DataSpec { sources: Vec::new(), held_out_bytes: HELD_OUT_BYTES },
        recipe: preset.recipe(),
        timing: preset.timing(),
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: Vec::new(),
        seed: Digest::default(),
    }
}

#[test]
fn three_peers_learn_more_than_the_frequencies_of_letters_in_five_rounds() {
    let manifest = manifest(Preset::Tiny);
    let recipe = &manifest.recipe;
    let text: Vec<u8> = stories(1, 200_000).into_bytes();
    let corpus = Corpus::new(text.into(), HELD_OUT_BYTES).unwrap();
    let entropy = corpus.unigram_entropy_nats();
    let engine = || CpuEngine::new(&manifest.model, recipe.batch as usize, recipe.context as usize).unwrap();
    let mut peers: Vec<_> = (0..3).map(|_| Trainer::new(engine(), &manifest, corpus.clone()).unwrap()).collect();
    let mut theta = genesis(&manifest.model, manifest.seed).unwrap();
    let mut history = Vec::new();
    for round in 1..=5u64 {
        let model = params_to_bytes(&theta);
        let updates: Vec<_> = peers
            .iter_mut()
            .zip(1..)
            .map(|(peer, number)| {
                let randomness = Digest::of(&round.to_le_bytes());
                let settled = (round > 1).then_some(Share::WHOLE);
                let order = TrainOrder {
                    round,
                    model: &model,
                    randomness,
                    peer: PeerId([number; 32]),
                    steps: 20,
                    learning_rate_1024: 1024,
                    settled,
                };
                block_on(peer.train(&order, async |_| Go::On)).unwrap().unwrap().update
            })
            .collect();
        let weighted: Vec<(u16, &[u8])> = updates.iter().map(|update| (4095, &update[..])).collect();
        let norms;
        (theta, norms) =
            aggregate(peers[0].layout(), &recipe.outer, &theta, &weighted, &history, Share::WHOLE).unwrap();
        history.push(norms);
    }
    let loss = block_on(peers[0].held_out_loss(&params_to_bytes(&theta), 4)).unwrap();
    assert!(f64::from(loss) < entropy - 0.5, "held-out loss {loss}, unigram entropy {entropy}");
}
