// Y_z[m, n] = sum_k X[m, k] W_z[n, k] (+ R[m, n]), for up to three weights that share X: tiles in workgroup memory.
// Arguments: 0 M, 1 K (a multiple of 4), 2 X, 3 R or NONE; for each z: 4+3z N, W (in params), Y. All places are multiples
// of 4; rows of Y and R are N rounded up to 4 apart, or what argument 13
// says.
// With BATCH, the z-th of stacks of matrices: see product.wgsl.
// Grid: x over N and y over M in tiles of 64, z over weights; a thread makes 8 rows, 8 apart, of two vectors
// that lie 32 values apart. Columns lie in workgroup memory such that neighbours read neighbouring words.
// CPU twin: twin::gemm_nt. Tolerance 1e-5 relative to the sum of magnitudes.

// [4 of k][64 of m or n]
var<workgroup> left: array<vec4<f32>, 256>;
var<workgroup> right: array<vec4<f32>, 256>;

@compute @workgroup_size(8, 8)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let rows = arg(0u);
    let depth = arg(1u) / 4u;
    let cols = arg(4u + part(group.z));
    let row = group.y * 64u;
    let col = group.x * 64u;
    // Each thread loads four vectors of either side: rows 16 apart, always the same quarter of the k.
    let quarter = thread & 3u;
    let x = arg(2u) / 4u + shift(7u, group.z) + quarter;
    let w = arg(5u + part(group.z)) / 4u + shift(8u, group.z) + quarter;
    //@ for l in 4
    let line$l = thread / 4u + $lu * 16u;
    // Column 4 t + j of a half is thread t's j-th.
    let slot$l = (line$l & 31u) / 4u + (line$l / 32u * 4u + (line$l & 3u)) * 8u;
    let x$l = x + min(row + line$l, rows - 1u) * depth;
    let w$l = w + min(col + line$l, cols - 1u) * depth;
    //@ end
    //@ for i in 8
    //@ for j in 8
    var c$i$j = 0.0;
    //@ end
    //@ end
    for (var k = 0u; k < depth; k += 4u) {
        let inside = k + quarter < depth;
        //@ for l in 4
        left[quarter * 64u + line$l] = select(vec4<f32>(), arena[x$l + k], inside);
        right[quarter * 64u + slot$l] = select(vec4<f32>(), right_at(w$l + k), inside);
        //@ end
        workgroupBarrier();
        for (var q = 0u; q < 256u; q += 64u) {
            //@ for i in 8
            let a$i = left[q + id.y + $iu * 8u];
            //@ end
            //@ for j in 8
            let b$j = right[q + id.x + $ju * 8u];
            //@ for i in 8
            c$i$j += dot(a$i, b$j);
            //@ end
            //@ end
        }
        workgroupBarrier();
    }
    let stride = (cols + 3u) / 4u;
    let pitch = select(arg(13u) / 4u, stride, arg(13u) == 0u);
    let at = col / 4u + id.x;
    let y = arg(6u + part(group.z)) / 4u;
    //@ for i in 8
    if (row + id.y + $iu * 8u < rows) {
        let line = (row + id.y + $iu * 8u) * pitch + at;
        if (at < stride) { store(y, group.z, line, vec4<f32>(c$i0, c$i1, c$i2, c$i3)); }
        if (at + 8u < stride) { store(y, group.z, line + 8u, vec4<f32>(c$i4, c$i5, c$i6, c$i7)); }
    }
    //@ end
}

fn store(y: u32, z: u32, at: u32, value: vec4<f32>) {
    //@ if BATCH
    store_scaled(6u, z, at, value);
    //@ else
    if (arg(3u) == NONE) { arena[y + at] = value; } else { arena[y + at] = value + arena[arg(3u) / 4u + at]; }
    //@ end
}
