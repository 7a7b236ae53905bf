//! What an auditor measures of honest updates, of lies and of copies.

#![allow(clippy::unwrap_used)]

use pollster::block_on;
use shoal_cpu::CpuEngine;
use shoal_learn::{
    data::Corpus,
    init::genesis,
    outer::{Residual, aggregate, decode, params_to_bytes},
    presets::Preset,
    stories::stories,
    trainer::{Go, JudgeOrder, JudgedUpdate, TrainError, TrainOrder, Trainer, judged_batches, unassigned_batches},
};
use shoal_wire::{
    Digest, PeerId,
    judging::Score,
    manifest::{Charter, Codec, CreditRule, DataSpec, Manifest, Privacy, Tokenizer},
    share::Share,
};

const CODECS: [Codec; 2] = [Codec::Dense4, Codec::Topk];
const ME: PeerId = PeerId([1; 32]);
const HONEST: PeerId = PeerId([2; 32]);
const LIAR: PeerId = PeerId([3; 32]);
const RANDOMNESS: Digest = Digest([7; 32]);
const DRAW: Digest = Digest([8; 32]);

fn manifest(codec: Codec) -> Manifest {
    let preset = Preset::Tiny;
    let mut recipe = preset.recipe();
    recipe.outer.codec = codec;
    Manifest {
        version: shoal_wire::manifest::VERSION,
        name: "judging".to_owned(),
        description: String::new(),
        host: String::new(),
        model: preset.model(),
        tokenizer: Tokenizer::Bytes,
        genesis: Digest::default(),
        data: DataSpec { sources: Vec::new(), held_out_bytes: 20_000 },
        recipe,
        timing: preset.timing(),
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: Vec::new(),
        seed: Digest::default(),
    }
}

fn trainer(manifest: &Manifest) -> Trainer<CpuEngine> {
    let recipe = &manifest.recipe;
    let engine = CpuEngine::new(&manifest.model, recipe.batch as usize, recipe.context as usize).unwrap();
    let text: Vec<u8> = stories(1, 200_000).into_bytes();
    Trainer::new(engine, manifest, Corpus::new(text.into(), manifest.data.held_out_bytes).unwrap()).unwrap()
}

/// A round in which this peer and an honest one trained.
struct Round {
    manifest: Manifest,
    me: Trainer<CpuEngine>,
    model: Vec<u8>,
    own: Vec<u8>,
    honest: Vec<u8>,
}

/// What a new peer makes of a model in a round.
fn trained(manifest: &Manifest, model: &[u8], peer: PeerId) -> (Trainer<CpuEngine>, Vec<u8>) {
    let mut trainer = trainer(manifest);
    let order = TrainOrder {
        round: 1,
        model,
        randomness: RANDOMNESS,
        peer,
        steps: 20,
        learning_rate_1024: 1024,
        settled: None,
    };
    let update = block_on(trainer.train(&order, async |_| Go::On)).unwrap().unwrap().update;
    (trainer, update)
}

impl Round {
    fn new(codec: Codec) -> Self {
        // Not the first round: of random weights, where signs are arbitrary, the opposite of an update helps as well.
        let dense = manifest(Codec::Dense4);
        let theta = genesis(&dense.model, dense.seed).unwrap();
        let (first, update) = trained(&dense, &params_to_bytes(&theta), PeerId([9; 32]));
        let (theta, _) =
            aggregate(first.layout(), &dense.recipe.outer, &theta, &[(4095, &update)], &[], Share::WHOLE).unwrap();
        let (manifest, model) = (manifest(codec), params_to_bytes(&theta));
        let (me, own) = trained(&manifest, &model, ME);
        let (_, honest) = trained(&manifest, &model, HONEST);
        Self { manifest, me, model, own, honest }
    }

    /// The honest update with each of its values, in units of 2⁻⁴⁰, changed.
    fn changed(&self, change: impl Fn(usize, i64) -> i64) -> Vec<u8> {
        let (layout, outer) = (self.me.layout(), &self.manifest.recipe.outer);
        let values = decode(layout, outer.codec, &self.honest).unwrap();
        let value = |(index, value): (usize, i64)| change(index, value) as f32 / (1u64 << 40) as f32;
        let delta: Vec<f32> = values.into_iter().enumerate().map(value).collect();
        Residual::new(layout).compress(outer, layout, &delta).unwrap()
    }

    fn order<'a>(&'a self, subjects: &[(PeerId, &'a [u8])], updates: &[(PeerId, &'a [u8])]) -> JudgeOrder<'a> {
        let steps = self.manifest.recipe.local_steps;
        JudgeOrder {
            model: &self.model,
            randomness: RANDOMNESS,
            draw: DRAW,
            subjects: subjects.iter().map(|&(author, update)| JudgedUpdate { author, update, steps }).collect(),
            own: Some(&self.own),
            round_updates: updates.to_vec(),
        }
    }

    /// Scores of what two peers sent, where the honest one was first.
    fn judge(&self, second: &[u8]) -> [Score; 2] {
        let both = [(HONEST, &self.honest[..]), (LIAR, second)];
        let scores = block_on(trainer(&self.manifest).judge(&self.order(&both, &both), async || Go::On));
        scores.unwrap().unwrap().try_into().unwrap()
    }
}

