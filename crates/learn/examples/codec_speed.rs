//! Speed and size of the codecs: `cargo run --release -p shoal-learn --example codec_speed`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{CODECS, gaussian, layout, outer};
use shoal_learn::outer;

fn main() {
    let count = 1 << 22;
    let layout = layout(&[count]);
    let delta = gaussian(count, 1, 0.001);
    for codec in CODECS {
        let mut residual = outer::Residual::new(&layout);
        let begun = Instant::now();
        let update = residual.compress(&outer(codec), &layout, &delta).unwrap();
        let compressed = begun.elapsed();
        let begun = Instant::now();
        outer::check(&layout, codec, &update).unwrap();
        let decoded = begun.elapsed();
        let rate = |time: std::time::Duration| count as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{codec:?}: {:.4} bits a value, compress (encode, decode, feedback) {:.0} M values/s, decode {:.0} M values/s",
            update.len() as f64 * 8.0 / count as f64,
            rate(compressed),
            rate(decoded)
        );
    }
}
