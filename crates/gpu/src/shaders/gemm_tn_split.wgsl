// P[s, n, k] = sum of dY[m, n] X[m, k] over the m-th rows of slice s: gradients of a weight from many rows, to be summed by
// slice_sum.
// Arguments: 0 M, 1 K, 2 X, 3 rows of a slice, 4 N, 5 P, 6 dY.
// Grid: x over K, y over N in tiles of 32, z over slices; a thread makes 4 x 4 values in registers.
// CPU twin: twin::gemm_tn_split. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let cols = arg(1u);
    let rows = arg(4u);
    let row = id.y * 4u;
    let col = id.x * 4u;
    if (row >= rows || col >= cols) { return; }
    let r = vec4<u32>(row, min(row + 1u, rows - 1u), min(row + 2u, rows - 1u), min(row + 3u, rows - 1u)) + arg(6u);
    let c = vec4<u32>(col, min(col + 1u, cols - 1u), min(col + 2u, cols - 1u), min(col + 3u, cols - 1u)) + arg(2u);
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    let end = min((id.z + 1u) * arg(3u), arg(0u));
    for (var m = id.z * arg(3u); m < end; m++) {
        let b = vec4<f32>(arena[c.x + m * cols], arena[c.y + m * cols], arena[c.z + m * cols], arena[c.w + m * cols]);
        s0 += arena[r.x + m * rows] * b;
        s1 += arena[r.y + m * rows] * b;
        s2 += arena[r.z + m * rows] * b;
        s3 += arena[r.w + m * rows] * b;
    }
    var sums = array<vec4<f32>, 4>(s0, s1, s2, s3);
    let p = arg(5u) + id.z * rows * cols;
    for (var i = 0u; i < 4u; i++) {
        if (row + i >= rows) { break; }
        for (var j = 0u; j < 4u; j++) {
            if (col + j >= cols) { break; }
            arena[p + (row + i) * cols + col + j] = sums[i][j];
        }
    }
}
