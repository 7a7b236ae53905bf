//! Square windows over images with channels last: spread out for convolutions, and pooled.

use shoal_learn::EngineError;
use shoal_learn::nets::{Node, Shape};

/// [examples, rows, columns] as [examples, columns, rows].
pub fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    if rows == 1 || columns == 1 {
        return values.to_vec();
    }
    let mut turned = vec![0.0; values.len()];
    for (from, to) in values.chunks_exact(rows * columns).zip(turned.chunks_exact_mut(rows * columns)) {
        for (row, from) in from.chunks_exact(columns).enumerate() {
            from.iter().enumerate().for_each(|(column, value)| to[column * rows + row] = *value);
        }
    }
    turned
}

#[derive(Clone, Copy, Debug)]
pub struct Windows {
    channels: usize,
    /// Height and width.
    sides: [usize; 2],
    out: [usize; 2],
    size: usize,
    stride: usize,
    padding: usize,
}

impl Windows {
    pub fn new(node: &Node, size: u32, stride: u32, padding: u32) -> Result<Self, EngineError> {
        match (node.input, node.output) {
            (Shape::Image { channels, height, width }, Shape::Image { height: high, width: wide, .. }) => Ok(Self {
                channels: channels as usize,
                sides: [height, width].map(|side| side as usize),
                out: [high, wide].map(|side| side as usize),
                size: size as usize,
                stride: stride as usize,
                padding: padding as usize,
            }),
            _ => Err(EngineError::Unsupported("windows are for images".to_owned())),
        }
    }

    /// Values of a window in all channels.
    pub fn width(&self) -> usize {
        self.channels * self.size * self.size
    }

    fn input_values(&self) -> usize {
        self.channels * self.sides[0] * self.sides[1]
    }

    fn output_places(&self) -> usize {
        self.out[0] * self.out[1]
    }

    /// Calls with each window's number, each place in it, and where that place's channels start in the image.
    fn each_place(&self, mut act: impl FnMut(usize, usize, usize)) {
        let inside = |start: usize, step: usize, side: usize| {
            (start * self.stride + step).checked_sub(self.padding).filter(|at| *at < side)
        };
        for window in 0..self.output_places() {
            let (top, left) = (window / self.out[1], window % self.out[1]);
            for place in 0..self.size * self.size {
                let y = inside(top, place / self.size, self.sides[0]);
                let x = inside(left, place % self.size, self.sides[1]);
                if let (Some(y), Some(x)) = (y, x) {
                    act(window, place, (y * self.sides[1] + x) * self.channels);
                }
            }
        }
    }

    fn images<'a>(&self, x: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        x.chunks_exact(self.input_values())
    }

    /// Each window as a row of [channels, size, size], zero where it is outside.
    pub fn spread(&self, x: &[f32]) -> Vec<f32> {
        let (area, width) = (self.size * self.size, self.width());
        let part = self.output_places() * width;
        let mut rows = vec![0.0; x.len() / self.input_values() * part];
        for (image, rows) in self.images(x).zip(rows.chunks_exact_mut(part)) {
            self.each_place(|window, place, at| {
                let row = &mut rows[window * width..][..width];
                let channels = &image[at..at + self.channels];
                channels.iter().enumerate().for_each(|(channel, value)| row[channel * area + place] = *value);
            });
        }
        rows
    }

    /// The sum, for each value of the images, of what stands for it in spread out rows.
    pub fn gather(&self, rows: &[f32]) -> Vec<f32> {
        let (area, width) = (self.size * self.size, self.width());
        let part = self.output_places() * width;
        let mut x = vec![0.0; rows.len() / part * self.input_values()];
        for (image, rows) in x.chunks_exact_mut(self.input_values()).zip(rows.chunks_exact(part)) {
            self.each_place(|window, place, at| {
                let row = &rows[window * width..][..width];
                let channels = image[at..at + self.channels].iter_mut().enumerate();
                channels.for_each(|(channel, value)| *value += row[channel * area + place]);
            });
        }
        x
    }

    /// The largest value of each window, channel by channel.
    pub fn largest(&self, x: &[f32]) -> Vec<f32> {
        self.images(x).flat_map(|image| self.places_of_largest(image).into_iter().map(|at| image[at])).collect()
    }

    /// For each window and channel, where in the image its largest value is: the first of several.
    fn places_of_largest(&self, image: &[f32]) -> Vec<usize> {
        let mut best = vec![usize::MAX; self.output_places() * self.channels];
        self.each_place(|window, _, at| {
            for (channel, best) in best[window * self.channels..][..self.channels].iter_mut().enumerate() {
                // A value that is not a number must not be lost: it is the largest.
                if *best == usize::MAX || image[at + channel] > image[*best] || image[at + channel].is_nan() {
                    *best = at + channel;
                }
            }
        });
        best
    }

    pub fn largest_backward(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        let parts = dx.chunks_exact_mut(self.input_values()).zip(dy.chunks_exact(self.output_places() * self.channels));
        for (image, (dx, dy)) in self.images(x).zip(parts) {
            self.places_of_largest(image).into_iter().zip(dy).for_each(|(at, dy)| dx[at] += dy);
        }
        dx
    }

    /// The mean of each window, channel by channel.
    pub fn mean(&self, x: &[f32]) -> Vec<f32> {
        let part = self.output_places() * self.channels;
        let share = 1.0 / (self.size * self.size) as f32;
        let mut y = vec![0.0; x.len() / self.input_values() * part];
        for (image, y) in self.images(x).zip(y.chunks_exact_mut(part)) {
            self.each_place(|window, _, at| {
                let y = &mut y[window * self.channels..][..self.channels];
                y.iter_mut().zip(&image[at..]).for_each(|(y, x)| *y += x * share);
            });
        }
        y
    }

    pub fn mean_backward(&self, dy: &[f32]) -> Vec<f32> {
        let part = self.output_places() * self.channels;
        let share = 1.0 / (self.size * self.size) as f32;
        let mut dx = vec![0.0; dy.len() / part * self.input_values()];
        for (dx, dy) in dx.chunks_exact_mut(self.input_values()).zip(dy.chunks_exact(part)) {
            self.each_place(|window, _, at| {
                let dy = &dy[window * self.channels..][..self.channels];
                dx[at..].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy * share);
            });
        }
        dx
    }
}
