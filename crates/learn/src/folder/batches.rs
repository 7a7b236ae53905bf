//! Prepared batches of tokens.

use safetensors::Dtype;

use super::FolderError;
use super::weights::{open, tensor, words};

/// Reads prepared batches: tokens, and their shape [batches, batch, context + 1].
pub fn parse_batches(bytes: &[u8], vocab: u32) -> Result<(Vec<u32>, [usize; 3]), FolderError> {
    let file = open(bytes)?;
    let name = || "tokens".to_owned();
    let view = tensor(&file, "tokens")?;
    if view.dtype() != Dtype::I32 {
        return Err(FolderError::Type { name: name(), got: view.dtype(), only: "int32" });
    }
    let Some((batches, batch, row)) = three(view.shape()) else {
        let expected = "[batches, batch, context + 1], none empty".to_owned();
        return Err(FolderError::Shape { name: name(), got: view.shape().to_vec(), expected });
    };
    let token = |bytes| {
        let token = i32::from_le_bytes(bytes);
        u32::try_from(token).ok().filter(|token| *token < vocab).ok_or(FolderError::Token { token, vocab })
    };
    Ok((words(view.data()).map(token).collect::<Result<_, _>>()?, [batches, batch, row]))
}

/// A shape of three axes with at least one row of two tokens.
fn three(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match *shape {
        [batches, batch, row] if batches > 0 && batch > 0 && row > 1 => Some((batches, batch, row)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::folder::weights::tests::file;

    #[test]
    fn batches_keep_their_shape_and_tokens_stay_in_the_vocabulary() {
        let tokens = |values: &[i32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let good = file("tokens", Dtype::I32, &[1, 2, 3], &tokens(&[1, 2, 3, 4, 5, 6]));
        assert_eq!(parse_batches(&good, 7).unwrap(), (vec![1, 2, 3, 4, 5, 6], [1, 2, 3]));
        assert!(matches!(parse_batches(&good, 6), Err(FolderError::Token { token: 6, vocab: 6 })));
        for shape in [&[6][..], &[0, 2, 3], &[1, 0, 3], &[2, 3, 1]] {
            let size = shape.iter().product::<usize>() * 4;
            let bad = file("tokens", Dtype::I32, shape, &vec![0; size]);
            assert!(matches!(parse_batches(&bad, 7), Err(FolderError::Shape { .. })), "{shape:?}");
        }
    }
}
