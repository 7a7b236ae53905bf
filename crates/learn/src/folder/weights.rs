//! Weights in safetensors.

use std::borrow::Cow;

use half::{bf16, f16};
use safetensors::tensor::{TensorView, View};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use shoal_wire::limits::SAFETENSORS_HEADER_BYTES_MAX;

use super::FolderError;
use crate::{Layout, TensorInfo};

pub(super) fn open(bytes: &[u8]) -> Result<SafeTensors<'_>, FolderError> {
    if let Some(length) = bytes.first_chunk() {
        let header = u64::from_le_bytes(*length);
        if header > SAFETENSORS_HEADER_BYTES_MAX as u64 {
            return Err(FolderError::Header { bytes: header });
        }
    }
    Ok(SafeTensors::deserialize(bytes)?)
}

pub(super) fn tensor<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, FolderError> {
    file.tensor(name).map_err(|error| match error {
        SafeTensorError::TensorNotFound(name) => FolderError::NoTensor(name),
        other => other.into(),
    })
}

/// Reads weights of one file in layout order; half precision is widened.
pub fn parse_weights(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, FolderError> {
    let mut flat = Vec::new();
    read_tensors(bytes, layout, layout.tensors.iter(), &mut flat)?;
    Ok(flat)
}

/// Reads some of a layout's tensors from one file into the flat vector of all, which is allocated when it is empty.
pub(super) fn read_tensors<'a>(
    bytes: &[u8],
    layout: &Layout,
    wanted: impl Iterator<Item = &'a TensorInfo>,
    flat: &mut Vec<f32>,
) -> Result<(), FolderError> {
    let file = open(bytes)?;
    let found =
        wanted.map(|expected| Ok((expected, find(&file, expected)?))).collect::<Result<Vec<_>, FolderError>>()?;
    // A layout may promise more than the files hold: allocate only after one of them kept its promise.
    if flat.is_empty() {
        let values = layout.len();
        flat.try_reserve_exact(values).map_err(|_| FolderError::OutOfMemory { values })?;
        flat.resize(values, 0.0);
    }
    for (expected, view) in found {
        let values = &mut flat[expected.range()];
        widen(view.dtype(), view.data(), values);
        if !values.iter().all(|value| value.is_finite()) {
            return Err(FolderError::NotFinite(expected.name.clone()));
        }
    }
    Ok(())
}

/// A tensor of the shape that is expected, in a type that is read.
fn find<'a>(file: &SafeTensors<'a>, expected: &TensorInfo) -> Result<TensorView<'a>, FolderError> {
    let view = tensor(file, &expected.name)?;
    let name = || expected.name.clone();
    if view.shape() != expected.shape {
        let shape = format!("{:?}", expected.shape);
        return Err(FolderError::Shape { name: name(), got: view.shape().to_vec(), expected: shape });
    }
    match view.dtype() {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(view),
        got => Err(FolderError::Type { name: name(), got, only: "F32, F16 or BF16" }),
    }
}

fn widen(dtype: Dtype, data: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F16 => out.iter_mut().zip(words(data)).for_each(|(x, word)| *x = f16::from_le_bytes(word).to_f32()),
        Dtype::BF16 => out.iter_mut().zip(words(data)).for_each(|(x, word)| *x = bf16::from_le_bytes(word).to_f32()),
        _ => out.iter_mut().zip(words(data)).for_each(|(x, word)| *x = f32::from_le_bytes(word)),
    }
}

/// A `model.safetensors` of weights in layout order.
pub fn weights_bytes(layout: &Layout, flat: &[f32]) -> Result<Vec<u8>, FolderError> {
    check_length(layout, flat)?;
    tensors_bytes(layout.tensors.iter().map(|tensor| (tensor.name.as_str(), &*tensor.shape, &flat[tensor.range()])))
}

pub(super) fn check_length(layout: &Layout, flat: &[f32]) -> Result<(), FolderError> {
    let (got, expected) = (flat.len(), layout.len());
    if got == expected { Ok(()) } else { Err(FolderError::Length { got, expected }) }
}

/// A safetensors file of f32 tensors: name, shape, values.
pub fn tensors_bytes<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [f32])>,
) -> Result<Vec<u8>, FolderError> {
    struct F32s<'a>(&'a [usize], &'a [f32]);
    impl View for F32s<'_> {
        fn dtype(&self) -> Dtype {
            Dtype::F32
        }
        fn shape(&self) -> &[usize] {
            self.0
        }
        fn data(&self) -> Cow<'_, [u8]> {
            self.1.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        fn data_len(&self) -> usize {
            size_of_val(self.1)
        }
    }
    let views = tensors.map(|(name, shape, values)| (name, F32s(shape, values)));
    // transformers asks for the format entry.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize(views, Some(metadata))?)
}

pub(super) fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks().0.iter().copied()
}

#[cfg(test)]
pub(super) mod tests;
