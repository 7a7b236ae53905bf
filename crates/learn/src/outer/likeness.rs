//! How alike updates are: what tells a copy from work of one's own.

use shoal_wire::manifest::Codec;

use super::{UpdateError, update::Decoder};
use crate::Layout;

/// How alike two updates are. In floating point: peers need not agree on it, each auditor signs its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likeness {
    /// Cosine of the angle between them, -1 to 1; 0 where one of them is all zeros.
    pub cosine: f64,
    /// Of the values that either sends, how many both send, 0 to 1. In `dense4` every value that is not zero is sent.
    pub overlap: f64,
}

/// Compares an update with others of the same model. `None` for another that does not decode: nobody can have copied it.
pub fn likeness(
    layout: &Layout,
    codec: Codec,
    subject: &[u8],
    others: &[&[u8]],
) -> Result<Vec<Option<Likeness>>, UpdateError> {
    let mut decoder = Decoder::new(codec, subject)?;
    let mut compared: Vec<Option<(Decoder<'_>, Sums)>> =
        others.iter().map(|bytes| Some((Decoder::new(codec, bytes).ok()?, Sums::default()))).collect();
    let (mut values, mut theirs) = (Vec::new(), Vec::new());
    for tensor in &layout.tensors {
        decoder.tensor(tensor.len(), &mut values)?;
        for other in &mut compared {
            let Some((decoder, sums)) = other else { continue };
            if decoder.tensor(tensor.len(), &mut theirs).is_ok() {
                sums.add(&values, &theirs);
            } else {
                *other = None;
            }
        }
    }
    decoder.finish()?;
    let whole = |(decoder, sums): (Decoder<'_>, Sums)| decoder.finish().is_ok().then(|| sums.likeness());
    Ok(compared.into_iter().map(|other| other.and_then(whole)).collect())
}

#[derive(Debug, Default)]
struct Sums {
    product: f64,
    squares: [f64; 2],
    both: u64,
    either: u64,
}

impl Sums {
    fn add(&mut self, values: &[i64], theirs: &[i64]) {
        for (value, other) in values.iter().zip(theirs) {
            let (a, b) = (*value as f64, *other as f64);
            self.product += a * b;
            self.squares[0] += a * a;
            self.squares[1] += b * b;
            self.both += u64::from(*value != 0 && *other != 0);
            self.either += u64::from(*value != 0 || *other != 0);
        }
    }

    fn likeness(&self) -> Likeness {
        let norms = self.squares[0].sqrt() * self.squares[1].sqrt();
        let cosine = if norms > 0.0 { (self.product / norms).clamp(-1.0, 1.0) } else { 0.0 };
        let overlap = if self.either > 0 { self.both as f64 / self.either as f64 } else { 0.0 };
        Likeness { cosine, overlap }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;
    use crate::{outer::update, presets::Preset};

    const CODECS: [Codec; 2] = [Codec::Dense4, Codec::Topk];

    fn layout() -> Layout {
        Layout::of(&Preset::Tiny.model()).unwrap()
    }

    /// Values that are neither small nor large, and that have nothing to do with those of another seed.
    fn values(seed: u64) -> Vec<i64> {
        let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut word = [0; 4];
        let mut value = |_| {
            stream.fill(&mut word);
            i64::from(i32::from_le_bytes(word))
        };
        (0..layout().len()).map(&mut value).collect()
    }

    fn bytes(codec: Codec, values: &[i64]) -> Vec<u8> {
        update::encode(&layout(), codec, values)
    }

    #[test]
    fn an_update_is_like_itself_unlike_its_opposite_and_neither_with_nothing() {
        for codec in CODECS {
            let update = bytes(codec, &values(1));
            let opposite = bytes(codec, &values(1).iter().map(|value| -value).collect::<Vec<_>>());
            let nothing = bytes(codec, &vec![0; layout().len()]);
            let others = [&update[..], &opposite, &nothing];
            let found = likeness(&layout(), codec, &update, &others).unwrap();
            let rounded = |of: &Option<Likeness>| of.map(|of| ((of.cosine * 1e9).round() / 1e9, of.overlap));
            let expected = [Some((1.0, 1.0)), Some((-1.0, 1.0)), Some((0.0, 0.0))];
            assert_eq!(found.iter().map(rounded).collect::<Vec<_>>(), expected, "{codec:?}");
            assert_eq!(likeness(&layout(), codec, &nothing, &[&update[..]]).unwrap()[0].unwrap().cosine, 0.0);
        }
    }

    #[test]
    fn unrelated_updates_are_little_alike() {
        for codec in CODECS {
            let (one, two) = (bytes(codec, &values(1)), bytes(codec, &values(2)));
            let found = likeness(&layout(), codec, &one, &[&two[..]]).unwrap()[0].unwrap();
            assert!(found.cosine.abs() < 0.1, "{codec:?}: {found:?}");
            assert!(codec == Codec::Dense4 || found.overlap < 0.1, "{found:?}");
        }
    }

    #[test]
    fn a_torn_subject_is_an_error_and_a_torn_other_is_like_nothing() {
        for codec in CODECS {
            let update = bytes(codec, &values(1));
            let torn = &update[..update.len() - 9];
            assert!(likeness(&layout(), codec, torn, &[&update[..]]).is_err());
            let found = likeness(&layout(), codec, &update, &[torn, b"", &update[..]]).unwrap();
            assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true], "{codec:?}");
        }
    }
}
