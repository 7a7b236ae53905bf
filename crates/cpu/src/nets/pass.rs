//! Forward and backward pass through a network's layers.

use shoal_learn::EngineError;
use shoal_learn::nets::{Checked, Layer, Node};

use super::windows::{Windows, transposed};
use super::{norm, pointwise};
use crate::matrix::{Matrix, Values, multiply};
use crate::pointwise::add;

/// Outputs, and what each layer was given, where that is asked for.
pub fn forward(
    net: &Checked,
    parameters: &Values,
    input: Values,
    keeps: bool,
) -> Result<(Values, Vec<Values>), EngineError> {
    let mut tape = Vec::new();
    let mut x = input;
    for node in &net.nodes {
        let y = layer_forward(node, parameters, &x)?;
        let given = core::mem::replace(&mut x, y);
        if keeps {
            tape.push(given);
        }
    }
    Ok((x, tape))
}

/// Adds the gradient of all parameters, from that of the outputs.
pub fn backward(
    net: &Checked,
    parameters: &Values,
    tape: Vec<Values>,
    outputs: Values,
    gradient: &mut [f32],
) -> Result<(), EngineError> {
    let mut dy = outputs;
    for (index, (node, x)) in net.nodes.iter().zip(tape).enumerate().rev() {
        weight_gradient(node, &x, &dy, gradient)?;
        if index > 0 {
            dy = input_gradient(node, parameters, &x, dy)?;
        }
    }
    Ok(())
}

/// A linear layer's or convolution's weight: [outputs, inputs of one output].
fn weight<'a>(node: &Node, parameters: &'a Values) -> Matrix<'a> {
    let outputs = node.output.channels() as usize;
    parameters.matrix_at(node.weight.start, outputs, node.weight.len() / outputs)
}

fn layer_forward(node: &Node, parameters: &Values, x: &Values) -> Result<Values, EngineError> {
    let flat = parameters.as_slice();
    let (scale, bias) = (&flat[node.weight.clone()], &flat[node.bias.clone()]);
    let channels = node.input.channels() as usize;
    let shift = |mut y: Values| {
        y.as_mut_slice().chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
        y
    };
    match node.layer {
        Layer::Linear { .. } => Ok(shift(multiply(x.matrix(channels), weight(node, parameters).t())?)),
        Layer::Conv2d { kernel, stride, padding, .. } => {
            let windows = Windows::new(node, kernel, stride, padding)?;
            let spread = Values::from(windows.spread(x.as_slice()));
            Ok(shift(multiply(spread.matrix(windows.width()), weight(node, parameters).t())?))
        }
        Layer::MaxPool2d { size, stride } => Ok(Windows::new(node, size, stride, 0)?.largest(x.as_slice()).into()),
        Layer::AvgPool2d { size, stride } => Ok(Windows::new(node, size, stride, 0)?.mean(x.as_slice()).into()),
        Layer::GroupNorm { groups, eps } => {
            let groups = norm::Groups::new(node.input, groups, eps);
            Ok(groups.forward(x.as_slice(), scale, bias).into())
        }
        Layer::Activation(kind) => {
            Ok(x.as_slice().iter().map(|x| pointwise::value(kind, *x)).collect::<Vec<_>>().into())
        }
        Layer::Flatten => Ok(transposed(x.as_slice(), node.input.places() as usize, channels).into()),
    }
}

fn weight_gradient(node: &Node, x: &Values, dy: &Values, gradient: &mut [f32]) -> Result<(), EngineError> {
    let outputs = node.output.channels() as usize;
    match node.layer {
        Layer::Linear { .. } => {
            let product = multiply(dy.matrix(outputs).t(), x.matrix(node.input.channels() as usize))?;
            add(&mut gradient[node.weight.clone()], product.as_slice());
        }
        Layer::Conv2d { kernel, stride, padding, .. } => {
            let windows = Windows::new(node, kernel, stride, padding)?;
            let spread = Values::from(windows.spread(x.as_slice()));
            let product = multiply(dy.matrix(outputs).t(), spread.matrix(windows.width()))?;
            add(&mut gradient[node.weight.clone()], product.as_slice());
        }
        Layer::GroupNorm { groups, eps } => {
            let groups = norm::Groups::new(node.input, groups, eps);
            groups.scale_gradient(x.as_slice(), dy.as_slice(), &mut gradient[node.weight.clone()]);
        }
        _ => return Ok(()),
    }
    let bias = &mut gradient[node.bias.clone()];
    dy.as_slice().chunks_exact(outputs).for_each(|row| add(bias, row));
    Ok(())
}

/// The gradient of a layer's input.
fn input_gradient(node: &Node, parameters: &Values, x: &Values, dy: Values) -> Result<Values, EngineError> {
    let (channels, outputs) = (node.input.channels() as usize, node.output.channels() as usize);
    match node.layer {
        Layer::Linear { .. } => multiply(dy.matrix(outputs), weight(node, parameters)),
        Layer::Conv2d { kernel, stride, padding, .. } => {
            let spread = multiply(dy.matrix(outputs), weight(node, parameters))?;
            Ok(Windows::new(node, kernel, stride, padding)?.gather(spread.as_slice()).into())
        }
        Layer::MaxPool2d { size, stride } => {
            Ok(Windows::new(node, size, stride, 0)?.largest_backward(x.as_slice(), dy.as_slice()).into())
        }
        Layer::AvgPool2d { size, stride } => {
            Ok(Windows::new(node, size, stride, 0)?.mean_backward(dy.as_slice()).into())
        }
        Layer::GroupNorm { groups, eps } => {
            let scale = &parameters.as_slice()[node.weight.clone()];
            Ok(norm::Groups::new(node.input, groups, eps).backward(x.as_slice(), scale, dy.as_slice()).into())
        }
        Layer::Activation(kind) => {
            let mut dx = dy.into_vec();
            dx.iter_mut().zip(x.as_slice()).for_each(|(dx, x)| *dx *= pointwise::slope(kind, *x));
            Ok(dx.into())
        }
        Layer::Flatten => Ok(transposed(dy.as_slice(), channels, node.input.places() as usize).into()),
    }
}
