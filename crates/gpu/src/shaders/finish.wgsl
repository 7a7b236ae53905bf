// Writes the mean loss to its slot, and the factor that clips the gradients to a global norm (1 without clipping).
// Arguments: 0 workgroups of norm_partial (0: no gradients), 1 partial, 2 rows, 3 losses of rows, 4 factor;
// 1, 3 and 4 in stats.
// Grid: one workgroup of 64.
// CPU twin: twin::finish. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var r = lane; r < arg(2u); r += 64u) { sum += stats[arg(3u) + r]; }
    let loss = total(lane, sum);
    if (lane == 0u) { losses[step.slot] = loss / f32(arg(2u)); }
    sum = 0.0;
    for (var i = lane; i < arg(0u); i += 64u) { sum += stats[arg(1u) + i]; }
    let norm = sqrt(total(lane, sum) + step.foreign_squares);
    if (lane == 0u) {
        stats[arg(4u)] = select(1.0, min(1.0, step.clip / (norm + 1e-6)), step.clip > 0.0);
    }
}
