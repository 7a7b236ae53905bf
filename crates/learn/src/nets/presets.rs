//! Networks that do well on most tables and small images.

use super::check::SIZE_MAX;
use super::{Activation, Layer, Loss, Net, Shape};

impl Net {
    /// Two hidden layers.
    pub fn mlp(inputs: u32, hidden: u32, outputs: u32, loss: Loss) -> Self {
        let act = Layer::Activation(Activation::Silu);
        let hidden = Layer::Linear { outputs: hidden };
        Self { input: Shape::Flat(inputs), layers: vec![hidden, act, hidden, act, Layer::Linear { outputs }], loss }
    }

    /// Two convolutions, each normalised and pooled, then a hidden layer; images too small for that get only the latter, and
    /// large ones are pooled further.
    pub fn small_cnn(input: Shape, classes: u32) -> Self {
        let act = Layer::Activation(Activation::Relu);
        let conv = |outputs| Layer::Conv2d { outputs, kernel: 3, stride: 1, padding: 1 };
        let norm = Layer::GroupNorm { groups: 4, eps: 1e-5 };
        let pool = Layer::MaxPool2d { size: 2, stride: 2 };
        let mut layers = vec![];
        if let Shape::Image { height, width, .. } = input
            && height.min(width) >= 4
        {
            layers.extend([conv(16), norm, act, pool, conv(32), norm, act, pool]);
            let (mut height, mut width) = (height / 4, width / 4);
            while height.min(width) >= 2 && 32 * u64::from(height) * u64::from(width) > u64::from(SIZE_MAX) {
                layers.push(pool);
                (height, width) = (height / 2, width / 2);
            }
        }
        layers.extend([Layer::Flatten, Layer::Linear { outputs: 64 }, act, Layer::Linear { outputs: classes }]);
        Self { input, layers, loss: Loss::CrossEntropy }
    }
}
