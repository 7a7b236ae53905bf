// db[c] = sum_r dY[r, c].
// Arguments: 0 rows, 1 columns, 2 dY, 3 db (in grads).
// Grid: a workgroup of 64 for each column.
// CPU twin: twin::column_sum. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = group.x + group.y * groups.x;
    let cols = arg(1u);
    var sum = 0.0;
    if (c < cols) {
        for (var r = lane; r < arg(0u); r += 64u) { sum += arena[arg(2u) + r * cols + c]; }
    }
    sum = total(lane, sum);
    if (lane == 0u && c < cols) { grads[arg(3u) + c] = sum; }
}
