// dW_z[n, k] (+)= sum_m dY_z[m, n] X[m, k], for up to three weights that shared X.
// Arguments: 0 M, 1 K, 2 X, 3 one to add to dW, as micro-batches after the first do; for each z: 4+3z N, W (in grads),
// dY; 13 distance of dY's rows, or 0 for N.
// Grid: x over K, y over N in tiles of 32, z over weights; a thread makes 4 x 4 values in registers.
// CPU twin: twin::gemm_tn. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let depth = arg(0u);
    let cols = arg(1u);
    let x = arg(2u);
    let rows = arg(4u + 3u * id.z);
    let w = arg(5u + 3u * id.z);
    let dy = arg(6u + 3u * id.z);
    let row = id.y * 4u;
    let col = id.x * 4u;
    if (row >= rows || col >= cols) { return; }
    let r = vec4<u32>(row, min(row + 1u, rows - 1u), min(row + 2u, rows - 1u), min(row + 3u, rows - 1u)) + dy;
    let c = vec4<u32>(col, min(col + 1u, cols - 1u), min(col + 2u, cols - 1u), min(col + 3u, cols - 1u)) + x;
    let pitch = select(arg(13u), rows, arg(13u) == 0u);
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    for (var m = 0u; m < depth; m++) {
        let b = vec4<f32>(arena[c.x + m * cols], arena[c.y + m * cols], arena[c.z + m * cols], arena[c.w + m * cols]);
        s0 += arena[r.x + m * pitch] * b;
        s1 += arena[r.y + m * pitch] * b;
        s2 += arena[r.z + m * pitch] * b;
        s3 += arena[r.w + m * pitch] * b;
    }
    let adds = arg(3u) != 0u || step.adds != 0u;
    var sums = array<vec4<f32>, 4>(s0, s1, s2, s3);
    for (var i = 0u; i < 4u; i++) {
        if (row + i >= rows) { break; }
        for (var j = 0u; j < 4u; j++) {
            if (col + j >= cols) { break; }
            let at = w + (row + i) * cols + col + j;
            if (adds) { grads[at] += sums[i][j]; } else { grads[at] = sums[i][j]; }
        }
    }
}
