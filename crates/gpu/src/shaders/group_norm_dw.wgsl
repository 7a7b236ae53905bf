// d scale[c] = sum of dY (X - mean) rstd, and d shift[c] = sum of dY, over examples and places.
// Arguments: 0 examples, 1 places, 2 channels, 3 groups, 4 X, 5 d scale, 6 dY, 7 mean, 8 rstd (both [examples, groups] in
// stats), 9 d shift; 5 and 9 in grads.
// Grid: a workgroup of 64 for each channel.
// CPU twin: twin::group_norm_backward. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = group.x + group.y * groups.x;
    let channels = arg(2u);
    let live = c < channels;
    let count = select(0u, arg(0u) * arg(1u), live);
    var scale = 0.0;
    var shift = 0.0;
    for (var i = lane; i < count; i += 64u) {
        let row = i / arg(1u) * arg(3u) + c * arg(3u) / channels;
        let dy = arena[arg(6u) + i * channels + c];
        scale += dy * (arena[arg(4u) + i * channels + c] - stats[arg(7u) + row]) * stats[arg(8u) + row];
        shift += dy;
    }
    scale = total(lane, scale);
    shift = total(lane, shift);
    if (live && lane == 0u) {
        grads[arg(5u) + c] = scale;
        grads[arg(9u) + c] = shift;
    }
}
