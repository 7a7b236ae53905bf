//! Activations and their slopes.

use shoal_learn::nets::Activation;

/// √(2/π)
const GELU_RATE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

pub fn value(kind: Activation, x: f32) -> f32 {
    match kind {
        // A value that is not a number stays one.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => 0.5 * x * (1.0 + (GELU_RATE * (x + GELU_CUBIC * x * x * x)).tanh()),
        Activation::Tanh => x.tanh(),
    }
}

pub fn slope(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::Relu => f32::from(x > 0.0),
        Activation::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
        Activation::Gelu => {
            let t = (GELU_RATE * (x + GELU_CUBIC * x * x * x)).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_RATE * (1.0 + 3.0 * GELU_CUBIC * x * x)
        }
        Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
    }
}

pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
