// loss[r] = log sum exp(L[r, :]) - L[r, target r]; L becomes its own gradient (softmax - onehot) / R, in place.
// Arguments: 0 rows, 1 vocabulary, 2 L, 3 losses of the batch (in stats), 4 distance of L's rows; what lies after the vocabulary
// becomes 0; 5 first row in the micro-batch, 6 rows of the micro-batch, 7 R.
// Grid: a workgroup of 64 for each row. Targets follow the micro-batch's inputs in the token buffer.
// CPU twin: twin::cross_entropy. Tolerance 1e-5.

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x + group.y * groups.x;
    let rows = arg(0u);
    let cols = arg(1u);
    let live = row < rows;
    let l = arg(2u) + row * arg(4u);
    var largest = -3.0e38;
    if (live) {
        for (var c = lane; c < cols; c += 64u) { largest = max(largest, arena[l + c]); }
    }
    partial[lane] = largest;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { partial[lane] = max(partial[lane], partial[lane + half]); }
    }
    workgroupBarrier();
    largest = partial[0];
    workgroupBarrier();
    var sum = 0.0;
    if (live) {
        for (var c = lane; c < cols; c += 64u) { sum += exp(arena[l + c] - largest); }
    }
    partial[lane] = sum;
    for (var half = 32u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) { partial[lane] += partial[lane + half]; }
    }
    workgroupBarrier();
    sum = partial[0];
    if (!live) { return; }
    let right = tokens[2u * step.first_row + arg(6u) + arg(5u) + row];
    if (lane == right % 64u) { stats[arg(3u) + step.first_row + arg(5u) + row] = largest + log(sum) - arena[l + right]; }
    for (var c = lane; c < cols; c += 64u) {
        let p = exp(arena[l + c] - largest) / sum;
        arena[l + c] = (p - select(0.0, 1.0, c == right)) / f32(arg(7u));
    }
    if (cols + lane < arg(4u)) { arena[l + cols + lane] = 0.0; }
}
