//! Twins of the kernels of networks for tables and images. Images are [images, height, width, channels].

use super::{Sum, sigmoid, wide};

/// f of an activation by its number in the kernels, and its slope.
fn activation(kind: u32, x: f64) -> (f64, f64) {
    match kind {
        0 => (x.max(0.0), f64::from(x > 0.0)),
        1 => (x * sigmoid(x), sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))),
        2 => {
            let rate = (2.0 / std::f64::consts::PI).sqrt();
            let t = (rate * (x + 0.044_715 * x.powi(3))).tanh();
            let inner = rate * (1.0 + 3.0 * 0.044_715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
        }
        _ => (x.tanh(), 1.0 - x.tanh().powi(2)),
    }
}

/// (Z, A).
pub(crate) fn bias_act(columns: usize, z: &[f32], bias: Option<&[f32]>, kind: u32) -> (Vec<f64>, Vec<f64>) {
    let shift = |i: usize| bias.map_or(0.0, |bias| wide(bias[i % columns]));
    let z: Vec<f64> = z.iter().enumerate().map(|(i, z)| wide(*z) + shift(i)).collect();
    let a = z.iter().map(|z| activation(kind, *z).0).collect();
    (z, a)
}

pub(crate) fn act_backward(z: &[f32], dz: &[f32], kind: u32) -> Vec<f64> {
    z.iter().zip(dz).map(|(z, dz)| wide(*dz) * activation(kind, wide(*z)).1).collect()
}

