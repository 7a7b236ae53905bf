// dY becomes dX: with n = (X - mean) rstd and g = dY scale[c], dX = (g - mean(g) - n mean(g n)) rstd over each group.
// Arguments: 0 examples, 1 places, 2 channels, 3 groups, 4 X, 5 scale (in params), 6 dY, 7 mean, 8 rstd (both
// [examples, groups] in stats).
// Grid: a workgroup of 64 for each group of each example.
// CPU twin: twin::group_norm_backward. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    let channels = arg(2u);
    let wide = channels / arg(3u);
    let live = row < arg(0u) * arg(3u);
    let count = select(0u, arg(1u) * wide, live);
    let start = row % arg(3u) * wide;
    let first = row / arg(3u) * arg(1u) * channels + start;
    let mean = stats[arg(7u) + row];
    let rstd = stats[arg(8u) + row];
    var sum = 0.0;
    var along = 0.0;
    for (var i = lane; i < count; i += 64u) {
        let at = first + i / wide * channels + i % wide;
        let g = arena[arg(6u) + at] * params[arg(5u) + start + i % wide];
        sum += g;
        along += g * (arena[arg(4u) + at] - mean) * rstd;
    }
    let mean_g = total(lane, sum) / f32(arg(1u) * wide);
    let mean_gn = total(lane, along) / f32(arg(1u) * wide);
    for (var i = lane; i < count; i += 64u) {
        let at = first + i / wide * channels + i % wide;
        let g = arena[arg(6u) + at] * params[arg(5u) + start + i % wide];
        arena[arg(6u) + at] = (g - mean_g - (arena[arg(4u) + at] - mean) * rstd * mean_gn) * rstd;
    }
}
