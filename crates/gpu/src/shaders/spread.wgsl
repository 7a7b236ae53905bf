// Windows of images X [images, height, width, channels] as rows S[image, place, (channel, row, column)], zero outside.
// Arguments: 0 images, 1 height, 2 width, 3 channels, 4 side of a window, 5 stride, 6 padding, 7 and 8 height and width of the
// output, 9 X, 10 S.
// Grid: a thread for each value of S.
// CPU twin: twin::spread. Exact.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    let side = arg(4u);
    let width = arg(3u) * side * side;
    let places = arg(7u) * arg(8u);
    if (i >= arg(0u) * places * width) { return; }
    let k = i % width;
    let place = i / width % places;
    let image = i / (width * places);
    // Below zero is far above the height when it wraps.
    let y = place / arg(8u) * arg(5u) + k / side % side - arg(6u);
    let x = place % arg(8u) * arg(5u) + k % side - arg(6u);
    var value = 0.0;
    if (y < arg(1u) && x < arg(2u)) {
        value = arena[arg(9u) + ((image * arg(1u) + y) * arg(2u) + x) * arg(3u) + k / (side * side)];
    }
    arena[arg(10u) + i] = value;
}
