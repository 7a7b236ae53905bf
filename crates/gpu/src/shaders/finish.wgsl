// Writes the mean loss to its slot, and the factor that clips the gradients to a global norm (1 without clipping).
// Arguments: 0 workgroups of norm_partial (0: no gradients), 1 partial, 2 rows, 3 losses of rows, 4 factor;
// 1, 3 and 4 in stats.
// Grid: one workgroup of 64.
// CPU twin: twin::finish. Tolerance 1e-5.

var<workgroup> partial: array<f32, 64>;

fn total(lane: u32) -> f32 {
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { partial[lane] += partial[lane + half]; }
    }
    workgroupBarrier();
    return partial[0];
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var r = lane; r < arg(2u); r += 64u) { sum += stats[arg(3u) + r]; }
    partial[lane] = sum;
    let loss = total(lane);
    if (lane == 0u) { losses[step.slot] = loss / f32(arg(2u)); }
    workgroupBarrier();
    sum = 0.0;
    for (var i = lane; i < arg(0u); i += 64u) { sum += stats[arg(1u) + i]; }
    partial[lane] = sum;
    let norm = sqrt(total(lane) + step.foreign_squares);
    if (lane == 0u) {
        stats[arg(4u)] = select(1.0, min(1.0, step.clip / (norm + 1e-6)), step.clip > 0.0);
    }
}