#[test]
fn honest_work_helps_most_on_its_own_data_and_its_opposite_does_harm() {
    for codec in CODECS {
        let round = Round::new(codec);
        let [honest, flipped] = round.judge(&round.changed(|_, value| -value));
        assert!(honest.assigned > 1_000 && honest.other > 1_000, "{codec:?}: {honest:?}");
        assert!(honest.own.unwrap() > 1_000 && honest.alignment_1024.unwrap() > 0, "{honest:?}");
        assert!(flipped.assigned < -1_000 && flipped.other < -1_000, "{codec:?}: {flipped:?}");
        assert_eq!((flipped.own, honest.copies, flipped.copies), (honest.own, None, None));
        // Encoding what was decoded changes it a little.
        let (there, back) = (honest.alignment_1024.unwrap(), flipped.alignment_1024.unwrap());
        assert!((there + back).abs() * 20 <= there, "{codec:?}: {there} and {back}");
    }
}

#[test]
fn nothing_changes_nothing_and_aligns_with_nothing() {
    for codec in CODECS {
        let round = Round::new(codec);
        let [honest, nothing] = round.judge(&round.changed(|_, _| 0));
        let expected = Score { assigned: 0, other: 0, own: honest.own, alignment_1024: Some(0), copies: None };
        assert_eq!(nothing, expected, "{codec:?}");
    }
}

#[test]
fn the_later_commit_is_the_copy_also_where_a_little_was_changed() {
    for codec in CODECS {
        let round = Round::new(codec);
        let noise = |index: usize| (index as i64 * 7_919 % 2_001 - 1_000) << 12;
        for copy in [round.honest.clone(), round.changed(|index, value| value + noise(index) * (value != 0) as i64)] {
            let [honest, copier] = round.judge(&copy);
            assert_eq!((honest.copies, copier.copies), (None, Some(HONEST)), "{codec:?}");
        }
    }
}

#[test]
fn work_of_ones_own_on_other_data_is_no_copy() {
    for codec in CODECS {
        let round = Round::new(codec);
        let [_, own] = round.judge(&round.own);
        assert_eq!((own.copies, own.alignment_1024), (None, Some(1024)), "{codec:?}");
    }
}

#[test]
fn without_an_update_of_its_own_an_auditor_compares_with_none() {
    let round = Round::new(Codec::Dense4);
    let mut order = round.order(&[(HONEST, &round.honest)], &[]);
    order.own = None;
    let scores = block_on(trainer(&round.manifest).judge(&order, async || Go::On)).unwrap().unwrap();
    assert_eq!((scores[0].own, scores[0].alignment_1024), (None, None));
}

#[test]
fn what_is_no_update_is_an_error_that_names_its_author() {
    for codec in CODECS {
        let round = Round::new(codec);
        for torn in [&b""[..], b"shoal", &round.honest[..round.honest.len() - 5]] {
            let order = round.order(&[(HONEST, &round.honest), (LIAR, torn)], &[(LIAR, torn)]);
            let error = block_on(trainer(&round.manifest).judge(&order, async || Go::On)).unwrap_err();
            assert!(matches!(error, TrainError::Subject { author: LIAR, .. }), "{error}");
        }
    }
}

#[test]
fn auditors_measure_the_same_whatever_came_to_them_first_and_other_draws_measure_on_other_data() {
    let round = Round::new(Codec::Topk);
    let subjects = [(HONEST, &round.honest[..])];
    let measured = |updates: &[(PeerId, &[u8])], draw| {
        let order = JudgeOrder { draw, ..round.order(&subjects, updates) };
        let scores = block_on(trainer(&round.manifest).judge(&order, async || Go::On)).unwrap().unwrap();
        (scores[0].assigned, scores[0].other)
    };
    let both = [(HONEST, &round.honest[..]), (LIAR, &round.own[..])];
    let swapped = [both[1], both[0]];
    assert_eq!(measured(&both, DRAW), measured(&swapped, DRAW));
    assert_eq!(measured(&both, DRAW), measured(&both[..1], DRAW));
    let other = measured(&both, Digest([9; 32]));
    assert!(other.0 != measured(&both, DRAW).0 && other.1 != measured(&both, DRAW).1);
}

#[test]
fn whoever_judged_trains_on_as_if_it_had_not() {
    let [mut judged, mut spared] = [Round::new(Codec::Dense4), Round::new(Codec::Dense4)];
    let subject = JudgedUpdate { author: HONEST, update: &judged.honest, steps: 20 };
    let order = JudgeOrder {
        model: &judged.model,
        randomness: RANDOMNESS,
        draw: DRAW,
        subjects: vec![subject],
        own: None,
        round_updates: Vec::new(),
    };
    block_on(judged.me.judge(&order, async || Go::On)).unwrap();
    let next = |round: &mut Round| {
        let (model, randomness, settled) = (&round.model, RANDOMNESS, Some(Share::WHOLE));
        let order = TrainOrder { round: 2, model, randomness, peer: ME, steps: 3, learning_rate_1024: 1024, settled };
        block_on(round.me.train(&order, async |_| Go::On)).unwrap()
    };
    assert_eq!(next(&mut judged), next(&mut spared));
}

#[test]
fn judging_takes_the_evaluations_that_are_promised() {
    let round = Round::new(Codec::Dense4);
    let mut asked = 0;
    let subjects = [(HONEST, &round.honest[..]), (LIAR, &round.own[..])];
    let go = async || {
        asked += 1;
        Go::On
    };
    block_on(trainer(&round.manifest).judge(&round.order(&subjects, &subjects), go)).unwrap();
    // Two updates: their own batches before and after, those of nobody after each, and before and with the auditor's.
    assert_eq!(asked, 2 * 2 * judged_batches(20) + (2 + 2) * unassigned_batches(20));
}
