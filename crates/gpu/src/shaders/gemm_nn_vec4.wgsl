// dX[m, k] (+)= sum over parts p and n of dY_p[m, n] W_p[n, k], for up to three weights that shared X: tiles in registers.
// Arguments: 0 M, 1 K (a multiple of 4), 2 dX, 3 number of parts (+ 16 to add to dX); for each p: 4+3p N, W (in params),
// dY. All places are multiples of 4; rows of dY are N rounded up to 4 apart, with zeros after N, or what
// argument 13 says.
// With BATCH, the z-th of stacks of matrices, in one part: see product.wgsl.
// Grid: x over K and y over M in tiles of 8; a thread makes 8 x 8 values.
// With QUAD, four neighbours that share rows load a quarter of dY each and pass it around.
// CPU twin: twin::gemm_nn. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(WIDE, HIGH)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let rows = arg(0u);
    let cols = arg(1u) / 4u;
    let parts = arg(3u) & 15u;
    let row = id.y * 8u;
    let col = id.x * 2u;
    //@ if QUAD
    let lane = id.x & 3u;
    //@ else
    if (row >= rows || col >= cols) { return; }
    //@ end
    //@ for j in 2
    let q$j = min(col + $ju, cols - 1u);
    //@ end
    //@ for g in 2
    //@ for s in 4
    //@ for j in 2
    var c$g$s$j = vec4<f32>();
    //@ end
    //@ end
    //@ end
    for (var p = 0u; p < parts; p++) {
        let outputs = arg(4u + 3u * p);
        let depth = (outputs + 3u) / 4u;
        let pitch = select(arg(13u) / 4u, depth, arg(13u) == 0u);
        let w = arg(5u + 3u * p) / 4u + shift(8u, id.z);
        let dy = arg(6u + 3u * p) / 4u + shift(7u, id.z);
        //@ for g in 2
        //@ if QUAD
        let d$g = dy + min(row + $gu * 4u + lane, rows - 1u) * pitch;
        //@ else
        //@ for s in 4
        let d$g$s = dy + min(row + $gu * 4u + $su, rows - 1u) * pitch;
        //@ end
        //@ end
        //@ end
        for (var n = 0u; n < depth; n++) {
            //@ if QUAD
            //@ for g in 2
            let part$g = arena[d$g + n];
            //@ end
            //@ end
            //@ for e in 4
            let line$e = w + min(n * 4u + $eu, outputs - 1u) * cols;
            //@ for j in 2
            let b$e$j = right_at(line$e + q$j);
            //@ end
            //@ end
            //@ for g in 2
            //@ for s in 4
            //@ if QUAD
            let a$g$s = quadBroadcast(part$g, $su);
            //@ else
            let a$g$s = arena[d$g$s + n];
            //@ end
            //@ for j in 2
            c$g$s$j += a$g$s.x * b0$j + a$g$s.y * b1$j + a$g$s.z * b2$j + a$g$s.w * b3$j;
            //@ end
            //@ end
            //@ end
        }
    }
    // A loop: written out it would take longer to compile than the product itself.
    var sums = array<vec4<f32>, 16>(
        //@ for g in 2
        //@ for s in 4
        c$g$s0, c$g$s1,
        //@ end
        //@ end
    );
    let dx = arg(2u) / 4u;
    let adds = arg(3u) >= 16u;
    for (var i = 0u; i < 16u; i++) {
        if (row + i / 2u < rows && col + (i & 1u) < cols) {
            let at = (row + i / 2u) * cols + col + (i & 1u);
            //@ if BATCH
            store_scaled(2u, id.z, at, sums[i]);
            //@ else
            var value = sums[i];
            if (adds) { value += arena[dx + at]; }
            arena[dx + at] = value;
            //@ end
        }
    }
}
