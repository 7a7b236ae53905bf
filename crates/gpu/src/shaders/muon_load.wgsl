// Matrices as the Newton-Schulz iteration wants them: divided by their Frobenius norms, and tall ones turned on their side.
// Arguments: 0 short side, 1 long side, 2 table of matrices (in the token buffer, two words each: place in grads, one if it
// is tall), 3 first matrix of the table, 4 X, 5 distance of the matrices in X, 6 sums of squares of the first [matrices,
// workgroups] (in stats), 7 workgroups, 8 smallest norm as bits.
// Grid: x and y a thread for each value, z over matrices.
// CPU twin: twin::muon_load. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let low = arg(0u);
    let long = arg(1u);
    let i = flat_index(id, groups);
    if (i >= low * long) { return; }
    let matrix = arg(3u) + id.z;
    var squares = 0.0;
    for (var w = 0u; w < arg(7u); w++) { squares += stats[arg(6u) + matrix * arg(7u) + w]; }
    let tall = tokens[arg(2u) + 2u * matrix + 1u] == 1u;
    let to = select(i, i % low * long + i / low, tall);
    let value = grads[tokens[arg(2u) + 2u * matrix] + i];
    arena[arg(4u) + id.z * arg(5u) + to] = value / max(sqrt(squares), bitcast<f32>(arg(8u)));
}
