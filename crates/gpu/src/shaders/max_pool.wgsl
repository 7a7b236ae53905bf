// Y[image, v, h, channel] = the largest value of a window of X [images, height, width, channels].
// Arguments: 0 images, 1 height, 2 width, 3 channels, 4 side of a window, 5 stride, 6 padding, 7 and 8 height and width of the
// output, 9 X, 10 Y; 6 is 0.
// Grid: a thread for each value of Y.
// CPU twin: twin::max_pool. Exact.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let channels = arg(3u);
    if (i >= arg(0u) * arg(7u) * arg(8u) * channels) { return; }
    let first = window(i);
    var most = 0.0;
    for (var k = 0u; k < arg(4u) * arg(4u); k++) {
        let value = arena[arg(9u) + first + (k / arg(4u) * arg(2u) + k % arg(4u)) * channels];
        if (k == 0u || value > most) { most = value; }
    }
    arena[arg(10u) + i] = most;
}
