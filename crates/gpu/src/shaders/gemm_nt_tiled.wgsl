// Y_z[m, n] = sum_k X[m, k] W_z[n, k] (+ R[m, n]), for up to three weights that share X: tiles in workgroup memory.
// Arguments: 0 M, 1 K (a multiple of 4), 2 X, 3 R or NONE; for each z: 4+3z N, W (in params), Y. All places are multiples
// of 4; rows of Y and R are N rounded up to 4 apart.
// Grid: x over N and y over M in tiles of 64, z over weights; a thread makes 8 x 8 values that lie 8 apart, so that
// neighbours read neighbouring words of workgroup memory.
// CPU twin: twin::gemm_nt. Tolerance 1e-5 relative to the sum of magnitudes.

// [4 of k][64 of m or n]
var<workgroup> left: array<vec4<f32>, 256>;
var<workgroup> right: array<vec4<f32>, 256>;

@compute @workgroup_size(8, 8)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let rows = arg(0u);
    let depth = arg(1u) / 4u;
    let cols = arg(4u + 3u * group.z);
    let row = group.y * 64u;
    let col = group.x * 64u;
    // Each thread loads four vectors of either side: rows 16 apart, always the same quarter of the k.
    let quarter = thread & 3u;
    let x = arg(2u) / 4u + quarter;
    let w = arg(5u + 3u * group.z) / 4u + quarter;
    //@ for l in 4
    let line$l = thread / 4u + $lu * 16u;
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
        right[quarter * 64u + line$l] = select(vec4<f32>(), params[w$l + k], inside);
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
    let stride = (cols + 3u) / 4u * 4u;
    let y = arg(6u + 3u * group.z);
    //@ for i in 8
    //@ for j in 8
    store(y, row + id.y + $iu * 8u, col + id.x + $ju * 8u, stride, c$i$j);
    //@ end
    //@ end
}

fn store(y: u32, row: u32, col: u32, stride: u32, value: f32) {
    if (row >= arg(0u) || col >= stride) { return; }
    let at = row * stride + col;
    var sum = value;
    if (arg(3u) != NONE) { sum += arena[(arg(3u) + at) / 4u][at & 3u]; }
    arena[(y + at) / 4u][at & 3u] = sum;
}
