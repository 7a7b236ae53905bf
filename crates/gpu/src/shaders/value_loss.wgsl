// loss[r] = mean over outputs of a loss of Y[r, o] against T[r, o]; Y becomes its own gradient of the mean over R rows, in place.
// The loss is 0 (y - t)^2, or 1 binary cross-entropy of the sigmoid of y.
// Arguments: 0 rows, 1 outputs, 2 Y, 3 losses (in stats), 4 T, 5 loss, 6 R.
// Grid: a thread for each row.
// CPU twin: twin::value_loss. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(id, groups);
    if (row >= arg(0u)) { return; }
    let outputs = arg(1u);
    let share = 1.0 / (f32(arg(6u)) * f32(outputs));
    var sum = 0.0;
    for (var i = row * outputs; i < (row + 1u) * outputs; i++) {
        let y = arena[arg(2u) + i];
        let t = arena[arg(4u) + i];
        var slope = 2.0 * (y - t);
        if (arg(5u) == 0u) {
            sum += (y - t) * (y - t);
        } else {
            sum += max(y, 0.0) - y * t + log(1.0 + exp(-abs(y)));
            slope = 1.0 / (1.0 + exp(-y)) - t;
        }
        arena[arg(2u) + i] = slope * share;
    }
    stats[arg(3u) + row] = sum / f32(outputs);
}
