//! Labelled images from plain formats: IDX, as MNIST comes in, and raw bytes.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::nets::{Examples, Shape, Targets};

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ImageError {
    #[error("{file}: it is not an IDX file of unsigned bytes: it starts with {start:02x?}")]
    NotIdx { file: String, start: Vec<u8> },
    #[error("{file}: it has {got} axes, expected {expected}")]
    Axes { file: String, got: u8, expected: &'static str },
    #[error("{file}: its header says {sizes:?}, which takes {expected} bytes, and {got} follow")]
    Length { file: String, sizes: Vec<u32>, expected: u64, got: u64 },
    #[error("{file}: images of {channels} × {height} × {width} cannot be used")]
    Shape { file: String, channels: u32, height: u32, width: u32 },
    #[error("{file}: {labels} labels for {images} images")]
    Labels { file: String, labels: usize, images: usize },
    #[error("{file}: every label is {label}: there is nothing to tell apart")]
    OneClass { file: String, label: u8 },
    #[error("{file}: it has no images")]
    Empty { file: String },
}

/// Images of one shape, a byte for each value: [images, channels, height, width].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    shape: [u32; 3],
    pixels: Vec<u8>,
}

impl Images {
    /// From an IDX file with axes [images, height, width] or [images, channels, height, width].
    pub fn from_idx(file: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        let (sizes, pixels) = idx(file, bytes)?;
        match *sizes {
            [count, height, width] => Self::from_raw(file, pixels, count, [1, height, width]),
            [count, channels, height, width] => Self::from_raw(file, pixels, count, [channels, height, width]),
            _ => {
                let expected = "images, height and width, and perhaps channels after the images";
                Err(ImageError::Axes { file: file.to_owned(), got: sizes.len() as u8, expected })
            }
        }
    }

    /// From bytes of so many images, [channels, height, width] each.
    pub fn from_raw(file: &str, pixels: &[u8], count: u32, shape: [u32; 3]) -> Result<Self, ImageError> {
        let file = || file.to_owned();
        let sizes = vec![count, shape[0], shape[1], shape[2]];
        let expected = sizes.iter().fold(1_u64, |all, size| all.saturating_mul(u64::from(*size)));
        if pixels.len() as u64 != expected {
            return Err(ImageError::Length { file: file(), sizes, expected, got: pixels.len() as u64 });
        }
        if count == 0 {
            return Err(ImageError::Empty { file: file() });
        }
        let [channels, height, width] = shape;
        if expected == 0 {
            return Err(ImageError::Shape { file: file(), channels, height, width });
        }
        Ok(Self { shape, pixels: pixels.to_vec() })
    }

    pub fn len(&self) -> usize {
        self.pixels.len() / self.values()
    }

    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// What a network for these images takes.
    pub fn shape(&self) -> Shape {
        let [channels, height, width] = self.shape;
        Shape::Image { channels, height, width }
    }

    fn values(&self) -> usize {
        self.shape.iter().map(|side| *side as usize).product()
    }

    fn image(&self, index: usize) -> &[u8] {
        &self.pixels[index * self.values()..][..self.values()]
    }
}

/// A class for each image, a byte each, from an IDX file with one axis.
pub fn labels_from_idx(file: &str, bytes: &[u8], images: usize) -> Result<Vec<u8>, ImageError> {
    let file_name = || file.to_owned();
    let (sizes, labels) = idx(file, bytes)?;
    if sizes.len() != 1 {
        return Err(ImageError::Axes { file: file_name(), got: sizes.len() as u8, expected: "the labels" });
    }
    if labels.len() != images {
        return Err(ImageError::Labels { file: file_name(), labels: labels.len(), images });
    }
    match labels {
        [first, rest @ ..] if rest.iter().any(|label| label != first) => Ok(labels.to_vec()),
        [label, ..] => Err(ImageError::OneClass { file: file_name(), label: *label }),
        [] => Err(ImageError::Empty { file: file_name() }),
    }
}

/// Sizes and content of an IDX file of unsigned bytes: two zeros, the type 8, the number of axes, each axis as a big-endian
/// u32, then the values.
fn idx<'a>(file: &str, bytes: &'a [u8]) -> Result<(Vec<u32>, &'a [u8]), ImageError> {
    let not_idx = || ImageError::NotIdx { file: file.to_owned(), start: bytes[..bytes.len().min(4)].to_vec() };
    let &[0, 0, 8, axes, ref rest @ ..] = bytes else { return Err(not_idx()) };
    let header = usize::from(axes) * 4;
    let (sizes, values) = rest.split_at_checked(header).ok_or_else(not_idx)?;
    let sizes: Vec<u32> = sizes.as_chunks().0.iter().map(|size| u32::from_be_bytes(*size)).collect();
    let expected = sizes.iter().fold(1_u64, |all, size| all.saturating_mul(u64::from(*size)));
    if expected != values.len() as u64 {
        return Err(ImageError::Length { file: file.to_owned(), sizes, expected, got: values.len() as u64 });
    }
    Ok((sizes, values))
}

/// How bytes become features and labels become classes: statistics of what is trained on, to be kept with a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagePreprocessing {
    /// Channels, height and width.
    pub shape: [u32; 3],
    /// Mean and standard deviation of each channel's bytes.
    pub means: Vec<f64>,
    pub deviations: Vec<f64>,
    /// The label of each class.
    pub labels: Vec<u8>,
}

