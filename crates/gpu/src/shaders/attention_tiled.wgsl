// O = softmax(Q K^T / sqrt(head size), causal) V for grouped-query heads, with an online softmax; keeps the
// log-sum-exp of each row (Dao, arXiv 2307.08691). Queries, and keys and then values, lie in workgroup memory in blocks of 32.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 O, 8 log-sum-exp [batch, heads, context]
// (in stats). The head size is a multiple of 8, places of tensors multiples of 4.
// Grid: a workgroup for each (batch, head, 32 queries), the last queries, which see most, first. A thread makes scores of 4
// queries, 8 apart, with 4 keys, and then as many parts of their outputs.
// CPU twin: twin::attention. Tolerance 1e-5.

var<workgroup> own: array<vec4<f32>, BLOCK>;
// [32 queries][8 of keys, and one between rows]
var<workgroup> weights: array<vec4<f32>, 288>;

@compute @workgroup_size(8, 8)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let context = arg(1u);
    let heads = arg(2u);
    let keys = arg(3u);
    let blocks = (context + 31u) / 32u;
    let index = group.x + group.y * groups.x;
    if (index >= arg(0u) * heads * blocks) { return; }
    let first = (blocks - 1u - index % blocks) * 32u;
    let head = index / blocks % heads;
    let b = index / (blocks * heads);
    let q = (b * context * heads + head) * HEAD4;
    let k = (b * context * keys + head / (heads / keys)) * HEAD4;
    let scale = inverseSqrt(f32(HEAD));
    for (var i = thread; i < 32u * HEAD4; i += 64u) {
        let at = min(first + i / HEAD4, context - 1u) * heads * HEAD4 + i % HEAD4;
        own[i / HEAD4 * PITCH + i % HEAD4] = arena[arg(4u) / 4u + q + at] * scale;
    }
    //@ for i in 4
    let t$i = first + id.y + $iu * 8u;
    var largest$i = -3.0e38;
    var total$i = 0.0;
    //@ for c in SHARE
    var o$i$c = vec4<f32>();
    //@ end
    //@ end
    for (var j = 0u; j <= first; j += 32u) {
        load(arg(5u) / 4u + k, keys * HEAD4, j, thread);
        workgroupBarrier();
        //@ for i in 4
        var s$i = vec4<f32>();
        //@ end
        for (var d = 0u; d < HEAD4; d++) {
            //@ for e in 4
            let b$e = other[($eu * 8u + id.x) * PITCH + d];
            //@ end
            //@ for i in 4
            let a$i = own[(id.y + $iu * 8u) * PITCH + d];
            s$i += vec4<f32>(dot(a$i, b0), dot(a$i, b1), dot(a$i, b2), dot(a$i, b3));
            //@ end
        }
        let key = vec4<u32>(0u, 1u, 2u, 3u) + j + 4u * id.x;
        //@ for i in 4
        s$i = select(vec4<f32>(-3.0e38), s$i, key <= vec4<u32>(t$i));
        weights[(id.y + $iu * 8u) * 9u + id.x] = s$i;
        //@ end
        workgroupBarrier();
        //@ for i in 4
        var next$i = largest$i;
        //@ end
        for (var w = 0u; w < 8u; w++) {
            //@ for i in 4
            let four$i = weights[(id.y + $iu * 8u) * 9u + w];
            next$i = max(next$i, max(max(four$i.x, four$i.y), max(four$i.z, four$i.w)));
            //@ end
        }
        workgroupBarrier();
        //@ for i in 4
        weights[(id.y + $iu * 8u) * 9u + id.x] = exp(s$i - next$i);
        let shrink$i = exp(largest$i - next$i);
        largest$i = next$i;
        total$i *= shrink$i;
        //@ for c in SHARE
        o$i$c *= shrink$i;
        //@ end
        //@ end
        load(arg(6u) / 4u + k, keys * HEAD4, j, thread);
        workgroupBarrier();
        for (var w = 0u; w < 8u; w++) {
            //@ for e in 4
            //@ for c in SHARE
            let v$e$c = other[($eu * 8u + w) * PITCH + min(id.x + $cu * 8u, HEAD4 - 1u)];
            //@ end
            //@ end
            //@ for i in 4
            let p$i = weights[(id.y + $iu * 8u) * 9u + w];
            total$i += p$i.x + p$i.y + p$i.z + p$i.w;
            //@ for c in SHARE
            o$i$c += p$i.x * v0$c + p$i.y * v1$c + p$i.z * v2$c + p$i.w * v3$c;
            //@ end
            //@ end
        }
        workgroupBarrier();
    }
    //@ for i in 4
    if (t$i < context) {
        let o = arg(7u) / 4u + q + t$i * heads * HEAD4;
        //@ for c in SHARE
        if (id.x + $cu * 8u < HEAD4) { arena[o + id.x + $cu * 8u] = o$i$c / total$i; }
        //@ end
        if (id.x == 0u) { stats[arg(8u) + (b * heads + head) * context + t$i] = largest$i + log(total$i); }
    }
    //@ end
}
