// The side of attention that a workgroup goes through block by block.

var<workgroup> other: array<vec4<f32>, BLOCK>;

// 32 rows from `first`; row 4 x + e is the e-th of thread column x, and what neighbours read is 16 bytes apart.
fn load(tensor: u32, distance: u32, first: u32, thread: u32) {
    for (var i = thread; i < 32u * HEAD4; i += 64u) {
        let row = i / HEAD4;
        let slot = (row & 3u) * 8u + row / 4u;
        other[slot * PITCH + i % HEAD4] = arena[tensor + min(first + row, arg(1u) - 1u) * distance + i % HEAD4];
    }
}
