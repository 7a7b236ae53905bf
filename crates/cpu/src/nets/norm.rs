//! Group normalisation (Wu and He, arXiv 1803.08494) of [examples, places, channels].

use shoal_learn::nets::Shape;

pub struct Groups {
    channels: usize,
    places: usize,
    /// Channels of a group.
    wide: usize,
    eps: f32,
}

/// 1/√(variance + eps) and mean of one group.
struct Statistics {
    mean: f32,
    scale: f32,
}

impl Groups {
    pub fn new(shape: Shape, groups: u32, eps: f32) -> Self {
        let channels = shape.channels() as usize;
        Self { channels, places: shape.places() as usize, wide: channels / groups as usize, eps }
    }

    /// Where each group of an example starts.
    fn starts(&self) -> impl Iterator<Item = usize> {
        (0..self.channels).step_by(self.wide)
    }

    /// A group's values in an example, place by place.
    fn of<'a>(&self, example: &'a [f32], start: usize) -> impl Iterator<Item = &'a f32> {
        let wide = self.wide;
        example.chunks_exact(self.channels).flat_map(move |place| &place[start..start + wide])
    }

    fn statistics(&self, example: &[f32], start: usize) -> Statistics {
        let count = (self.places * self.wide) as f64;
        let mean = self.of(example, start).map(|x| f64::from(*x)).sum::<f64>() / count;
        let squares: f64 = self.of(example, start).map(|x| (f64::from(*x) - mean) * (f64::from(*x) - mean)).sum();
        let scale = 1.0 / (squares / count + f64::from(self.eps)).sqrt();
        Statistics { mean: mean as f32, scale: scale as f32 }
    }

    /// y = (x − mean) / √(variance + eps) · weight + bias.
    pub fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        for example in y.chunks_exact_mut(self.places * self.channels) {
            for start in self.starts() {
                let Statistics { mean, scale } = self.statistics(example, start);
                for place in example.chunks_exact_mut(self.channels) {
                    for channel in start..start + self.wide {
                        place[channel] = (place[channel] - mean) * scale * weight[channel] + bias[channel];
                    }
                }
            }
        }
        y
    }

    /// With x̂ the normalised input and g = dy · weight: dx = (g − mean(g) − x̂ · mean(g · x̂)) / √(variance + eps).
    pub fn backward(&self, x: &[f32], weight: &[f32], dy: &[f32]) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        let size = self.places * self.channels;
        let count = (self.places * self.wide) as f64;
        for ((x, dy), dx) in x.chunks_exact(size).zip(dy.chunks_exact(size)).zip(dx.chunks_exact_mut(size)) {
            for start in self.starts() {
                let Statistics { mean, scale } = self.statistics(x, start);
                let (mut sum, mut along) = (0.0, 0.0);
                for (index, (x, dy)) in self.of(x, start).zip(self.of(dy, start)).enumerate() {
                    let g = f64::from(dy * weight[start + index % self.wide]);
                    sum += g;
                    along += g * f64::from((x - mean) * scale);
                }
                let (sum, along) = ((sum / count) as f32, (along / count) as f32);
                for place in (start..size).step_by(self.channels) {
                    for (at, weight) in (place..).zip(&weight[start..start + self.wide]) {
                        dx[at] = (dy[at] * weight - sum - (x[at] - mean) * scale * along) * scale;
                    }
                }
            }
        }
        dx
    }

    /// Adds dweight = Σ dy · x̂.
    pub fn scale_gradient(&self, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
        let size = self.places * self.channels;
        for (x, dy) in x.chunks_exact(size).zip(dy.chunks_exact(size)) {
            for start in self.starts() {
                let Statistics { mean, scale } = self.statistics(x, start);
                for (index, (x, dy)) in self.of(x, start).zip(self.of(dy, start)).enumerate() {
                    dweight[start + index % self.wide] += dy * (x - mean) * scale;
                }
            }
        }
    }
}
