// dX[image, y, x, channel] = the sum of dY over all windows of which that value is the first of the largest.
// Arguments: 0 images, 1 height, 2 width, 3 channels, 4 side of a window, 5 stride, 6 padding, 7 and 8 height and width of the
// output, 9 X, 10 dY, 11 dX; 6 is 0.
// Grid: a thread for each value of dX.
// CPU twin: twin::max_pool_backward. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let side = arg(4u);
    let channels = arg(3u);
    if (i >= arg(0u) * arg(1u) * arg(2u) * channels) { return; }
    let at = place(i);
    let own = arena[arg(9u) + i];
    var sum = 0.0;
    for (var v = at.top; v < at.bottom; v++) {
        for (var h = at.left; h < at.right; h++) {
            let mine = (at.y - v * arg(5u)) * side + at.x - h * arg(5u);
            var first = true;
            for (var k = 0u; k < side * side; k++) {
                let there = ((at.image * arg(1u) + v * arg(5u) + k / side) * arg(2u) + h * arg(5u) + k % side) * channels + at.channel;
                let other = arena[arg(9u) + there];
                if (other > own || (k < mine && other == own)) { first = false; }
            }
            if (first) { sum += arena[arg(10u) + ((at.image * arg(7u) + v) * arg(8u) + h) * channels + at.channel]; }
        }
    }
    arena[arg(11u) + i] = sum;
}
