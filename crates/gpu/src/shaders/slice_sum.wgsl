// dW[i] = sum_s P[s, i].
// Arguments: 0 values, 1 slices, 2 P, 3 dW (in grads).
// Grid: a thread for each value.
// CPU twin: twin::slice_sum. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u)) { return; }
    var sum = 0.0;
    for (var s = 0u; s < arg(1u); s++) { sum += arena[arg(2u) + s * arg(0u) + i]; }
    grads[arg(3u) + i] = sum;
}
