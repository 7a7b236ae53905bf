// Gradient of attention for the queries, with the rotation of RoPE undone; also delta = rowsum(dO O) for the gradients of
// keys and values. Everything of a query lies in registers.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 O, 8 log-sum-exp, 9 dO, 10 delta, 11 dQ,
// 12 RoPE table; 8 and 10 in stats. The head size is a multiple of 8, places of tensors multiples of 4.
// Grid: a thread for each (batch, head, query).
// With QUAD (the context is a multiple of 4), four neighbours are queries of one head, load a quarter of a key or a value
// each and pass it around.
// CPU twin: twin::attention_backward. Tolerance 1e-4.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let context = arg(1u);
    let heads = arg(2u);
    let keys = arg(3u);
    let last = arg(0u) * heads * context - 1u;
    let thread = flat_index(id, groups);
    //@ if QUAD
    let index = select(thread, last - 3u + (thread & 3u), thread > last);
    let lane = thread & 3u;
    //@ else
    if (thread > last) { return; }
    let index = thread;
    //@ end
    let t = index % context;
    let head = index / context % heads;
    let b = index / (context * heads);
    let at = ((b * context + t) * heads + head) * HEAD4;
    let row = (b * context * keys + head / (heads / keys)) * HEAD4;
    let k = arg(5u) / 4u + row;
    let v = arg(6u) / 4u + row;
    let step = keys * HEAD4;
    let scale = inverseSqrt(f32(HEAD4 * 4u));
    var delta = 0.0;
    //@ for h in 2
    //@ for i in HEAD8
    let q$h$i = arena[arg(4u) / 4u + at + $hu * HEAD8 + $iu] * scale;
    let g$h$i = arena[arg(9u) / 4u + at + $hu * HEAD8 + $iu];
    delta += dot(g$h$i, arena[arg(7u) / 4u + at + $hu * HEAD8 + $iu]);
    var d$h$i = vec4<f32>();
    //@ end
    //@ end
    stats[arg(10u) + index] = delta;
    let lse = stats[arg(8u) + index];
    //@ if QUAD
    let end = (t | 3u) + 1u;
    //@ else
    let end = t + 1u;
    //@ end
    for (var j = 0u; j < end; j += 4u) {
        //@ for e in 4
        let line$e = min(j + $eu, context - 1u) * step;
        var s$e = 0.0;
        var p$e = 0.0;
        //@ end
        //@ for h in 2
        //@ for i in HEAD8
        //@ if QUAD
        let key$h$i = arena[k + (j + lane) * step + $hu * HEAD8 + $iu];
        let value$h$i = arena[v + (j + lane) * step + $hu * HEAD8 + $iu];
        //@ for e in 4
        let key$h$i$e = quadBroadcast(key$h$i, $eu);
        s$e += dot(q$h$i, key$h$i$e);
        p$e += dot(g$h$i, quadBroadcast(value$h$i, $eu));
        //@ end
        //@ else
        //@ for e in 4
        s$e += dot(q$h$i, arena[k + line$e + $hu * HEAD8 + $iu]);
        p$e += dot(g$h$i, arena[v + line$e + $hu * HEAD8 + $iu]);
        //@ end
        //@ end
        //@ end
        //@ end
        let seen = vec4<u32>(j, j + 1u, j + 2u, j + 3u) <= vec4<u32>(t);
        let weights = select(vec4<f32>(), exp(vec4<f32>(s0, s1, s2, s3) - lse), seen);
        let ds = weights * (vec4<f32>(p0, p1, p2, p3) - delta) * scale;
        //@ for h in 2
        //@ for i in HEAD8
        //@ if QUAD
        d$h$i += ds.x * key$h$i0 + ds.y * key$h$i1 + ds.z * key$h$i2 + ds.w * key$h$i3;
        //@ else
        d$h$i += ds.x * arena[k + line0 + $hu * HEAD8 + $iu] + ds.y * arena[k + line1 + $hu * HEAD8 + $iu]
            + ds.z * arena[k + line2 + $hu * HEAD8 + $iu] + ds.w * arena[k + line3 + $hu * HEAD8 + $iu];
        //@ end
        //@ end
        //@ end
    }
    var halves = array<array<vec4<f32>, 2>, HEAD8>(
        //@ for i in HEAD8
        array<vec4<f32>, 2>(d0$i, d1$i),
        //@ end
    );
    let dq = arg(11u) / 4u + at;
    let table = arg(12u) / 4u + t * HEAD8;
    for (var i = 0u; i < HEAD8; i++) {
        let cosine = arena[table + i];
        let sine = arena[table + context * HEAD8 + i];
        arena[dq + i] = halves[i][0] * cosine + halves[i][1] * sine;
        arena[dq + HEAD8 + i] = halves[i][1] * cosine - halves[i][0] * sine;
    }
}
