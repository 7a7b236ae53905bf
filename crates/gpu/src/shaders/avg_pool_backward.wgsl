// dX[image, y, x, channel] = the mean's share of dY, summed over all windows with that value.
// Arguments: 0 images, 1 height, 2 width, 3 channels, 4 side of a window, 5 stride, 6 padding, 7 and 8 height and width of the
// output, 9 dX, 10 dY; 6 is 0.
// Grid: a thread for each value of dX.
// CPU twin: twin::avg_pool_backward. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let side = arg(4u);
    let channels = arg(3u);
    if (i >= arg(0u) * arg(1u) * arg(2u) * channels) { return; }
    let at = place(i);
    var sum = 0.0;
    for (var v = at.top; v < at.bottom; v++) {
        for (var h = at.left; h < at.right; h++) {
            sum += arena[arg(10u) + ((at.image * arg(7u) + v) * arg(8u) + h) * channels + at.channel];
        }
    }
    arena[arg(9u) + i] = sum / f32(side * side);
}
