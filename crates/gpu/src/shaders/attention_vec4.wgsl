// O = softmax(Q K^T / sqrt(head size), causal) V for grouped-query heads, with an online softmax over four keys at a time;
// keeps the log-sum-exp of each row (Dao et al., arXiv 2205.14135). Everything of a query lies in registers.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 O, 8 log-sum-exp [batch, heads, context]
// (in stats). The head size is a multiple of 8, places are multiples of 4.
// Grid: a thread for each (batch, head, query).
// With QUAD (the context is a multiple of 4), four neighbours are queries of one head, load a quarter of a key or a value
// each and pass it around.
// CPU twin: twin::attention. Tolerance 1e-5.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let context = arg(1u);
    let heads = arg(2u);
    let keys = arg(3u);
    let last = arg(0u) * heads * context - 1u;
    let thread = flat_index(id, groups);
    //@ if QUAD
    // Threads past the end repeat the last quad, so that no quad is cut.
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
    let q = arg(4u) / 4u + at;
    let row = (b * context * keys + head / (heads / keys)) * HEAD4;
    let k = arg(5u) / 4u + row;
    let v = arg(6u) / 4u + row;
    let step = keys * HEAD4;
    let scale = inverseSqrt(f32(HEAD4 * 4u));
    //@ for i in HEAD4
    let q$i = arena[q + $iu] * scale;
    var o$i = vec4<f32>();
    //@ end
    var largest = -3.0e38;
    var total = 0.0;
    //@ if QUAD
    let end = (t | 3u) + 1u;
    //@ else
    let end = t + 1u;
    //@ end
    for (var j = 0u; j < end; j += 4u) {
        //@ for e in 4
        let line$e = min(j + $eu, context - 1u) * step;
        var s$e = 0.0;
        //@ end
        //@ for i in HEAD4
        //@ if QUAD
        let key$i = arena[k + (j + lane) * step + $iu];
        //@ for e in 4
        s$e += dot(q$i, quadBroadcast(key$i, $eu));
        //@ end
        //@ else
        //@ for e in 4
        s$e += dot(q$i, arena[k + line$e + $iu]);
        //@ end
        //@ end
        //@ end
        let scores = select(vec4<f32>(-3.0e38), vec4<f32>(s0, s1, s2, s3), vec4<u32>(j, j + 1u, j + 2u, j + 3u) <= vec4<u32>(t));
        let next = max(largest, max(max(scores.x, scores.y), max(scores.z, scores.w)));
        let shrink = exp(largest - next);
        let weights = exp(scores - next);
        total = total * shrink + weights.x + weights.y + weights.z + weights.w;
        //@ for i in HEAD4
        //@ if QUAD
        let value$i = arena[v + (j + lane) * step + $iu];
        o$i = o$i * shrink + weights.x * quadBroadcast(value$i, 0u) + weights.y * quadBroadcast(value$i, 1u)
            + weights.z * quadBroadcast(value$i, 2u) + weights.w * quadBroadcast(value$i, 3u);
        //@ else
        o$i = o$i * shrink + weights.x * arena[v + line0 + $iu] + weights.y * arena[v + line1 + $iu]
            + weights.z * arena[v + line2 + $iu] + weights.w * arena[v + line3 + $iu];
        //@ end
        //@ end
        largest = next;
    }
    let o = arg(7u) / 4u + at;
    //@ for i in HEAD4
    arena[o + $iu] = o$i / total;
    //@ end
    stats[arg(8u) + index] = largest + log(total);
}
