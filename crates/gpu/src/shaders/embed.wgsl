// X[r, :] = E[token r, :], for the tokens of a part of the vocabulary.
// Arguments: 0 rows, 1 columns, 2 E (in params), 3 X, 4 first token of the part, 5 tokens in it.
// Grid: a thread for each value.
// CPU twin: twin::embed. Exact.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let cols = arg(1u);
    if (i >= arg(0u) * cols) { return; }
    // Tokens before the part wrap around to large numbers.
    let v = tokens[2u * step.first_row + i / cols] - arg(4u);
    if (v < arg(5u)) { arena[arg(3u) + i] = params[arg(2u) + v * cols + i % cols]; }
}
