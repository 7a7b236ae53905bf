// Gradient of attention for the queries, with the rotation of RoPE undone; also delta = rowsum(dO O) for attention_dkv.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 O, 8 log-sum-exp, 9 dO, 10 delta, 11 dQ,
// 12 RoPE table; 8 and 10 in stats.
// Grid: a thread for each (batch, head, query).
// CPU twin: twin::attention_backward. Tolerance 1e-4.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let context = arg(1u);
    let heads = arg(2u);
    let keys = arg(3u);
    let index = flat_index(id, groups);
    if (index >= arg(0u) * heads * context) { return; }
    let t = index % context;
    let head = index / context % heads;
    let b = index / (context * heads);
    let key_head = head / (heads / keys);
    let at = ((b * context + t) * heads + head) * HEAD;
    let scale = inverseSqrt(f32(HEAD));
    var query: array<f32, HEAD>;
    var gradient: array<f32, HEAD>;
    var sum: array<f32, HEAD>;
    var delta = 0.0;
    for (var i = 0u; i < HEAD; i++) {
        query[i] = arena[arg(4u) + at + i] * scale;
        gradient[i] = arena[arg(9u) + at + i];
        delta += gradient[i] * arena[arg(7u) + at + i];
        sum[i] = 0.0;
    }
    stats[arg(10u) + index] = delta;
    let lse = stats[arg(8u) + index];
    for (var j = 0u; j <= t; j++) {
        let row = ((b * context + j) * keys + key_head) * HEAD;
        var score = 0.0;
        var dp = 0.0;
        for (var i = 0u; i < HEAD; i++) {
            score += query[i] * arena[arg(5u) + row + i];
            dp += gradient[i] * arena[arg(6u) + row + i];
        }
        let ds = exp(score - lse) * (dp - delta) * scale;
        for (var i = 0u; i < HEAD; i++) { sum[i] += ds * arena[arg(5u) + row + i]; }
    }
    for (var i = 0u; i < HEAD / 2u; i++) {
        let cosine = arena[arg(12u) + t * (HEAD / 2u) + i];
        let sine = arena[arg(12u) + (context + t) * (HEAD / 2u) + i];
        arena[arg(11u) + at + i] = sum[i] * cosine + sum[i + HEAD / 2u] * sine;
        arena[arg(11u) + at + i + HEAD / 2u] = sum[i + HEAD / 2u] * cosine - sum[i] * sine;
    }
}
