// Y = (X - mean) rstd scale[c] + shift[c] over each group of channels of X [examples, places, channels]; keeps mean and rstd.
// Arguments: 0 examples, 1 places, 2 channels, 3 groups, 4 X, 5 scale, 6 shift (both in params), 7 Y, 8 mean, 9 rstd (both
// [examples, groups] in stats), 10 eps.
// Grid: a workgroup of 64 for each group of each example.
// CPU twin: twin::group_norm. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    let channels = arg(2u);
    let wide = channels / arg(3u);
    let live = row < arg(0u) * arg(3u);
    let count = select(0u, arg(1u) * wide, live);
    let start = row % arg(3u) * wide;
    let first = row / arg(3u) * arg(1u) * channels + start;
    var sum = 0.0;
    for (var i = lane; i < count; i += 64u) { sum += arena[arg(4u) + first + i / wide * channels + i % wide]; }
    let mean = total(lane, sum) / f32(arg(1u) * wide);
    sum = 0.0;
    for (var i = lane; i < count; i += 64u) {
        let off = arena[arg(4u) + first + i / wide * channels + i % wide] - mean;
        sum += off * off;
    }
    let rstd = inverseSqrt(total(lane, sum) / f32(arg(1u) * wide) + bitcast<f32>(arg(10u)));
    for (var i = lane; i < count; i += 64u) {
        let at = first + i / wide * channels + i % wide;
        let c = start + i % wide;
        arena[arg(7u) + at] = (arena[arg(4u) + at] - mean) * rstd * params[arg(5u) + c] + params[arg(6u) + c];
    }
    if (live && lane == 0u) {
        stats[arg(8u) + row] = mean;
        stats[arg(9u) + row] = rstd;
    }
}
