// Gradients of attention for keys (with the rotation of RoPE undone) and values, summed over the query heads of a group.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 dK, 8 log-sum-exp, 9 dO, 10 delta, 11 dV,
// 12 RoPE table; 8 and 10 in stats.
// Grid: a thread for each (batch, key head, key).
// CPU twin: twin::attention_backward. Tolerance 1e-4.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let context = arg(1u);
    let heads = arg(2u);
    let keys = arg(3u);
    let index = flat_index(id, groups);
    if (index >= arg(0u) * keys * context) { return; }
    let j = index % context;
    let key_head = index / context % keys;
    let b = index / (context * keys);
    let at = ((b * context + j) * keys + key_head) * HEAD;
    let scale = inverseSqrt(f32(HEAD));
    var key: array<f32, HEAD>;
    var value: array<f32, HEAD>;
    var dk: array<f32, HEAD>;
    var dv: array<f32, HEAD>;
    for (var i = 0u; i < HEAD; i++) {
        key[i] = arena[arg(5u) + at + i] * scale;
        value[i] = arena[arg(6u) + at + i];
        dk[i] = 0.0;
        dv[i] = 0.0;
    }
    let group = heads / keys;
    for (var g = 0u; g < group; g++) {
        let head = key_head * group + g;
        for (var t = j; t < context; t++) {
            let row = ((b * context + t) * heads + head) * HEAD;
            let line = (b * heads + head) * context + t;
            var score = 0.0;
            var dp = 0.0;
            for (var i = 0u; i < HEAD; i++) {
                score += arena[arg(4u) + row + i] * key[i];
                dp += arena[arg(9u) + row + i] * value[i];
            }
            let p = exp(score - stats[arg(8u) + line]);
            let ds = p * (dp - stats[arg(10u) + line]) * scale;
            for (var i = 0u; i < HEAD; i++) {
                dk[i] += ds * arena[arg(4u) + row + i];
                dv[i] += p * arena[arg(9u) + row + i];
            }
        }
    }
    for (var i = 0u; i < HEAD; i++) { arena[arg(11u) + at + i] = dv[i]; }
    for (var i = 0u; i < HEAD / 2u; i++) {
        let cosine = arena[arg(12u) + j * (HEAD / 2u) + i];
        let sine = arena[arg(12u) + (context + j) * (HEAD / 2u) + i];
        arena[arg(7u) + at + i] = dk[i] * cosine + dk[i + HEAD / 2u] * sine;
        arena[arg(7u) + at + i + HEAD / 2u] = dk[i + HEAD / 2u] * cosine - dk[i] * sine;
    }
}
