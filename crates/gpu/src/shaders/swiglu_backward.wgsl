// From dY: gate becomes its gradient, and so does up, in place.
// Arguments: 0 values, 1 gate, 2 up, 3 dY.
// Grid: a thread for each value.
// CPU twin: twin::swiglu_backward. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u)) { return; }
    let gate = arena[arg(1u) + i];
    let up = arena[arg(2u) + i];
    let dy = arena[arg(3u) + i];
    let sigmoid = 1.0 / (1.0 + exp(-gate));
    arena[arg(1u) + i] = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
    arena[arg(2u) + i] = dy * gate * sigmoid;
}
