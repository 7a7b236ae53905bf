// P = P (1 - lr decay) - lr scale X for matrices whose directions X were orthogonalised, tall ones lying on their side.
// The scale is sqrt(max(1, rows / columns)) (Jordan et al. 2024) or 0.2 sqrt(max(rows, columns)) (arXiv 2502.16982).
// Arguments: 0 short side, 1 long side, 2 table of matrices (in the token buffer, two words each: place in params, one if
// it is tall), 3 first matrix of the table, 4 X, 5 distance of the matrices in X.
// Grid: x and y a thread for each value, z over matrices.
// CPU twin: twin::muon_apply. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let low = arg(0u);
    let long = arg(1u);
    let i = flat_index(id, groups);
    if (i >= low * long) { return; }
    let matrix = arg(3u) + id.z;
    let tall = tokens[arg(2u) + 2u * matrix + 1u] == 1u;
    let source = select(i, i % low * long + i / low, tall);
    let original = select(1.0, sqrt(f32(long) / f32(low)), tall);
    let scale = select(original, 0.2 * sqrt(f32(long)), step.matches_adamw == 1u);
    let at = tokens[arg(2u) + 2u * matrix] + i;
    let direction = arena[arg(4u) + id.z * arg(5u) + source];
    params[at] = params[at] * (1.0 - step.matrix_lr * step.weight_decay) - step.matrix_lr * scale * direction;
}
