// Gradients of attention for keys (with the rotation of RoPE undone) and values, summed over the query heads of a group.
// Everything of a key lies in registers.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 dK, 8 log-sum-exp, 9 dO, 10 delta, 11 dV,
// 12 RoPE table; 8 and 10 in stats. The head size is a multiple of 8, the context and places multiples of 4.
// Grid: a thread for each (batch, key head, key).
// With QUAD, four neighbours are keys of one head, load a quarter of a query or its gradient each and pass it around.
// CPU twin: twin::attention_backward. Tolerance 1e-4.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let context = arg(1u);
    let heads = arg(2u);
    let keys = arg(3u);
    let last = arg(0u) * keys * context - 1u;
    let thread = flat_index(id, groups);
    //@ if QUAD
    let index = select(thread, last - 3u + (thread & 3u), thread > last);
    let lane = thread & 3u;
    //@ else
    if (thread > last) { return; }
    let index = thread;
    //@ end
    let j = index % context;
    let key_head = index / context % keys;
    let b = index / (context * keys);
    let at = ((b * context + j) * keys + key_head) * HEAD4;
    let step = heads * HEAD4;
    let scale = inverseSqrt(f32(HEAD4 * 4u));
    //@ for h in 2
    //@ for i in HEAD8
    let k$h$i = arena[arg(5u) / 4u + at + $hu * HEAD8 + $iu] * scale;
    let v$h$i = arena[arg(6u) / 4u + at + $hu * HEAD8 + $iu];
    var dk$h$i = vec4<f32>();
    var dv$h$i = vec4<f32>();
    //@ end
    //@ end
    let group = heads / keys;
    for (var g = 0u; g < group; g++) {
        let head = key_head * group + g;
        let q = arg(4u) / 4u + (b * context * heads + head) * HEAD4;
        let d_o = arg(9u) / 4u + (b * context * heads + head) * HEAD4;
        let line = (b * heads + head) * context;
        for (var t = j & ~3u; t < context; t += 4u) {
            //@ for e in 4
            var s$e = 0.0;
            var p$e = 0.0;
            //@ end
            //@ for h in 2
            //@ for i in HEAD8
            //@ if QUAD
            let query$h$i = arena[q + (t + lane) * step + $hu * HEAD8 + $iu];
            let out$h$i = arena[d_o + (t + lane) * step + $hu * HEAD8 + $iu];
            //@ for e in 4
            let query$h$i$e = quadBroadcast(query$h$i, $eu);
            let out$h$i$e = quadBroadcast(out$h$i, $eu);
            s$e += dot(k$h$i, query$h$i$e);
            p$e += dot(v$h$i, out$h$i$e);
            //@ end
            //@ else
            //@ for e in 4
            s$e += dot(k$h$i, arena[q + (t + $eu) * step + $hu * HEAD8 + $iu]);
            p$e += dot(v$h$i, arena[d_o + (t + $eu) * step + $hu * HEAD8 + $iu]);
            //@ end
            //@ end
            //@ end
            //@ end
            let lse = row_of_four(arg(8u) + line + t);
            let delta = row_of_four(arg(10u) + line + t);
            let seen = vec4<u32>(t, t + 1u, t + 2u, t + 3u) >= vec4<u32>(j);
            let p = select(vec4<f32>(), exp(vec4<f32>(s0, s1, s2, s3) - lse), seen);
            let ds = p * (vec4<f32>(p0, p1, p2, p3) - delta) * scale;
            //@ for h in 2
            //@ for i in HEAD8
            //@ for e in 4
            //@ if QUAD
            dk$h$i += ds[$e] * query$h$i$e;
            dv$h$i += p[$e] * out$h$i$e;
            //@ else
            dk$h$i += ds[$e] * arena[q + (t + $eu) * step + $hu * HEAD8 + $iu];
            dv$h$i += p[$e] * arena[d_o + (t + $eu) * step + $hu * HEAD8 + $iu];
            //@ end
            //@ end
            //@ end
            //@ end
        }
    }
    var gradients = array<array<vec4<f32>, 4>, HEAD8>(
        //@ for i in HEAD8
        array<vec4<f32>, 4>(dk0$i, dk1$i, dv0$i, dv1$i),
        //@ end
    );
    let dk = arg(7u) / 4u + at;
    let dv = arg(11u) / 4u + at;
    let table = arg(12u) / 4u + j * HEAD8;
    for (var i = 0u; i < HEAD8; i++) {
        let cosine = arena[table + i];
        let sine = arena[table + context * HEAD8 + i];
        arena[dk + i] = gradients[i][0] * cosine + gradients[i][1] * sine;
        arena[dk + HEAD8 + i] = gradients[i][1] * cosine - gradients[i][0] * sine;
        arena[dv + i] = gradients[i][2];
        arena[dv + HEAD8 + i] = gradients[i][3];
    }
}

fn row_of_four(at: u32) -> vec4<f32> {
    return vec4<f32>(stats[at], stats[at + 1u], stats[at + 2u], stats[at + 3u]);
}
