// loss[r] = log sum exp(L[r, :]) - L[r, target r]; L becomes its own gradient (softmax - onehot) / R, in place; for
// devices on which barriers cost more than they save.
// Arguments: 0 rows, 1 vocabulary, 2 L, 3 losses of the batch (in stats), 4 distance of L's rows; what lies after the vocabulary
// becomes 0; 5 first row in the micro-batch, 6 rows of the micro-batch, 7 R.
// Grid: a thread for each row. Targets follow the micro-batch's inputs in the token buffer.
// CPU twin: twin::cross_entropy. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let row = flat_index(id, groups);
    let rows = arg(0u);
    if (row >= rows) { return; }
    let cols = arg(1u);
    let l = arg(2u) + row * arg(4u);
    var largest = -3.0e38;
    for (var c = 0u; c < cols; c++) { largest = max(largest, arena[l + c]); }
    let right = tokens[2u * step.first_row + arg(6u) + arg(5u) + row];
    let chosen = arena[l + right];
    var sum = 0.0;
    for (var c = 0u; c < cols; c++) {
        let value = exp(arena[l + c] - largest);
        arena[l + c] = value;
        sum += value;
    }
    stats[arg(3u) + step.first_row + arg(5u) + row] = largest + log(sum) - chosen;
    let share = 1.0 / (sum * f32(arg(7u)));
    for (var c = 0u; c < cols; c++) { arena[l + c] *= share; }
    arena[l + right] -= 1.0 / f32(arg(7u));
    for (var c = cols; c < arg(4u); c++) { arena[l + c] = 0.0; }
}
