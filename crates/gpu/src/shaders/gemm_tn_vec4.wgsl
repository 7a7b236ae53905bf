// dW_z[n, k] (+)= sum_m dY_z[m, n] X[m, k], for up to three weights that shared X: tiles in registers.
// Arguments: 0 M (a multiple of 4), 1 K (a multiple of 4), 2 X, 3 one to add to dW, as micro-batches after the first do; for each z:
// 4+3z N, W (in grads), dY. All places are multiples of 4; rows of dY are N rounded up to 4 apart, or what argument 13 says.
// Grid: x over K and y over N in tiles of 8, z over weights; a thread makes 8 x 8 values.
// With QUAD, four neighbours that share columns of dY load a quarter each and pass it around.
// CPU twin: twin::gemm_tn. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(WIDE, HIGH)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let depth = arg(0u);
    let cols = arg(1u) / 4u;
    let x = arg(2u) / 4u;
    let outputs = arg(4u + 3u * group.z);
    let stride = (outputs + 3u) / 4u;
    let pitch = select(arg(13u) / 4u, stride, arg(13u) == 0u);
    let dy = arg(6u + 3u * group.z) / 4u;
    let row = id.y * 2u;
    let col = id.x * 2u;
    //@ if QUAD
    let lane = id.x & 3u;
    //@ else
    if (row >= stride || col >= cols) { return; }
    //@ end
    //@ for j in 2
    let r$j = dy + min(row + $ju, stride - 1u);
    let q$j = x + min(col + $ju, cols - 1u);
    //@ end
    //@ for g in 2
    //@ for s in 4
    //@ for j in 2
    var c$g$s$j = vec4<f32>();
    //@ end
    //@ end
    //@ end
    for (var m = 0u; m < depth; m += 4u) {
        //@ if QUAD
        //@ for g in 2
        let part$g = arena[r$g + (m + lane) * pitch];
        //@ end
        //@ end
        //@ for e in 4
        //@ for j in 2
        let b$e$j = arena[q$j + (m + $eu) * cols];
        //@ end
        //@ end
        //@ for g in 2
        //@ for e in 4
        //@ if QUAD
        let a$g$e = quadBroadcast(part$g, $eu);
        //@ else
        let a$g$e = arena[r$g + (m + $eu) * pitch];
        //@ end
        //@ end
        //@ for s in 4
        //@ for j in 2
        c$g$s$j += a$g0[$s] * b0$j + a$g1[$s] * b1$j + a$g2[$s] * b2$j + a$g3[$s] * b3$j;
        //@ end
        //@ end
        //@ end
    }
    // A loop: written out it would take longer to compile than the product itself.
    var sums = array<vec4<f32>, 16>(
        //@ for g in 2
        //@ for s in 4
        c$g$s0, c$g$s1,
        //@ end
        //@ end
    );
    let w = arg(5u + 3u * group.z) / 4u;
    let adds = arg(3u) != 0u || step.adds != 0u;
    for (var i = 0u; i < 16u; i++) {
        if (row * 4u + i / 2u < outputs && col + (i & 1u) < cols) {
            let at = w + (row * 4u + i / 2u) * cols + col + (i & 1u);
            var value = sums[i];
            if (adds) { value += grads[at]; }
            grads[at] = value;
        }
    }
}
