//! How fast plain products of square matrices are, in the kernel that a plan would use for them here.

use core::str::FromStr;

use shoal_learn::EngineError;
use shoal_wire::manifest::{ModelSpec, RopeScaling};
use web_time::Instant;

use crate::{
    device::Gpu,
    forms::Op,
    pipelines::Pipelines,
    shape::Shape,
    tune::{self, Bench},
};

/// Work that is submitted at once takes about this long at most.
const SUBMIT_MS: f64 = 100.0;
/// Sizes whose buffers every device can bind.
const SIZE_MAX: u32 = 4096;

/// Which of the two factors is read transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GemmForm {
    /// `a·b`
    Nn,
    /// `a·bᵀ`
    Nt,
    /// `aᵀ·b`
    Tn,
}

impl GemmForm {
    pub const ALL: [Self; 3] = [Self::Nn, Self::Nt, Self::Tn];

    fn op(self) -> Op {
        match self {
            Self::Nn => Op::Nn,
            Self::Nt => Op::Nt,
            Self::Tn => Op::Tn,
        }
    }
}

impl FromStr for GemmForm {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        match text {
            "nn" => Ok(Self::Nn),
            "nt" => Ok(Self::Nt),
            "tn" => Ok(Self::Tn),
            _ => Err(EngineError::Unsupported(format!("the form {text:?} of a product is none of nn, nt and tn"))),
        }
    }
}

/// What one form of product reaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GemmRate {
    /// 10⁹ additions and multiplications a second.
    pub gflops: f64,
    pub kernel: &'static str,
}

/// A device for products.
#[derive(Debug)]
pub struct GemmBench {
    gpu: Gpu,
    pipelines: Pipelines,
}

impl GemmBench {
    pub async fn open() -> Result<Self, EngineError> {
        let gpu = Gpu::open().await?;
        // Products know nothing of heads.
        let pipelines = Pipelines::new(&gpu.device, 32);
        Ok(Self { gpu, pipelines })
    }

    pub fn adapter_name(&self) -> &str {
        &self.gpu.name
    }

    /// Whether the processor plays the graphics card.
    pub fn is_software(&self) -> bool {
        self.gpu.traits.software
    }

    /// Multiplies matrices of `size` × `size` for about `ms` milliseconds, after their product was found right.
    pub async fn rate(&mut self, form: GemmForm, size: u32, ms: f64) -> Result<GemmRate, EngineError> {
        if size == 0 || size > SIZE_MAX {
            return Err(EngineError::Unsupported(format!("matrices have 1 to {SIZE_MAX} rows, not {size}")));
        }
        let op = form.op();
        let shape = Shape::of(&square(size), 1, size as usize)?;
        let candidates = op.candidates(shape, self.gpu.traits);
        let kernel = tune::fastest_of(&self.gpu, op, &candidates, tune::trial(op, shape), &mut self.pipelines).await?;
        let bench = Bench::new(&self.gpu, tune::product(op, [size; 3]), self.pipelines.layout());
        let pipeline = self.pipelines.get(&self.gpu.device, kernel)?;
        let grid = tune::grid(kernel, &bench.trial, op);
        let written = bench.result(pipeline, grid).await?;
        let apart = Factors::of(form, size as usize, &bench).apart(&written);
        // Rounding grows with the square root of a sum's length, in each value and again in the sum over a row.
        if apart.is_nan() || apart > 1e-5 * f64::from(size) {
            return Err(EngineError::Failed(format!("{} is {apart:.1e} apart from the product", kernel.name())));
        }

        let (mut repeats, mut done, started) = (1, 0, Instant::now());
        let elapsed = loop {
            bench.run(pipeline, grid, repeats);
            self.gpu.finished().await?;
            done += repeats;
            let elapsed = started.elapsed().as_secs_f64() * 1e3;
            if elapsed >= ms {
                break elapsed;
            }
            repeats = (SUBMIT_MS.min(ms - elapsed) * f64::from(done) / elapsed).clamp(1.0, 1e5) as u32;
        };
        Ok(GemmRate { gflops: 2.0 * f64::from(size).powi(3) * f64::from(done) / elapsed / 1e6, kernel: kernel.name() })
    }
}

