//! Networks for tables and images: one definition, from which both engines, the parameters' layout, the first weights and
//! the cost follow.
//!
//! A [`Net`] is a chain of layers, as in PyTorch's `nn.Sequential`, whose names and shapes its parameters have. Images are
//! [channels, height, width], row-major. The norm is group normalisation (Wu and He, arXiv 1803.08494), which with one
//! group is layer normalisation: unlike batch normalisation it treats each example on its own, so there are no running
//! statistics that peers would have to average, and an example's output does not depend on its batch.

mod check;
mod engine;
mod init;
mod presets;
mod report;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use check::{Checked, NetError, Node};
pub use engine::{Examples, NetEngine, Targets, mean_loss};
pub use report::Report;

/// A network, as it is written down. [`Self::check`] says what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    pub input: Shape,
    pub layers: Vec<Layer>,
    pub loss: Loss,
}

/// What one example is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A row of so many features.
    Flat(u32),
    Image {
        channels: u32,
        height: u32,
        width: u32,
    },
}

impl Shape {
    /// Values of one example. Only after [`Net::check`] is it known to fit 32 bits.
    pub fn values(self) -> u64 {
        match self {
            Self::Flat(width) => width.into(),
            Self::Image { channels, height, width } => {
                [height, width].iter().fold(channels.into(), |all, side| u64::from(*side).saturating_mul(all))
            }
        }
    }

    /// Channels of an image; features of a row, each a channel with one place.
    pub fn channels(self) -> u32 {
        match self {
            Self::Flat(width) => width,
            Self::Image { channels, .. } => channels,
        }
    }

    /// Places in each channel.
    pub fn places(self) -> u64 {
        match self {
            Self::Flat(_) => 1,
            Self::Image { height, width, .. } => u64::from(height) * u64::from(width),
        }
    }
}

/// One layer; in JSON `{"linear": {"outputs": 10}}`, and `"flatten"` where there is nothing to say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// y = W x + b, with W of shape [outputs, inputs].
    Linear { outputs: u32 },
    /// Cross-correlation with zero padding, and a bias; W has shape [outputs, channels, kernel, kernel].
    Conv2d { outputs: u32, kernel: u32, stride: u32, padding: u32 },
    /// The largest of each square window; where several are equal, the gradient goes to the first.
    MaxPool2d { size: u32, stride: u32 },
    /// The mean of each square window.
    AvgPool2d { size: u32, stride: u32 },
    /// (x − mean) / √(variance + eps) over each group of neighbouring channels, then a scale and a shift a channel.
    GroupNorm { groups: u32, eps: f32 },
    /// A function of each value.
    Activation(Activation),
    /// An image becomes a row: channel by channel, as in PyTorch.
    Flatten,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// x σ(x)
    Silu,
    /// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks and Gimpel, arXiv 1606.08415)
    Gelu,
    Tanh,
}

/// What training lowers: a mean over the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// −log softmax(output)[class], in nats; an output for each class.
    CrossEntropy,
    /// −log σ(±output) of the right sign, in nats, mean over outputs; targets are 0 or 1.
    Binary,
    /// (output − target)², mean over outputs.
    MeanSquared,
}