pub(crate) fn column_sum(columns: usize, dy: &[f32]) -> Vec<Sum> {
    let mut sums = vec![Sum::default(); columns];
    dy.iter().enumerate().for_each(|(i, dy)| sums[i % columns].add(wide(*dy)));
    sums
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub side: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Windows {
    pub fn out(self) -> [usize; 2] {
        [self.height, self.width].map(|side| (side + 2 * self.padding - self.side) / self.stride + 1)
    }

    pub fn inputs(self) -> usize {
        self.images * self.height * self.width * self.channels
    }

    pub fn outputs(self) -> usize {
        self.images * self.out()[0] * self.out()[1] * self.channels
    }

    /// For each window (image, v, h), each place in it and each channel: (window, place, channel, index in X or none).
    fn each(self, mut act: impl FnMut(usize, usize, usize, Option<usize>)) {
        let [high, wide] = self.out();
        for window in 0..self.images * high * wide {
            let (image, v, h) = (window / (high * wide), window / wide % high, window % wide);
            for place in 0..self.side * self.side {
                let y = (v * self.stride + place / self.side).checked_sub(self.padding).filter(|y| *y < self.height);
                let x = (h * self.stride + place % self.side).checked_sub(self.padding).filter(|x| *x < self.width);
                let at = y.zip(x).map(|(y, x)| ((image * self.height + y) * self.width + x) * self.channels);
                for channel in 0..self.channels {
                    act(window, place, channel, at.map(|at| at + channel));
                }
            }
        }
    }

    /// Where a value stands in the rows of spread out windows.
    fn row(self, window: usize, place: usize, channel: usize) -> usize {
        let area = self.side * self.side;
        (window * self.channels + channel) * area + place
    }
}

pub(crate) fn spread(windows: Windows, x: &[f32]) -> Vec<f64> {
    let mut rows = vec![0.0; windows.outputs() * windows.side * windows.side];
    windows.each(|window, place, channel, at| {
        rows[windows.row(window, place, channel)] = at.map_or(0.0, |at| wide(x[at]));
    });
    rows
}

pub(crate) fn spread_backward(windows: Windows, rows: &[f32]) -> Vec<Sum> {
    let mut dx = vec![Sum::default(); windows.inputs()];
    windows.each(|window, place, channel, at| {
        if let Some(at) = at {
            dx[at].add(wide(rows[windows.row(window, place, channel)]));
        }
    });
    dx
}

/// For each window and channel, where its first largest value is.
fn places_of_largest(windows: Windows, x: &[f32]) -> Vec<usize> {
    let mut best: Vec<Option<usize>> = vec![None; windows.outputs()];
    windows.each(|window, _, channel, at| {
        let best = &mut best[window * windows.channels + channel];
        if let Some(at) = at.filter(|at| best.is_none_or(|best| x[*at] > x[best])) {
            *best = Some(at);
        }
    });
    best.into_iter().flatten().collect()
}

pub(crate) fn max_pool(windows: Windows, x: &[f32]) -> Vec<f64> {
    places_of_largest(windows, x).into_iter().map(|at| wide(x[at])).collect()
}

pub(crate) fn max_pool_backward(windows: Windows, x: &[f32], dy: &[f32]) -> Vec<Sum> {
    let mut dx = vec![Sum::default(); x.len()];
    places_of_largest(windows, x).into_iter().zip(dy).for_each(|(at, dy)| dx[at].add(wide(*dy)));
    dx
}

pub(crate) fn avg_pool(windows: Windows, x: &[f32]) -> Vec<f64> {
    let mut y = vec![0.0; windows.outputs()];
    let share = 1.0 / (windows.side * windows.side) as f64;
    windows.each(|window, _, channel, at| {
        y[window * windows.channels + channel] += at.map_or(0.0, |at| wide(x[at]) * share);
    });
    y
}

pub(crate) fn avg_pool_backward(windows: Windows, dy: &[f32]) -> Vec<f64> {
    let mut dx = vec![0.0; windows.inputs()];
    let share = 1.0 / (windows.side * windows.side) as f64;
    windows.each(|window, _, channel, at| {
        if let Some(at) = at {
            dx[at] += wide(dy[window * windows.channels + channel]) * share;
        }
    });
    dx
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    pub examples: usize,
    pub places: usize,
    pub channels: usize,
    pub parts: usize,
}

impl Groups {
    /// Which group of which example a value is in.
    fn row(self, at: usize) -> usize {
        at / (self.places * self.channels) * self.parts + at % self.channels * self.parts / self.channels
    }

    fn means(self, values: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut sums = vec![0.0; self.examples * self.parts];
        values.enumerate().for_each(|(at, value)| sums[self.row(at)] += value);
        let count = (self.places * self.channels / self.parts) as f64;
        sums.into_iter().map(|sum| sum / count).collect()
    }
}

/// (Y, mean, rstd).
pub(crate) fn group_norm(
    groups: Groups,
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    eps: f32,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mean = groups.means(x.iter().map(|x| wide(*x)));
    let off = |at: usize| wide(x[at]) - mean[groups.row(at)];
    let squares = groups.means((0..x.len()).map(|at| off(at).powi(2)));
    let rstd: Vec<f64> = squares.iter().map(|square| 1.0 / (square + wide(eps)).sqrt()).collect();
    let c = |at: usize| at % groups.channels;
    let y = (0..x.len()).map(|at| off(at) * rstd[groups.row(at)] * wide(scale[c(at)]) + wide(shift[c(at)])).collect();
    (y, mean, rstd)
}

/// (dX, d scale, d shift).
pub(crate) fn group_norm_backward(
    groups: Groups,
    x: &[f32],
    scale: &[f32],
    (mean, rstd): (&[f32], &[f32]),
    dy: &[f32],
) -> (Vec<f64>, Vec<Sum>, Vec<Sum>) {
    let normed = |at: usize| (wide(x[at]) - wide(mean[groups.row(at)])) * wide(rstd[groups.row(at)]);
    let g = |at: usize| wide(dy[at]) * wide(scale[at % groups.channels]);
    let mean_g = groups.means((0..x.len()).map(g));
    let mean_gn = groups.means((0..x.len()).map(|at| g(at) * normed(at)));
    let dx = |at: usize| {
        let row = groups.row(at);
        (g(at) - mean_g[row] - normed(at) * mean_gn[row]) * wide(rstd[row])
    };
    let mut sums = [(); 2].map(|()| vec![Sum::default(); groups.channels]);
    for (at, dy) in dy.iter().enumerate() {
        sums[0][at % groups.channels].add(wide(*dy) * normed(at));
        sums[1][at % groups.channels].add(wide(*dy));
    }
    let [scale, shift] = sums;
    ((0..x.len()).map(dx).collect(), scale, shift)
}

/// Each matrix of `rows` and `columns`.
pub(crate) fn transpose(rows: usize, columns: usize, x: &[f32]) -> Vec<f64> {
    let one =
        |matrix: &[f32]| (0..matrix.len()).map(|i| wide(matrix[i % rows * columns + i / rows])).collect::<Vec<_>>();
    x.chunks(rows * columns).flat_map(one).collect()
}

/// (Losses of rows, gradient); `binary` or squared.
pub(crate) fn value_loss(outputs: usize, y: &[f32], targets: &[f32], binary: bool) -> (Vec<f64>, Vec<f64>) {
    let each = |(y, t): (&f32, &f32)| {
        let (y, t) = (wide(*y), wide(*t));
        if binary {
            (y.max(0.0) - y * t + (-y.abs()).exp().ln_1p(), sigmoid(y) - t)
        } else {
            ((y - t).powi(2), 2.0 * (y - t))
        }
    };
    let (losses, slopes): (Vec<f64>, Vec<f64>) = y.iter().zip(targets).map(each).unzip();
    let row = |losses: &[f64]| losses.iter().sum::<f64>() / outputs as f64;
    (losses.chunks(outputs).map(row).collect(), slopes.into_iter().map(|slope| slope / y.len() as f64).collect())
}

/// Gradients [N, K] of each slice of so many rows, one after the other.
pub(crate) fn gemm_tn_split((m, k, n): (usize, usize, usize), slice: usize, x: &[f32], dy: &[f32]) -> Vec<Sum> {
    let rows =
        |start: usize, values: &[f32], width: usize| values[start * width..(start + slice).min(m) * width].to_vec();
    let part = |start: usize| super::gemm_tn((slice.min(m - start), k, n), &rows(start, x, k), &rows(start, dy, n));
    (0..m).step_by(slice).flat_map(part).collect()
}

pub(crate) fn slice_sum(slices: usize, p: &[f32]) -> Vec<Sum> {
    column_sum(p.len() / slices, p)
}
