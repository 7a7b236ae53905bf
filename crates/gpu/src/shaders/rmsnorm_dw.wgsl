// dW[c] (+)= sum_r dY[r, c] X[r, c] rstd[r].
// Arguments: 0 rows, 1 columns, 2 X, 3 W (in grads), 4 dY, 5 rstd (in stats); micro-batches after the first add.
// Grid: a thread for each column.
// CPU twin: twin::rmsnorm_backward. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let cols = arg(1u);
    let c = id.x;
    if (c >= cols) { return; }
    var sum = 0.0;
    for (var r = 0u; r < arg(0u); r++) {
        sum += arena[arg(4u) + r * cols + c] * arena[arg(2u) + r * cols + c] * stats[arg(5u) + r];
    }
    if (step.adds != 0u) { sum += grads[arg(3u) + c]; }
    grads[arg(3u) + c] = sum;
}
