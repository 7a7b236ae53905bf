// Gradients of attention for keys (with the rotation of RoPE undone) and values, summed over the query heads of a group.
// Keys, values, and queries and their gradients in turn lie in workgroup memory in blocks of 32.
// Arguments: 0 batch, 1 context, 2 query heads, 3 key heads, 4 Q, 5 K, 6 V, 7 dK, 8 log-sum-exp, 9 dO, 10 delta, 11 dV,
// 12 RoPE table; 8 and 10 in stats. The head size is a multiple of 8, places of tensors multiples of 4.
// Grid: a workgroup for each (batch, key head, 32 keys). A thread makes scores of 4 keys, 8 apart, with 4 queries, and then
// as many parts of their gradients.
// CPU twin: twin::attention_backward. Tolerance 1e-4.

var<workgroup> own: array<vec4<f32>, BLOCK>;
var<workgroup> values: array<vec4<f32>, BLOCK>;
// [32 keys][8 of queries, and one between rows]
var<workgroup> weights: array<vec4<f32>, 288>;

@compute @workgroup_size(8, 8)
fn main(@builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let context = arg(1u);
    let heads = arg(2u);
    let keys = arg(3u);
    let blocks = (context + 31u) / 32u;
    let index = group.x + group.y * groups.x;
    if (index >= arg(0u) * keys * blocks) { return; }
    let first = index % blocks * 32u;
    let key_head = index / blocks % keys;
    let b = index / (blocks * keys);
    let k = (b * context * keys + key_head) * HEAD4;
    let scale = inverseSqrt(f32(HEAD));
    for (var i = thread; i < 32u * HEAD4; i += 64u) {
        let at = k + min(first + i / HEAD4, context - 1u) * keys * HEAD4 + i % HEAD4;
        own[i / HEAD4 * PITCH + i % HEAD4] = arena[arg(5u) / 4u + at] * scale;
        values[i / HEAD4 * PITCH + i % HEAD4] = arena[arg(6u) / 4u + at];
    }
    //@ for i in 4
    let j$i = first + id.y + $iu * 8u;
    //@ for c in SHARE
    var dk$i$c = vec4<f32>();
    var dv$i$c = vec4<f32>();
    //@ end
    //@ end
    let of_group = heads / keys;
    for (var g = 0u; g < of_group; g++) {
        let head = key_head * of_group + g;
        let q = (b * context * heads + head) * HEAD4;
        let line = (b * heads + head) * context;
        for (var t = first; t < context; t += 32u) {
            load(arg(4u) / 4u + q, heads * HEAD4, t, thread);
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
            load(arg(9u) / 4u + q, heads * HEAD4, t, thread);
            workgroupBarrier();
            for (var d = 0u; d < HEAD4; d++) {
                //@ for e in 4
                let b$e = other[($eu * 8u + id.x) * PITCH + d];
                //@ end
                //@ for i in 4
                let a$i = values[(id.y + $iu * 8u) * PITCH + d];
                p$i += vec4<f32>(dot(a$i, b0), dot(a$i, b1), dot(a$i, b2), dot(a$i, b3));
                //@ end
            }
            let query = vec4<u32>(0u, 1u, 2u, 3u) + t + 4u * id.x;
            let at = min(query, vec4<u32>(context - 1u)) + line;
            let lse = row_of_four(at + arg(8u));
            let delta = row_of_four(at + arg(10u));
            let inside = query < vec4<u32>(context);
            //@ for i in 4
            s$i = select(vec4<f32>(), exp(s$i - lse), (query >= vec4<u32>(j$i)) & inside);
            p$i = s$i * (p$i - delta) * scale;
            weights[(id.y + $iu * 8u) * 9u + id.x] = s$i;
            //@ end
            workgroupBarrier();
            for (var w = 0u; w < 8u; w++) {
                //@ for e in 4
                //@ for c in SHARE
                let x$e$c = other[($eu * 8u + w) * PITCH + min(id.x + $cu * 8u, HEAD4 - 1u)];
                //@ end
                //@ end
                //@ for i in 4
                let w$i = weights[(id.y + $iu * 8u) * 9u + w];
                //@ for c in SHARE
                dv$i$c += w$i.x * x0$c + w$i.y * x1$c + w$i.z * x2$c + w$i.w * x3$c;
                //@ end
                //@ end
            }
            workgroupBarrier();
            //@ for i in 4
            weights[(id.y + $iu * 8u) * 9u + id.x] = p$i;
            //@ end
            load(arg(4u) / 4u + q, heads * HEAD4, t, thread);
            workgroupBarrier();
            for (var w = 0u; w < 8u; w++) {
                //@ for e in 4
                //@ for c in SHARE
                let x$e$c = other[($eu * 8u + w) * PITCH + min(id.x + $cu * 8u, HEAD4 - 1u)];
                //@ end
                //@ end
                //@ for i in 4
                let w$i = weights[(id.y + $iu * 8u) * 9u + w];
                //@ for c in SHARE
                dk$i$c += w$i.x * x0$c + w$i.y * x1$c + w$i.z * x2$c + w$i.w * x3$c;
                //@ end
                //@ end
            }
            workgroupBarrier();
        }
    }
    //@ for i in 4
    //@ for c in SHARE
    if (id.x + $cu * 8u < HEAD4) {
        own[(id.y + $iu * 8u) * PITCH + id.x + $cu * 8u] = dk$i$c;
        if (j$i < context) { arena[arg(11u) / 4u + k + j$i * keys * HEAD4 + id.x + $cu * 8u] = dv$i$c; }
    }
    //@ end
    //@ end
    workgroupBarrier();
    for (var i = thread; i < 32u * HEAD8; i += 64u) {
        let j = first + i / HEAD8;
        if (j < context) {
            let half = i % HEAD8;
            let table = arg(12u) / 4u + j * HEAD8 + half;
            let cosine = arena[table];
            let sine = arena[table + context * HEAD8];
            let low = own[i / HEAD8 * PITCH + half];
            let high = own[i / HEAD8 * PITCH + HEAD8 + half];
            let dk = arg(7u) / 4u + k + j * keys * HEAD4 + half;
            arena[dk] = low * cosine + high * sine;
            arena[dk + HEAD8] = high * cosine - low * sine;
        }
    }
}

fn row_of_four(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(stats[at.x], stats[at.y], stats[at.z], stats[at.w]);
}
