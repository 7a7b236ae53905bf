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
    let c = i % channels;
    let h = i / channels % arg(8u);
    let v = i / (channels * arg(8u)) % arg(7u);
    let image = i / (channels * arg(8u) * arg(7u));
    var most = 0.0;
    for (var k = 0u; k < arg(4u) * arg(4u); k++) {
        let y = v * arg(5u) + k / arg(4u);
        let x = h * arg(5u) + k % arg(4u);
        let value = arena[arg(9u) + ((image * arg(1u) + y) * arg(2u) + x) * channels + c];
        if (k == 0u || value > most) { most = value; }
    }
    arena[arg(10u) + i] = most;
}
