// dW_z[n, k] (+)= sum_m dY_z[m, n] X[m, k], for up to three weights that shared X: tiles in workgroup memory.
// Arguments: 0 M (a multiple of 4), 1 K (a multiple of 4), 2 X, 3 one to add to dW, as micro-batches after the first do; for each z:
// 4+3z N, W (in grads), dY. All places are multiples of 4; rows of dY are N rounded up to 4 apart, or what argument 13 says.
// Grid: x over K and y over N in tiles of 64, z over weights; a thread makes two groups of 4 rows, 32 apart, of two
// vectors, 32 values apart.
// CPU twin: twin::gemm_tn. Tolerance 1e-5 relative to the sum of magnitudes.

// [16 of m][16 of n or k]
var<workgroup> left: array<vec4<f32>, 256>;
var<workgroup> right: array<vec4<f32>, 256>;

@compute @workgroup_size(8, 8)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let depth = arg(0u);
    let cols = arg(1u) / 4u;
    let outputs = arg(4u + 3u * group.z);
    let stride = (outputs + 3u) / 4u;
    let pitch = select(arg(13u) / 4u, stride, arg(13u) == 0u);
    let row = group.y * 16u;
    let col = group.x * 16u;
    let dy = arg(6u + 3u * group.z) / 4u + min(row + (thread & 15u), stride - 1u);
    let x = arg(2u) / 4u + min(col + (thread & 15u), cols - 1u);
    //@ for g in 2
    //@ for s in 4
    //@ for j in 2
    var c$g$s$j = vec4<f32>();
    //@ end
    //@ end
    //@ end
    for (var m = 0u; m < depth; m += 16u) {
        //@ for l in 4
        let m$l = m + thread / 16u + $lu * 4u;
        left[thread + $lu * 64u] = select(vec4<f32>(), arena[dy + min(m$l, depth - 1u) * pitch], m$l < depth);
        right[thread + $lu * 64u] = select(vec4<f32>(), arena[x + min(m$l, depth - 1u) * cols], m$l < depth);
        //@ end
        workgroupBarrier();
        for (var q = 0u; q < 256u; q += 16u) {
            //@ for j in 2
            let a$j = left[q + id.y + $ju * 8u];
            let b$j = right[q + id.x + $ju * 8u];
            //@ end
            //@ for g in 2
            //@ for s in 4
            //@ for j in 2
            c$g$s$j += a$g[$s] * b$j;
            //@ end
            //@ end
            //@ end
        }
        workgroupBarrier();
    }
    let w = arg(5u + 3u * group.z) / 4u;
    let adds = arg(3u) != 0u || step.adds != 0u;
    //@ for g in 2
    //@ for s in 4
    //@ for j in 2
    if ((row + id.y + $gu * 8u) * 4u + $su < outputs && col + id.x + $ju * 8u < cols) {
        let at = w + ((row + id.y + $gu * 8u) * 4u + $su) * cols + col + id.x + $ju * 8u;
        if (adds) { grads[at] += c$g$s$j; } else { grads[at] = c$g$s$j; }
    }
    //@ end
    //@ end
    //@ end
}
