// Gradient of attention for the queries, with the rotation of RoPE undone; also delta = rowsum(dO O) for the gradients of
// keys and values. Queries, their gradients, and keys and values in turn lie in workgroup memory in blocks of 32.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 O, 8 log-sum-exp, 9 dO, 10 delta, 11 dQ,
// 12 RoPE table; 8 and 10 in stats. The head size is a multiple of 8, places of tensors multiples of 4.
// Grid: a workgroup for each (batch, head, 32 queries), the last queries, which see most, first. A thread makes scores of 4
// queries, 8 apart, with 4 keys, and then as many parts of their gradients.
// CPU twin: twin::attention_backward. Tolerance 1e-4.

var<workgroup> own: array<vec4<f32>, BLOCK>;
var<workgroup> gradient: array<vec4<f32>, BLOCK>;
// [32 queries][8 of keys, and one between rows]
var<workgroup> weights: array<vec4<f32>, 288>;
var<workgroup> deltas: array<f32, 32>;

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
    let line = (b * heads + head) * context;
    let scale = inverseSqrt(f32(HEAD));
    for (var i = thread; i < 32u * HEAD4; i += 64u) {
        let at = q + min(first + i / HEAD4, context - 1u) * heads * HEAD4 + i % HEAD4;
        own[i / HEAD4 * PITCH + i % HEAD4] = arena[arg(4u) / 4u + at] * scale;
        gradient[i / HEAD4 * PITCH + i % HEAD4] = arena[arg(9u) / 4u + at];
    }
    workgroupBarrier();
    if (thread < 32u) {
        let t = min(first + thread, context - 1u);
        var delta = 0.0;
        for (var d = 0u; d < HEAD4; d++) {
            delta += dot(gradient[thread * PITCH + d], arena[arg(7u) / 4u + q + t * heads * HEAD4 + d]);
        }
        deltas[thread] = delta;
        if (first + thread < context) { stats[arg(10u) + line + t] = delta; }
    }
    workgroupBarrier();
    //@ for i in 4
    let t$i = first + id.y + $iu * 8u;
    let lse$i = stats[arg(8u) + line + min(t$i, context - 1u)];
    let delta$i = deltas[id.y + $iu * 8u];
    //@ for c in SHARE
    var d$i$c = vec4<f32>();
    //@ end
    //@ end
    for (var j = 0u; j <= first; j += 32u) {
        load(arg(5u) / 4u + k, keys * HEAD4, j, thread);
        workgroupBarrier();
        //@ for i in 4
        var s$i = vec4<f32>();
        var p$i = vec4<f32>();
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
        workgroupBarrier();
        load(arg(6u) / 4u + k, keys * HEAD4, j, thread);
        workgroupBarrier();
        for (var d = 0u; d < HEAD4; d++) {
            //@ for e in 4
            let b$e = other[($eu * 8u + id.x) * PITCH + d];
            //@ end
            //@ for i in 4
            let a$i = gradient[(id.y + $iu * 8u) * PITCH + d];
            p$i += vec4<f32>(dot(a$i, b0), dot(a$i, b1), dot(a$i, b2), dot(a$i, b3));
            //@ end
        }
        let key = vec4<u32>(0u, 1u, 2u, 3u) + j + 4u * id.x;
        //@ for i in 4
        let ds$i = exp(s$i - lse$i) * (p$i - delta$i) * scale;
        weights[(id.y + $iu * 8u) * 9u + id.x] = select(vec4<f32>(), ds$i, key <= vec4<u32>(t$i));
        //@ end
        workgroupBarrier();
        load(arg(5u) / 4u + k, keys * HEAD4, j, thread);
        workgroupBarrier();
        for (var w = 0u; w < 8u; w++) {
            //@ for e in 4
            //@ for c in SHARE
            let k$e$c = other[($eu * 8u + w) * PITCH + min(id.x + $cu * 8u, HEAD4 - 1u)];
            //@ end
            //@ end
            //@ for i in 4
            let w$i = weights[(id.y + $iu * 8u) * 9u + w];
            //@ for c in SHARE
            d$i$c += w$i.x * k0$c + w$i.y * k1$c + w$i.z * k2$c + w$i.w * k3$c;
            //@ end
            //@ end
        }
        workgroupBarrier();
    }
    //@ for i in 4
    //@ for c in SHARE
    if (id.x + $cu * 8u < HEAD4) { own[(id.y + $iu * 8u) * PITCH + id.x + $cu * 8u] = d$i$c; }
    //@ end
    //@ end
    workgroupBarrier();
    for (var i = thread; i < 32u * HEAD8; i += 64u) {
        let t = first + i / HEAD8;
        if (t < context) {
            let half = i % HEAD8;
            let table = arg(12u) / 4u + t * HEAD8 + half;
            let cosine = arena[table];
            let sine = arena[table + context * HEAD8];
            let low = own[i / HEAD8 * PITCH + half];
            let high = own[i / HEAD8 * PITCH + HEAD8 + half];
            let dq = arg(11u) / 4u + q + t * heads * HEAD4 + half;
            arena[dq] = low * cosine + high * sine;
            arena[dq + HEAD8] = high * cosine - low * sine;
        }
    }
}
