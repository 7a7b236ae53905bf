//! What a network means: shapes between layers, where parameters lie, and what it all costs.

use core::ops::Range;

use thiserror::Error;

use super::{Layer, Loss, Net, Shape};
use crate::{Layout, layout::PARAMETERS_MAX};

const LAYERS_MAX: usize = 256;
/// Features, channels and sides of images and windows.
pub(super) const SIZE_MAX: u32 = 1 << 16;
/// Values that one example has between two layers.
const VALUES_MAX: u64 = 1 << 26;

#[derive(Clone, Debug, Error, PartialEq)]
pub enum NetError {
    #[error("{field} must be between {least} and {limit}, and is {value}")]
    OutOfRange { field: String, value: u64, least: u64, limit: u64 },
    #[error("{field} must be a finite number above 0, and is {value}")]
    NotPositive { field: String, value: f32 },
    #[error("{field} takes {takes}, and gets {gets:?}")]
    Input { field: String, takes: &'static str, gets: Shape },
    #[error("{field} {groups} does not divide {channels} channels")]
    Groups { field: String, groups: u32, channels: u32 },
    #[error("the loss needs a row of outputs, and the last layer gives {gets:?}: `flatten` it")]
    Output { gets: Shape },
    #[error("no layer has parameters: there is nothing to train")]
    Nothing,
    #[error("cross-entropy needs at least 2 outputs")]
    Classes,
    #[error("the network has {parameters} parameters, and at most {PARAMETERS_MAX} are supported")]
    TooLarge { parameters: u64 },
}

/// A layer in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub layer: Layer,
    pub input: Shape,
    pub output: Shape,
    /// Where its weight and its bias (or scale and shift) are in the flat parameter vector; empty where it has none.
    pub weight: Range<usize>,
    pub bias: Range<usize>,
}

/// A network that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    pub input: Shape,
    pub loss: Loss,
    pub nodes: Vec<Node>,
    pub layout: Layout,
    /// Outputs of one example.
    pub outputs: usize,
}

impl Net {
    /// Checks every field, and works out shapes and the layout of the parameters: `0.weight`, `0.bias` for the first layer
    /// and so on, as `nn.Sequential` names them.
    pub fn check(&self) -> Result<Checked, NetError> {
        in_range("layers", self.layers.len() as u64, 1, LAYERS_MAX as u64)?;
        check_shape("input", self.input)?;
        let mut shapes = vec![self.input];
        let mut named = Vec::new();
        let mut parameters = 0_u64;
        for (index, layer) in self.layers.iter().enumerate() {
            let input = shapes[index];
            let at = Field(index);
            let output = at.output(*layer, input)?;
            check_shape(&at.name("output"), output)?;
            for (part, shape) in tensors(*layer, input) {
                let values = shape.iter().fold(1_u64, |all, side| all.saturating_mul(u64::from(*side)));
                parameters = values.saturating_add(parameters);
                named.push((format!("{index}.{part}"), shape.iter().map(|side| *side as usize).collect()));
            }
            if parameters > PARAMETERS_MAX {
                return Err(NetError::TooLarge { parameters });
            }
            shapes.push(output);
        }
        if parameters == 0 {
            return Err(NetError::Nothing);
        }
        let outputs = match shapes[self.layers.len()] {
            Shape::Flat(1) if self.loss == Loss::CrossEntropy => return Err(NetError::Classes),
            Shape::Flat(outputs) => outputs as usize,
            gets @ Shape::Image { .. } => return Err(NetError::Output { gets }),
        };
        let layout = Layout::named(named);
        let range =
            |index: usize, part: &str| layout.find(&format!("{index}.{part}")).map_or(0..0, crate::TensorInfo::range);
        let node = |(index, layer): (usize, &Layer)| Node {
            layer: *layer,
            input: shapes[index],
            output: shapes[index + 1],
            weight: range(index, "weight"),
            bias: range(index, "bias"),
        };
        let nodes = self.layers.iter().enumerate().map(node).collect();
        Ok(Checked { input: self.input, loss: self.loss, nodes, layout, outputs })
    }
}

impl Checked {
    /// Floating-point operations of the matrix products of one training step on one example: forward, and twice that
    /// backward (the first layer's input needs no gradient).
    pub fn training_flops(&self) -> u64 {
        let products = self.nodes.iter().map(Node::products).enumerate();
        products.map(|(index, flops)| flops * if index == 0 { 2 } else { 3 }).sum()
    }

    /// Values that one example has between layers, which training keeps.
    pub fn activation_values(&self) -> u64 {
        self.input.values() + self.nodes.iter().map(|node| node.output.values()).sum::<u64>()
    }

    /// The most values of one example that a convolution spreads out to be a matrix product.
    pub fn column_values(&self) -> u64 {
        self.nodes.iter().map(|node| node.column_values().unwrap_or(0)).max().unwrap_or(0)
    }

    /// Bytes that training on batches of this many examples takes: parameters with gradient and two moments, what lies
    /// between layers with its gradient, and convolutions' inputs spread out.
    pub fn training_bytes(&self, batch: usize) -> u64 {
        let rows = batch as u64;
        let values = self.activation_values().saturating_mul(2).saturating_add(self.column_values().saturating_mul(2));
        (self.layout.len() as u64 * 4).saturating_add(values.saturating_mul(rows)).saturating_mul(4)
    }
}

