// Y = silu(gate) * up (Shazeer, arXiv 2002.05202).
// Arguments: 0 values, 1 gate, 2 up, 3 Y.
// Grid: a thread for each value.
// CPU twin: twin::swiglu. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u)) { return; }
    let gate = arena[arg(1u) + i];
    arena[arg(3u) + i] = gate / (1.0 + exp(-gate)) * arena[arg(2u) + i];
}