impl ImagePreprocessing {
    /// From the images and labels of these numbers.
    pub fn of(images: &Images, labels: &[u8], rows: &[usize]) -> Self {
        let channels = images.shape[0] as usize;
        let place = images.values() / channels;
        let mut sums = vec![(0_u64, 0_u64); channels];
        let mut found = [false; 256];
        for row in rows {
            found[usize::from(labels[*row])] = true;
            for (channel, (sum, squares)) in images.image(*row).chunks_exact(place).zip(&mut sums) {
                for byte in channel {
                    *sum += u64::from(*byte);
                    *squares += u64::from(*byte) * u64::from(*byte);
                }
            }
        }
        let count = (rows.len() * place).max(1) as f64;
        let means: Vec<f64> = sums.iter().map(|(sum, _)| *sum as f64 / count).collect();
        let deviation = |((_, squares), mean): (&(u64, u64), &f64)| {
            let variance = *squares as f64 / count - mean * mean;
            // A channel that never changes says nothing, whatever it is divided by.
            if variance > 1e-6 { variance.sqrt() } else { 1.0 }
        };
        let deviations = sums.iter().zip(&means).map(deviation).collect();
        let labels = (0..=u8::MAX).filter(|label| found[usize::from(*label)]).collect();
        Self { shape: images.shape, means, deviations, labels }
    }

    /// Examples of these numbers; `None` where an image's shape or a label is another than those that this was made of.
    pub fn examples(&self, images: &Images, labels: &[u8], rows: &[usize]) -> Option<Examples> {
        if images.shape != self.shape {
            return None;
        }
        let place = images.values() / images.shape[0] as usize;
        let mut features = Vec::with_capacity(rows.len() * images.values());
        for row in rows {
            let statistics = self.means.iter().zip(&self.deviations);
            for (channel, (mean, deviation)) in images.image(*row).chunks_exact(place).zip(statistics) {
                features.extend(channel.iter().map(|byte| ((f64::from(*byte) - mean) / deviation) as f32));
            }
        }
        let class = |row: &usize| self.labels.binary_search(&labels[*row]).ok().map(|class| class as u32);
        let classes: Option<Vec<u32>> = rows.iter().map(class).collect();
        Some(Examples { features, targets: Targets::Classes(classes?) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let sizes_bytes = sizes.iter().flat_map(|size| size.to_be_bytes());
        [0, 0, 8, sizes.len() as u8].into_iter().chain(sizes_bytes).chain(values.iter().copied()).collect()
    }

    #[test]
    fn images_are_read_and_become_standard_features() {
        let images = Images::from_idx("i", &file(&[3, 2, 1, 2], &[0, 10, 5, 5, 20, 10, 5, 5, 99, 99, 9, 9])).unwrap();
        assert_eq!(images.shape(), Shape::Image { channels: 2, height: 1, width: 2 });
        let labels = labels_from_idx("l", &file(&[3], &[7, 2, 2]), 3).unwrap();
        let preprocessing = ImagePreprocessing::of(&images, &labels, &[0, 1]);
        assert_eq!((&preprocessing.means[..], &preprocessing.labels[..]), (&[10.0, 5.0][..], &[2, 7][..]));
        let examples = preprocessing.examples(&images, &labels, &[1, 0]).unwrap();
        let root = 2f32.sqrt();
        for (got, expected) in examples.features.iter().zip([root, 0.0, 0.0, 0.0, -root, 0.0, 0.0, 0.0]) {
            assert!((got - expected).abs() < 1e-6);
        }
        assert_eq!(examples.targets, Targets::Classes(vec![0, 1]));
        // A label that nobody trained on.
        assert!(preprocessing.examples(&images, &[7, 2, 3], &[2]).is_none());
        let text = serde_json::to_string(&preprocessing).unwrap();
        assert_eq!(serde_json::from_str::<ImagePreprocessing>(&text).unwrap(), preprocessing);
    }

    #[test]
    fn files_that_lie_about_themselves_are_refused_by_name() {
        let images = |bytes: &[u8]| Images::from_idx("pictures", bytes).unwrap_err().to_string();
        let huge = file(&[u32::MAX, u32::MAX, u32::MAX], &[0; 8]);
        for (error, word) in [
            (images(b"\x1f\x8b\x08\x08"), "[1f, 8b, 08, 08]"),
            (images(b""), "IDX"),
            (images(&[0, 0, 8, 3, 0, 0]), "IDX"),
            (images(&file(&[2, 2, 2], &[0; 7])), "7 follow"),
            (images(&huge), "8 follow"),
            (images(&file(&[4], &[0; 4])), "1 axes"),
            (images(&file(&[0, 2, 2], &[])), "no images"),
            (images(&file(&[2, 0, 2], &[])), "1 × 0 × 2"),
        ] {
            assert!(error.contains(word) && error.contains("pictures"), "{error}");
        }
        let labels = |bytes: &[u8]| labels_from_idx("names", bytes, 2).unwrap_err().to_string();
        for (error, word) in [
            (labels(&file(&[3], &[0, 1, 2])), "3 labels for 2 images"),
            (labels(&file(&[2], &[4, 4])), "every label is 4"),
            (labels(&file(&[2, 1], &[4, 4])), "2 axes"),
        ] {
            assert!(error.contains(word) && error.contains("names"), "{error}");
        }
    }
}
