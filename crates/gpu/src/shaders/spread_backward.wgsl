// dX[image, y, x, channel] = the sum of dS over all rows in which that value stands; see spread.
// Arguments: 0 images, 1 height, 2 width, 3 channels, 4 side of a window, 5 stride, 6 padding, 7 and 8 height and width of the
// output, 9 dX, 10 dS.
// Grid: a thread for each value of dX.
// CPU twin: twin::spread_backward. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let side = arg(4u);
    let channels = arg(3u);
    if (i >= arg(0u) * arg(1u) * arg(2u) * channels) { return; }
    let at = place(i);
    let width = channels * side * side;
    var sum = 0.0;
    for (var v = at.top; v < at.bottom; v++) {
        for (var h = at.left; h < at.right; h++) {
            let row = (at.image * arg(7u) + v) * arg(8u) + h;
            sum += arena[arg(10u) + row * width + (at.channel * side + at.y - v * arg(5u)) * side + at.x - h * arg(5u)];
        }
    }
    arena[arg(9u) + i] = sum;
}
