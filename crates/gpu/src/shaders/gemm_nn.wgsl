// dX[m, k] (+)= sum over parts p and n of dY_p[m, n] W_p[n, k], for up to three weights that shared X.
// Arguments: 0 M, 1 K, 2 dX, 3 number of parts (+ 16 to add to dX); for each p: 4+3p N, W (in params), dY;
// 13 distance of dY's rows, or 0 for N.
// With BATCH, the z-th of stacks of matrices, in one part: see product.wgsl.
// Grid: x over K, y over M in tiles of 32; a thread makes 4 x 4 values in registers.
// CPU twin: twin::gemm_nn. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let rows = arg(0u);
    let cols = arg(1u);
    let dx = arg(2u);
    let parts = arg(3u) & 15u;
    let adds = arg(3u) >= 16u;
    let row = id.y * 4u;
    let col = id.x * 4u;
    if (row >= rows || col >= cols) { return; }
    let r = vec4<u32>(row, min(row + 1u, rows - 1u), min(row + 2u, rows - 1u), min(row + 3u, rows - 1u));
    let c = vec4<u32>(col, min(col + 1u, cols - 1u), min(col + 2u, cols - 1u), min(col + 3u, cols - 1u));
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    for (var p = 0u; p < parts; p++) {
        let depth = arg(4u + 3u * p);
        let w = arg(5u + 3u * p) + shift(8u, id.z);
        let d = r * select(arg(13u), depth, arg(13u) == 0u) + arg(6u + 3u * p) + shift(7u, id.z);
        for (var n = 0u; n < depth; n++) {
            let at = w + n * cols;
            let b = vec4<f32>(right_at(at + c.x), right_at(at + c.y), right_at(at + c.z), right_at(at + c.w));
            s0 += arena[d.x + n] * b;
            s1 += arena[d.y + n] * b;
            s2 += arena[d.z + n] * b;
            s3 += arena[d.w + n] * b;
        }
    }
    var sums = array<vec4<f32>, 4>(s0, s1, s2, s3);
    for (var i = 0u; i < 4u; i++) {
        if (row + i >= rows) { break; }
        for (var j = 0u; j < 4u; j++) {
            if (col + j >= cols) { break; }
            //@ if BATCH
            store_scaled(2u, id.z, (row + i) * cols + col + j, sums[i][j]);
            //@ else
            let at = dx + (row + i) * cols + col + j;
            if (adds) { arena[at] += sums[i][j]; } else { arena[at] = sums[i][j]; }
            //@ end
        }
    }
}
