//! Weights in safetensors.

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use shoal_wire::limits::SAFETENSORS_HEADER_BYTES_MAX;

use super::FolderError;
use crate::Layout;

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

/// Reads weights in layout order; half precision is widened.
pub fn parse_weights(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, FolderError> {
    let file = open(bytes)?;
    // A layout may promise more than the file can hold: allocate as tensors are found.
    let mut flat = Vec::new();
    for expected in &layout.tensors {
        let name = || expected.name.clone();
        let view = tensor(&file, &expected.name)?;
        if view.shape() != expected.shape {
            let shape = format!("{:?}", expected.shape);
            return Err(FolderError::Shape { name: name(), got: view.shape().to_vec(), expected: shape });
        }
        let (data, start) = (view.data(), flat.len());
        match view.dtype() {
            Dtype::F32 => flat.extend(words(data).map(f32::from_le_bytes)),
            Dtype::F16 => flat.extend(words(data).map(|word| f16::from_le_bytes(word).to_f32())),
            Dtype::BF16 => flat.extend(words(data).map(|word| bf16::from_le_bytes(word).to_f32())),
            got => return Err(FolderError::Type { name: name(), got, only: "F32, F16 or BF16" }),
        }
        if !flat[start..].iter().all(|value| value.is_finite()) {
            return Err(FolderError::NotFinite(name()));
        }
    }
    Ok(flat)
}

/// A `model.safetensors` of weights in layout order.
pub fn weights_bytes(layout: &Layout, flat: &[f32]) -> Result<Vec<u8>, FolderError> {
    if flat.len() != layout.len() {
        return Err(FolderError::Length { got: flat.len(), expected: layout.len() });
    }
    let bytes: Vec<u8> = flat.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |range: core::ops::Range<usize>, shape: &[usize]| {
        TensorView::new(Dtype::F32, shape.to_vec(), &bytes[range.start * 4..range.end * 4])
    };
    let views: Result<Vec<_>, _> =
        layout.tensors.iter().map(|t| Ok::<_, SafeTensorError>((&t.name, view(t.range(), &t.shape)?))).collect();
    // transformers asks for the format entry.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize(views?, Some(metadata))?)
}

pub(super) fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks().0.iter().copied()
}

#[cfg(test)]
pub(super) mod tests;
