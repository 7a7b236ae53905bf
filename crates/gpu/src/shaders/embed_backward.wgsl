// dE[v, :] (+)= sum of dX[r, :] over the rows whose token is v, in row order, without atomics.
// Arguments: 0 rows, 1 columns, 2 E (in grads), 3 dX, 4 tokens in the part of the vocabulary,
// 5 one to add to dE (tied embeddings), as micro-batches after the first do, 6 first token of the part.
// Grid: a thread for each vocabulary entry.
// CPU twin: twin::embed_backward. Tolerance 1e-6 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let v = flat_index(id, groups);
    let cols = arg(1u);
    if (v >= arg(4u)) { return; }
    let e = arg(2u) + v * cols;
    if (arg(5u) == 0u && step.adds == 0u) {
        for (var c = 0u; c < cols; c++) { grads[e + c] = 0.0; }
    }
    for (var r = 0u; r < arg(0u); r++) {
        if (tokens[2u * step.first_row + r] == arg(6u) + v) {
            for (var c = 0u; c < cols; c++) { grads[e + c] += arena[arg(3u) + r * cols + c]; }
        }
    }
}
