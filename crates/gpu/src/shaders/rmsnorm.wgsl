// Y[r, c] = X[r, c] * rstd[r] * W[c], rstd[r] = 1 / sqrt(mean_c X^2 + eps) (Zhang and Sennrich, arXiv 1910.07467).
// Arguments: 0 rows, 1 columns, 2 X, 3 W (in params), 4 Y, 5 rstd (in stats), 6 eps as bits.
// Grid: a workgroup of 64 for each row.
// CPU twin: twin::rmsnorm. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    let cols = arg(1u);
    let live = row < arg(0u);
    let x = arg(2u) + row * cols;
    var sum = 0.0;
    if (live) {
        for (var c = lane; c < cols; c += 64u) { sum += arena[x + c] * arena[x + c]; }
    }
    sum = total(lane, sum);
    if (!live) { return; }
    let rstd = inverseSqrt(sum / f32(cols) + bitcast<f32>(arg(6u)));
    if (lane == 0u) { stats[arg(5u) + row] = rstd; }
    for (var c = lane; c < cols; c += 64u) {
        arena[arg(4u) + row * cols + c] = arena[x + c] * rstd * params[arg(3u) + c];
    }
}
