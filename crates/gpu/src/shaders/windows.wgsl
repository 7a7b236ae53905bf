// Windows over images [images, height, width, channels].
// Arguments: 0 images, 1 height, 2 width, 3 channels, 4 side of a window, 5 stride, 6 padding, 7 and 8 how many windows lie
// down and across.

// A value of the images.
struct Place {
    image: u32,
    // With the padding before it.
    y: u32,
    x: u32,
    channel: u32,
    // The windows that reach it, down and across, ends excluded.
    top: u32,
    bottom: u32,
    left: u32,
    right: u32,
}

fn place(i: u32) -> Place {
    let side = arg(4u);
    let channels = arg(3u);
    let x = i / channels % arg(2u) + arg(6u);
    let y = i / (channels * arg(2u)) % arg(1u) + arg(6u);
    let image = i / (channels * arg(2u) * arg(1u));
    // Those that start at most a side before it.
    let top = select(0u, (y - side) / arg(5u) + 1u, y >= side);
    let left = select(0u, (x - side) / arg(5u) + 1u, x >= side);
    let bottom = min(y / arg(5u) + 1u, arg(7u));
    let right = min(x / arg(5u) + 1u, arg(8u));
    return Place(image, y, x, i % channels, top, bottom, left, right);
}

// Where the window of the i-th value of [images, down, across, channels] begins among the images.
fn window(i: u32) -> u32 {
    let channels = arg(3u);
    let across = i / channels % arg(8u);
    let down = i / (channels * arg(8u)) % arg(7u);
    let image = i / (channels * arg(8u) * arg(7u));
    return ((image * arg(1u) + down * arg(5u)) * arg(2u) + across * arg(5u)) * channels + i % channels;
}