impl Node {
    /// Floating-point operations of the forward pass's matrix product on one example.
    fn products(&self) -> u64 {
        match self.layer {
            Layer::Linear { .. } | Layer::Conv2d { .. } => 2 * self.weight.len() as u64 * self.output.places(),
            _ => 0,
        }
    }

    /// Values of one example when each window of a convolution is a row: [places of the output, channels · kernel²].
    fn column_values(&self) -> Option<u64> {
        let Layer::Conv2d { outputs, .. } = self.layer else { return None };
        Some(self.output.places() * (self.weight.len() as u64 / u64::from(outputs)))
    }
}

/// Names and shapes of a layer's parameters. Only for a layer that fits its input.
fn tensors(layer: Layer, input: Shape) -> Vec<(&'static str, Vec<u32>)> {
    match layer {
        Layer::Linear { outputs } => vec![("weight", vec![outputs, input.channels()]), ("bias", vec![outputs])],
        Layer::Conv2d { outputs, kernel, .. } => {
            vec![("weight", vec![outputs, input.channels(), kernel, kernel]), ("bias", vec![outputs])]
        }
        Layer::GroupNorm { .. } => vec![("weight", vec![input.channels()]), ("bias", vec![input.channels()])],
        Layer::MaxPool2d { .. } | Layer::AvgPool2d { .. } | Layer::Activation(_) | Layer::Flatten => vec![],
    }
}

fn in_range(field: &str, value: u64, least: u64, limit: u64) -> Result<(), NetError> {
    if (least..=limit).contains(&value) {
        return Ok(());
    }
    Err(NetError::OutOfRange { field: field.to_owned(), value, least, limit })
}

fn check_shape(field: &str, shape: Shape) -> Result<(), NetError> {
    let sides = match shape {
        Shape::Flat(width) => vec![("", width)],
        Shape::Image { channels, height, width } => {
            vec![(".channels", channels), (".height", height), (".width", width)]
        }
    };
    for (side, value) in sides {
        in_range(&format!("{field}{side}"), value.into(), 1, SIZE_MAX.into())?;
    }
    in_range(&format!("{field}'s size"), shape.values(), 1, VALUES_MAX)
}

/// A layer by its number, for errors.
struct Field(usize);

impl Field {
    fn name(&self, part: &str) -> String {
        format!("layers[{}].{part}", self.0)
    }

    fn size(&self, part: &str, value: u32, least: u32) -> Result<(), NetError> {
        in_range(&self.name(part), value.into(), least.into(), SIZE_MAX.into())
    }

    /// The shape that a layer makes of its input.
    fn output(&self, layer: Layer, input: Shape) -> Result<Shape, NetError> {
        let wrong = |part: &str, takes| NetError::Input { field: self.name(part), takes, gets: input };
        match (layer, input) {
            (Layer::Linear { outputs }, Shape::Flat(_)) => {
                self.size("linear.outputs", outputs, 1).map(|()| Shape::Flat(outputs))
            }
            (Layer::Linear { .. }, Shape::Image { .. }) => Err(wrong("linear", "a row (put `flatten` before it)")),
            (Layer::Conv2d { outputs, kernel, stride, padding }, Shape::Image { height, width, .. }) => {
                self.size("conv2d.outputs", outputs, 1)?;
                self.size("conv2d.kernel", kernel, 1)?;
                // More padding than that would make windows of nothing but zeros.
                in_range(&self.name("conv2d.padding"), padding.into(), 0, u64::from(kernel - 1))?;
                self.windows(
                    "conv2d",
                    [height, width].map(|side| side + 2 * padding),
                    ("kernel", kernel),
                    stride,
                    outputs,
                )
            }
            (
                Layer::MaxPool2d { size, stride } | Layer::AvgPool2d { size, stride },
                Shape::Image { channels, height, width },
            ) => self.windows("pool2d", [height, width], ("size", size), stride, channels),
            (Layer::Conv2d { .. }, Shape::Flat(_)) => Err(wrong("conv2d", "an image")),
            (Layer::MaxPool2d { .. } | Layer::AvgPool2d { .. }, Shape::Flat(_)) => Err(wrong("pool2d", "an image")),
            (Layer::GroupNorm { groups, eps }, _) => {
                self.size("group_norm.groups", groups, 1)?;
                if !(eps.is_finite() && eps > 0.0) {
                    return Err(NetError::NotPositive { field: self.name("group_norm.eps"), value: eps });
                }
                let channels = input.channels();
                if !channels.is_multiple_of(groups) {
                    return Err(NetError::Groups { field: self.name("group_norm.groups"), groups, channels });
                }
                Ok(input)
            }
            (Layer::Activation(_), _) => Ok(input),
            (Layer::Flatten, _) => {
                in_range(&self.name("flatten's outputs"), input.values(), 1, SIZE_MAX.into())?;
                Ok(Shape::Flat(input.values() as u32))
            }
        }
    }

    /// What windows over an image give.
    fn windows(
        &self,
        layer: &str,
        sides: [u32; 2],
        (part, size): (&str, u32),
        stride: u32,
        channels: u32,
    ) -> Result<Shape, NetError> {
        let limit = sides[0].min(sides[1]);
        in_range(&self.name(&format!("{layer}.{part}")), size.into(), 1, limit.into())?;
        self.size(&format!("{layer}.stride"), stride, 1)?;
        let [height, width] = sides.map(|side| (side - size) / stride + 1);
        Ok(Shape::Image { channels, height, width })
    }
}
