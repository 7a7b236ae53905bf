// Y_z[m, n] = sum_k X[m, k] W_z[n, k] (+ R[m, n]), for up to three weights that share X.
// Arguments: 0 M, 1 K, 2 X, 3 R or NONE; for each z: 4+3z N, W (in params), Y; 13 distance of Y's and R's rows, or 0 for N.
// With BATCH, the z-th of stacks of matrices: see product.wgsl.
// Grid: x over N, y over M in tiles of 32, z over weights; a thread makes 4 x 4 values in registers.
// CPU twin: twin::gemm_nt. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let rows = arg(0u);
    let depth = arg(1u);
    let x = arg(2u) + shift(7u, id.z);
    let residual = arg(3u);
    let cols = arg(4u + part(id.z));
    let w = arg(5u + part(id.z)) + shift(8u, id.z);
    let y = arg(6u + part(id.z));
    let row = id.y * 4u;
    let col = id.x * 4u;
    if (row >= rows || col >= cols) { return; }
    // Rows and columns past the edge repeat the last one and are not stored.
    let r = vec4<u32>(row, min(row + 1u, rows - 1u), min(row + 2u, rows - 1u), min(row + 3u, rows - 1u)) * depth + x;
    let c = vec4<u32>(col, min(col + 1u, cols - 1u), min(col + 2u, cols - 1u), min(col + 3u, cols - 1u)) * depth + w;
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    for (var k = 0u; k < depth; k++) {
        let b = vec4<f32>(right_at(c.x + k), right_at(c.y + k), right_at(c.z + k), right_at(c.w + k));
        s0 += arena[r.x + k] * b;
        s1 += arena[r.y + k] * b;
        s2 += arena[r.z + k] * b;
        s3 += arena[r.w + k] * b;
    }
    let pitch = select(arg(13u), cols, arg(13u) == 0u);
    var sums = array<vec4<f32>, 4>(s0, s1, s2, s3);
    for (var i = 0u; i < 4u; i++) {
        if (row + i >= rows) { break; }
        for (var j = 0u; j < 4u; j++) {
            if (col + j >= cols) { break; }
            let at = (row + i) * pitch + col + j;
            //@ if BATCH
            store_scaled(6u, id.z, at, sums[i][j]);
            //@ else
            var value = sums[i][j];
            if (residual != NONE) { value += arena[residual + at]; }
            arena[y + at] = value;
            //@ end
        }
    }
}
