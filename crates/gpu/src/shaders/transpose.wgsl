// Y[i, b, a] = X[i, a, b].
// Arguments: 0 matrices, 1 rows of X's, 2 columns of X's, 3 X, 4 Y.
// Grid: a thread for each value.
// CPU twin: twin::transpose. Exact.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let rows = arg(1u);
    let cols = arg(2u);
    if (i >= arg(0u) * rows * cols) { return; }
    let a = i % rows;
    let b = i / rows % cols;
    arena[arg(4u) + i] = arena[arg(3u) + (i / (rows * cols) * rows + a) * cols + b];
}