/// A model all of whose products are square.
fn square(size: u32) -> ModelSpec {
    ModelSpec {
        vocab_size: size,
        hidden_size: size,
        intermediate_size: size,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        max_position_embeddings: size,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: false,
    }
}

/// The factors as they lie in a trial's buffers, and where their product is.
struct Factors<'a> {
    form: GemmForm,
    size: usize,
    left: &'a [f32],
    right: &'a [f32],
}

impl<'a> Factors<'a> {
    fn of(form: GemmForm, size: usize, bench: &'a Bench<'_>) -> Self {
        let (first, second) = bench.noise.split_at(size * size);
        let (left, right) = match form {
            GemmForm::Nn | GemmForm::Nt => (first, &bench.params[..]),
            GemmForm::Tn => (&second[..size * size], first),
        };
        Self { form, size, left, right }
    }

    /// The largest difference between `c·x` and `a·(b·x)` for a vector of signs, which a wrong value anywhere in the
    /// product changes (Freivalds 1977).
    fn apart(&self, written: &[Vec<f32>]) -> f64 {
        let size = self.size;
        let product = match self.form {
            GemmForm::Tn => &written[0][..],
            _ => &written[0][size * size..],
        };
        let signs: Vec<f64> = (0..size).map(|i| if (i * i / 3 + i / 7) % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let got = apply(product, false, &signs);
        let middle = apply(self.right, self.form == GemmForm::Nt, &signs);
        let expected = apply(self.left, self.form == GemmForm::Tn, &middle);
        // A maximum would pass over what is no number.
        got.iter()
            .zip(&expected)
            .map(|(got, expected)| (got - expected).abs())
            .fold(0.0, |most, apart| if apart > most || apart.is_nan() { apart } else { most })
    }
}

/// A square matrix, or its transpose, times a vector.
fn apply(matrix: &[f32], transposed: bool, x: &[f64]) -> Vec<f64> {
    let rows = matrix.chunks_exact(x.len());
    if !transposed {
        return rows.map(|row| row.iter().zip(x).map(|(a, x)| f64::from(*a) * x).sum()).collect();
    }
    let mut y = vec![0.0; x.len()];
    for (row, x) in rows.zip(x) {
        for (y, a) in y.iter_mut().zip(row) {
            *y += f64::from(*a) * x;
        }
    }
    y
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use pollster::block_on;

    use super::*;

    #[test]
    fn every_form_multiplies_right_at_sizes_of_vectors_and_at_odd_ones() {
        let mut bench = block_on(GemmBench::open()).unwrap();
        for form in GemmForm::ALL {
            for size in [1, 33, 68] {
                let rate = block_on(bench.rate(form, size, 1.0)).unwrap();
                assert!(rate.gflops > 0.0, "{form:?} {size}: {rate:?}");
            }
        }
        assert!(block_on(bench.rate(GemmForm::Nn, 0, 1.0)).is_err());
    }

    #[test]
    fn one_wrong_value_of_a_product_is_seen() {
        // [[1, 2], [3, 4]]ᵀ · [[5, 6], [7, 8]]
        let factors =
            Factors { form: GemmForm::Tn, size: 2, left: &[1.0, 2.0, 3.0, 4.0], right: &[5.0, 6.0, 7.0, 8.0] };
        assert_eq!(factors.apart(&[vec![26.0, 30.0, 38.0, 44.0]]), 0.0);
        assert_eq!(factors.apart(&[vec![26.0, 30.0, 38.5, 44.0]]), 0.5);
        assert!(factors.apart(&[vec![26.0, f32::NAN, 38.0, 44.0]]).is_nan());
    }
}
