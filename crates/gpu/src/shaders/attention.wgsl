// O = softmax(Q K^T / sqrt(head size), causal) V for grouped-query heads, with an online softmax; keeps the
// log-sum-exp of each row (Dao et al., arXiv 2205.14135).
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 O, 8 log-sum-exp [batch, heads, context]
// (in stats).
// Grid: a thread for each (batch, head, query).
// CPU twin: twin::attention. Tolerance 1e-5.

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
    let q = arg(4u) + ((b * context + t) * heads + head) * HEAD;
    let scale = inverseSqrt(f32(HEAD));
    var query: array<f32, HEAD>;
    var sum: array<f32, HEAD>;
    for (var i = 0u; i < HEAD; i++) { query[i] = arena[q + i] * scale; sum[i] = 0.0; }
    var largest = -3.0e38;
    var total = 0.0;
    for (var j = 0u; j <= t; j++) {
        let row = ((b * context + j) * keys + key_head) * HEAD;
        var score = 0.0;
        for (var i = 0u; i < HEAD; i++) { score += query[i] * arena[arg(5u) + row + i]; }
        let next = max(largest, score);
        let shrink = exp(largest - next);
        let weight = exp(score - next);
        total = total * shrink + weight;
        for (var i = 0u; i < HEAD; i++) { sum[i] = sum[i] * shrink + weight * arena[arg(6u) + row + i]; }
        largest = next;
    }
    let o = arg(7u) + ((b * context + t) * heads + head) * HEAD;
    for (var i = 0u; i < HEAD; i++) { arena[o + i] = sum[i] / total; }
    stats[arg(8u) + index] = largest + log(total);
}
