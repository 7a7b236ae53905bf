// What products of activations and weights share with BATCH, where both sides are stacks of matrices in the arena:
// the z-th lies z distances from the first (7 of the left side, 8 of the right, 9 of the result), and the result is alpha
// (10, as bits) times the product, plus beta (11, as bits) times R (12, a stack like the result, or NONE).

//@ if BATCH
fn shift(index: u32, z: u32) -> u32 { return z * arg(index) / GROUP; }

fn part(z: u32) -> u32 { return 0u; }

fn right_at(at: u32) -> Word { return arena[at]; }

// `at` counts from the start of the z-th result.
fn store_scaled(result: u32, z: u32, at: u32, product: Word) {
    var value = bitcast<f32>(arg(10u)) * product;
    if (arg(12u) != NONE) { value += bitcast<f32>(arg(11u)) * arena[arg(12u) / GROUP + shift(9u, z) + at]; }
    arena[arg(result) / GROUP + shift(9u, z) + at] = value;
}
//@ else
fn shift(index: u32, z: u32) -> u32 { return 0u; }

fn part(z: u32) -> u32 { return 3u * z; }

fn right_at(at: u32) -> Word { return params[at]; }
//@ end
