#![allow(clippy::unwrap_used)]
use shoal_wire::manifest::{AdamW, ModelSpec, Muon, MuonScale, RopeScaling, Sgd};

use super::*;

const ADAMW: AdamW = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.5, grad_clip: None };

fn layout() -> Layout {
    let model = ModelSpec {
        vocab_size: 2,
        hidden_size: 2,
        intermediate_size: 1,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        max_position_embeddings: 4,
        rms_norm_eps: 1e-5,
        rope_theta: 100.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
    };
    Layout::of(&model).unwrap()
}

/// Parameters after steps with these gradients, all alike, from 2.
fn trained(optimizer: impl Into<Optimizer>, lr: f32, gradients: &[f32]) -> Vec<f32> {
    let layout = layout();
    let mut parameters = vec![2.0; layout.len()];
    let mut moments = Moments { mean: vec![0.0; layout.len()], square: vec![0.0; layout.len()] };
    let optimizer = optimizer.into();
    for (step, gradient) in (1..).zip(gradients) {
        let settings = StepSettings { optimizer, lr, step };
        super::step(&layout, &mut parameters, &vec![*gradient; layout.len()], &mut moments, &settings).unwrap();
    }
    parameters
}

fn assert_each(parameters: &[f32], expected: impl Fn(&shoal_learn::TensorInfo) -> f32) {
    for tensor in &layout().tensors {
        let expected = expected(tensor);
        let close = |p: &f32| (p - expected).abs() < 1e-5;
        assert!(parameters[tensor.range()].iter().all(close), "{}: not {expected}", tensor.name);
    }
}

#[test]
fn the_first_step_of_adamw_moves_by_the_rate_and_decays_matrices_only() {
    // With corrected moments m̂ = g and v̂ = g², so the step is the rate, against the gradient's sign.
    let decayed = |decays| if decays { 2.0 * (1.0 - 0.05) + 0.1 } else { 2.0 + 0.1 };
    assert_each(&trained(ADAMW, 0.1, &[-3.0]), |tensor| decayed(tensor.decays()));
}

#[test]
fn momentum_and_the_look_ahead_are_those_computed_by_hand() {
    let sgd = Sgd { lr: 9.0, momentum: 0.5, nesterov: false, weight_decay: 0.0, grad_clip: None };
    // b = 1, then 0.5 + 3 = 3.5.
    assert_each(&trained(Optimizer::Sgd(sgd), 0.1, &[1.0, 3.0]), |_| 2.0 - 0.1 - 0.35);
    // 1 + 0.5 · 1, then 3 + 0.5 · 3.5.
    let ahead = Optimizer::Sgd(Sgd { nesterov: true, ..sgd });
    assert_each(&trained(ahead, 0.1, &[1.0, 3.0]), |_| 2.0 - 0.15 - 0.475);
    // Decay is part of a matrix's gradient: 1 + 0.5 · 2.
    let decays = Optimizer::Sgd(Sgd { weight_decay: 0.5, ..sgd });
    assert_each(&trained(decays, 0.1, &[1.0]), |tensor| if tensor.decays() { 1.8 } else { 1.9 });
}

#[test]
fn under_muon_only_hidden_matrices_are_orthogonalised() {
    let muon = Muon {
        lr: 0.2,
        momentum: 0.9,
        nesterov: true,
        scale: MuonScale::Original,
        weight_decay: 0.5,
        adamw_lr: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        grad_clip: None,
    };
    // At half the peak both rates are halved. Embedding and vectors move as under AdamW.
    let parameters = trained(Optimizer::Muon(muon), 0.1, &[-3.0]);
    let adamw = trained(ADAMW, 0.05, &[-3.0]);
    for tensor in &layout().tensors {
        let range = tensor.range();
        match tensor.hidden_matrix() {
            None => assert_eq!(parameters[range.clone()], adamw[range], "{}", tensor.name),
            // A matrix of equal values has one singular value; the five steps take it from 1 to about 0.70.
            Some((rows, columns)) => {
                let singular = f64::from(parameters[range.start] - 2.0 * (1.0 - 0.05)) / 0.1;
                let singular =
                    singular * ((rows * columns) as f64).sqrt() / f64::from(MuonScale::Original.factor(rows, columns));
                let expected = (0..5).fold(1.0_f64, |x, _| 3.4445 * x - 4.7750 * x.powi(3) + 2.0315 * x.powi(5));
                assert!((singular - expected).abs() < 1e-4, "{}: {singular} is not {expected}", tensor.name);
            }
        }
    }
}

/// f64, by the definition.
fn orthogonal_twin(x: &[f32], rows: usize, columns: usize) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    for x in &mut x {
        *x /= norm;
    }
    let [a, b, c] = shoal_learn::engine::NEWTON_SCHULZ.coefficients.map(f64::from);
    let product = |left: &[f64], right: &[f64], inner: usize| {
        let columns = right.len() / inner;
        let dot = |i: usize, j: usize| (0..inner).map(|k| left[i * inner + k] * right[k * columns + j]).sum();
        let each = |i| (0..columns).map(move |j| dot(i, j));
        (0..left.len() / inner).flat_map(each).collect::<Vec<f64>>()
    };
    for _ in 0..5 {
        let transposed: Vec<f64> =
            (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j)).map(|i| x[i]).collect();
        let gram = product(&x, &transposed, columns);
        let square = product(&gram, &gram, rows);
        let polynomial: Vec<f64> = gram.iter().zip(&square).map(|(gram, square)| b * gram + c * square).collect();
        let next = product(&polynomial, &x, rows);
        x = x.iter().zip(&next).map(|(x, next)| a * x + next).collect();
    }
    x
}

#[test]
fn newton_schulz_is_its_twin_in_f64_and_brings_singular_values_near_one() {
    for (rows, columns) in [(1, 1), (1, 7), (7, 1), (16, 16), (12, 40), (40, 12), (33, 65)] {
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let x: Vec<f32> = (0..rows * columns).map(|_| noise()).collect();
        let got = muon::orthogonal(x.clone(), rows, columns).unwrap();
        for (got, expected) in got.iter().zip(orthogonal_twin(&x, rows, columns)) {
            assert!((f64::from(*got) - expected).abs() < 1e-4, "{rows} × {columns}: {got} is not {expected}");
        }
        // All singular values about one: the squares of a matrix's values sum to as many.
        let squares = got.iter().map(|x| x * x).sum::<f32>() / rows.min(columns) as f32;
        assert!((0.4..1.5).contains(&squares), "{rows} × {columns}: {squares}");
    }
    assert!(muon::orthogonal(vec![0.0; 6], 2, 3).unwrap().iter().all(|x| *x == 0.0));
}

#[test]
fn clipping_shortens_only_what_is_too_long() {
    let mut long = [3.0, 4.0];
    clip(&mut long, 1.0);
    assert!((long[0] - 0.6).abs() < 1e-6 && (long[1] - 0.8).abs() < 1e-6);
    let mut short = [0.3, 0.4];
    clip(&mut short, 1.0);
    assert_eq!(short.map(f32::to_bits), [0.3, 0.4].map(f32::to_bits));
}
