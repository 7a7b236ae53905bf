// Y_z[m, n] = sum_k X[m, k] W_z[n, k] (+ R[m, n]), for up to three weights that share X: tiles in registers.
// Arguments: 0 M, 1 K (a multiple of 4), 2 X, 3 R or NONE; for each z: 4+3z N, W (in params), Y. All places are multiples
// of 4; rows of Y and R are N rounded up to 4 apart, or what argument 13
// says.
// With BATCH, the z-th of stacks of matrices: see product.wgsl.
// Grid: x over N in tiles of 8, y over M in tiles of ROWS, z over weights; a thread makes ROWS x 8 values.
// With QUAD, four neighbours that share rows load a quarter of X each and pass it around.
// CPU twin: twin::gemm_nt. Tolerance 1e-5 relative to the sum of magnitudes.

@compute @workgroup_size(WIDE, HIGH)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
    let rows = arg(0u);
    let depth = arg(1u) / 4u;
    let x = arg(2u) / 4u + shift(7u, group.z);
    let cols = arg(4u + part(group.z));
    let w = arg(5u + part(group.z)) / 4u + shift(8u, group.z);
    let row = id.y * ROWS;
    let col = id.x * 8u;
    //@ if QUAD
    let lane = id.x & 3u;
    //@ for g in GROUPS
    let x$g = x + min(row + $gu * 4u + lane, rows - 1u) * depth;
    //@ end
    //@ else
    if (row >= rows || col >= cols) { return; }
    //@ for g in GROUPS
    //@ for s in 4
    let x$g$s = x + min(row + $gu * 4u + $su, rows - 1u) * depth;
    //@ end
    //@ end
    //@ end
    //@ for j in 8
    let w$j = w + min(col + $ju, cols - 1u) * depth;
    //@ end
    //@ for g in GROUPS
    //@ for s in 4
    //@ for j in 8
    var c$g$s$j = 0.0;
    //@ end
    //@ end
    //@ end
    for (var k = 0u; k < depth; k++) {
        //@ for g in GROUPS
        //@ if QUAD
        let part$g = arena[x$g + k];
        //@ end
        //@ for s in 4
        //@ if QUAD
        let a$g$s = quadBroadcast(part$g, $su);
        //@ else
        let a$g$s = arena[x$g$s + k];
        //@ end
        //@ end
        //@ end
        //@ for j in 8
        let b$j = right_at(w$j + k);
        //@ for g in GROUPS
        //@ for s in 4
        c$g$s$j += dot(a$g$s, b$j);
        //@ end
        //@ end
        //@ end
    }
    // A loop: written out it would take longer to compile than the product itself.
    var sums = array<vec4<f32>, ROWS * 2u>(
        //@ for g in GROUPS
        //@ for s in 4
        vec4<f32>(c$g$s0, c$g$s1, c$g$s2, c$g$s3), vec4<f32>(c$g$s4, c$g$s5, c$g$s6, c$g$s7),
        //@ end
        //@ end
    );
    let stride = (cols + 3u) / 4u;
    let pitch = select(arg(13u) / 4u, stride, arg(13u) == 0u);
    let y = arg(6u + part(group.z)) / 4u;
    for (var i = 0u; i < ROWS * 2u; i++) {
        let at = col / 4u + (i & 1u);
        if (row + i / 2u < rows && at < stride) { store(y, group.z, (row + i / 2u) * pitch + at, sums[i]); }
    }
}

fn store(y: u32, z: u32, at: u32, value: vec4<f32>) {
    //@ if BATCH
    store_scaled(6u, z, at, value);
    //@ else
    if (arg(3u) == NONE) { arena[y + at] = value; } else { arena[y + at] = value + arena[arg(3u) / 4u + at]; }
    //@ end
}
