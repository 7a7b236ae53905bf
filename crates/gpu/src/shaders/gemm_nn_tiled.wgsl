// dX[m, k] (+)= sum over parts p and n of dY_p[m, n] W_p[n, k], for up to three weights that shared X: tiles in workgroup
// memory.
// Arguments: 0 M, 1 K (a multiple of 4), 2 dX, 3 number of parts (+ 16 to add to dX); for each p: 4+3p N, W (in params),
// dY. All places are multiples of 4; rows of dY are N rounded up to 4 apart, with zeros after N, or what
// argument 13 says.
// With BATCH, the z-th of stacks of matrices, in one part: see product.wgsl.
// Grid: x over K and y over M in tiles of 64; a thread makes 8 rows, 8 apart, of two vectors that lie 32 values apart.
// CPU twin: twin::gemm_nn. Tolerance 1e-5 relative to the sum of magnitudes.

// [4 of n][64 of m]
var<workgroup> left: array<vec4<f32>, 256>;
// [16 of n][16 of k]
var<workgroup> right: array<vec4<f32>, 256>;

@compute @workgroup_size(8, 8)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let rows = arg(0u);
    let cols = arg(1u) / 4u;
    let parts = arg(3u) & 15u;
    let row = group.y * 64u;
    let col = group.x * 16u;
    let quarter = thread & 3u;
    let across = min(col + (thread & 15u), cols - 1u);
    //@ for l in 4
    let line$l = thread / 4u + $lu * 16u;
    let m$l = min(row + line$l, rows - 1u);
    //@ end
    //@ for i in 8
    //@ for j in 2
    var c$i$j = vec4<f32>();
    //@ end
    //@ end
    for (var p = 0u; p < parts; p++) {
        let outputs = arg(4u + 3u * p);
        let depth = (outputs + 3u) / 4u;
        let pitch = select(arg(13u) / 4u, depth, arg(13u) == 0u);
        let w = arg(5u + 3u * p) / 4u + shift(8u, group.z) + across;
        let dy = arg(6u + 3u * p) / 4u + shift(7u, group.z) + quarter;
        for (var n = 0u; n < depth; n += 4u) {
            let inside = n + quarter < depth;
            //@ for l in 4
            left[quarter * 64u + line$l] = select(vec4<f32>(), arena[dy + m$l * pitch + n], inside);
            let n$l = n * 4u + thread / 16u + $lu * 4u;
            right[thread + $lu * 64u] = select(vec4<f32>(), right_at(w + min(n$l, outputs - 1u) * cols), n$l < outputs);
            //@ end
            workgroupBarrier();
            for (var q = 0u; q < 4u; q++) {
                //@ for e in 4
                //@ for j in 2
                let b$e$j = right[(q * 4u + $eu) * 16u + id.x + $ju * 8u];
                //@ end
                //@ end
                //@ for i in 8
                let a$i = left[q * 64u + id.y + $iu * 8u];
                //@ for j in 2
                c$i$j += a$i.x * b0$j + a$i.y * b1$j + a$i.z * b2$j + a$i.w * b3$j;
                //@ end
                //@ end
            }
            workgroupBarrier();
        }
    }
    let dx = arg(2u) / 4u;
    let adds = arg(3u) >= 16u;
    //@ for i in 8
    //@ for j in 2
    if (row + id.y + $iu * 8u < rows && col + id.x + $ju * 8u < cols) {
        let at = (row + id.y + $iu * 8u) * cols + col + id.x + $ju * 8u;
        //@ if BATCH
        store_scaled(2u, group.z, at, c$i$j);
        //@ else
        if (adds) { arena[dx + at] += c$i$j; } else { arena[dx + at] = c$i$j; }
        //@ end
    }
    //@ end
    //@ end
}
