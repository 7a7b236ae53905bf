// dX[r, c] (+)= rstd (W[c] dY[r, c] - X[r, c] rstd^2 mean_c(W dY X)), for devices on which barriers cost more than they
// save.
// Arguments: 0 rows, 1 columns (a multiple of 4), 2 X, 3 W (in params), 4 dY, 5 rstd (in stats), 6 dX, 7 one to add to dX; places are
// multiples of 4.
// Grid: a thread for each row.
// CPU twin: twin::rmsnorm_backward. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(id, groups);
    if (row >= arg(0u)) { return; }
    let cols = arg(1u) / 4u;
    let x = arg(2u) / 4u + row * cols;
    let w = arg(3u) / 4u;
    let dy = arg(4u) / 4u + row * cols;
    let dx = arg(6u) / 4u + row * cols;
    var sum = 0.0;
    for (var c = 0u; c < cols; c++) { sum += dot(params[w + c] * arena[dy + c], arena[x + c]); }
    let rstd = stats[arg(5u) + row];
    let along = sum / f32(arg(1u)) * rstd * rstd;
    let adds = arg(7u) == 1u;
    for (var c = 0u; c < cols; c++) {
        let value = rstd * (params[w + c] * arena[dy + c] - arena[x + c] * along);
        if (adds) { arena[dx + c] += value; } else { arena[dx + c] = value; }
    }
}
