// dX[r, c] (+)= rstd (W[c] dY[r, c] - X[r, c] rstd^2 mean_c(W dY X)).
// Arguments: 0 rows, 1 columns, 2 X, 3 W (in params), 4 dY, 5 rstd (in stats), 6 dX, 7 one to add to dX.
// Grid: a workgroup of 64 for each row.
// CPU twin: twin::rmsnorm_backward. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    let cols = arg(1u);
    let live = row < arg(0u);
    let x = arg(2u) + row * cols;
    let w = arg(3u);
    let dy = arg(4u) + row * cols;
    var sum = 0.0;
    if (live) {
        for (var c = lane; c < cols; c += 64u) { sum += params[w + c] * arena[dy + c] * arena[x + c]; }
    }
    sum = total(lane, sum);
    if (!live) { return; }
    let rstd = stats[arg(5u) + row];
    let shared_part = sum / f32(cols) * rstd * rstd;
    for (var c = lane; c < cols; c += 64u) {
        let at = arg(6u) + row * cols + c;
        let value = rstd * (params[w + c] * arena[dy + c] - arena[x + c] * shared_part);
        if (arg(7u) == 1u) { arena[at] += value; } else { arena[at] = value; }
    }
}
