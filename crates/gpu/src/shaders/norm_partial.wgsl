// partial[w] = sum of squares of a share of the gradients.
// Arguments: 0 values, 1 partial (in stats), 2 workgroups.
// Grid: workgroups of 64, striding.
// CPU twin: twin::square_sum. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = group.x * 64u + lane; i < arg(0u); i += arg(2u) * 64u) { sum += grads[i] * grads[i]; }
    sum = total(lane, sum);
    if (lane == 0u) { stats[arg(1u) + group.x] = sum; }
}
