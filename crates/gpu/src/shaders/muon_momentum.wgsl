// The momentum of matrices of one size, M = mu M + (1 - mu) G with clipped gradients G, and in place of the gradients the
// direction that Muon orthogonalises: M, or with Nesterov's look-ahead (1 - mu) G + mu M. Also sums of its squares.
// Arguments: 0 values in a matrix, 1 table of matrices (in the token buffer, two words each: place, one if it is tall),
// 2 factor of clipping, 3 sums of squares [matrices, workgroups], 4 workgroups a matrix; 2 and 3 in stats.
// Grid: x over workgroups of 64, striding, y over matrices.
// CPU twin: twin::muon_momentum. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = tokens[arg(1u) + 2u * group.y];
    let factor = stats[arg(2u)];
    var sum = 0.0;
    for (var i = at + group.x * 64u + lane; i < at + arg(0u); i += arg(4u) * 64u) {
        let g = (1.0 - step.momentum) * grads[i] * factor;
        let m = step.momentum * moment1[i] + g;
        let direction = select(m, g + step.momentum * m, step.nesterov == 1u);
        moment1[i] = m;
        grads[i] = direction;
        sum += direction * direction;
    }
    sum = total(lane, sum);
    if (lane == 0u) { stats[arg(3u) + group.y * arg(4u) + group.x] = sum; }
}
