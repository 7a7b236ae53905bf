// Y[r, c] = X[r, c] * rstd[r] * W[c], rstd[r] = 1 / sqrt(mean_c X^2 + eps) (Zhang and Sennrich, arXiv 1910.07467), for
// devices on which barriers cost more than they save.
// Arguments: 0 rows, 1 columns (a multiple of 4), 2 X, 3 W (in params), 4 Y, 5 rstd (in stats), 6 eps as bits; places are multiples
// of 4.
// Grid: a thread for each row.
// CPU twin: twin::rmsnorm. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(id, groups);
    if (row >= arg(0u)) { return; }
    let cols = arg(1u) / 4u;
    let x = arg(2u) / 4u + row * cols;
    let w = arg(3u) / 4u;
    let y = arg(4u) / 4u + row * cols;
    var sum = 0.0;
    for (var c = 0u; c < cols; c++) {
        let value = arena[x + c];
        sum += dot(value, value);
    }
    let rstd = inverseSqrt(sum / f32(arg(1u)) + bitcast<f32>(arg(6u)));
    stats[arg(5u) + row] = rstd;
    for (var c = 0u; c < cols; c++) { arena[y + c] = arena[x + c] * rstd * params[w + c]; }
}
