// X[r, :] = E[token r, :].
// Arguments: 0 rows, 1 columns, 2 E (in params), 3 X.
// Grid: a thread for each value.
// CPU twin: twin::embed. Exact.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let cols = arg(1u);
    if (i >= arg(0u) * cols) { return; }
    arena[arg(3u) + i] = params[arg(2u) + tokens[i / cols] * cols + i % cols];
}
