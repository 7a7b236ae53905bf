// Rotary position embedding in place on queries and keys, Hugging Face's rotate-half convention (arXiv 2104.09864).
// Arguments: 0 rows, 1 context, 2 query heads, 3 key heads, 4 head size, 5 Q, 6 K, 7 table: cos then sin, [context, half].
// Grid: a thread for each (row, head, index below half the head size).
// CPU twin: twin::rope. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let half = arg(4u) / 2u;
    let heads = arg(2u) + arg(3u);
    let index = flat_index(id, groups);
    if (index >= arg(0u) * heads * half) { return; }
    let i = index % half;
    let head = index / half % heads;
    let row = index / (half * heads);
    let at = row % arg(1u) * half + i;
    let cosine = arena[arg(7u) + at];
    let sine = arena[arg(7u) + arg(1u) * half + at];
    var base = arg(5u) + (row * arg(2u) + head) * arg(4u) + i;
    if (head >= arg(2u)) { base = arg(6u) + (row * arg(3u) + head - arg(2u)) * arg(4u) + i; }
    let a = arena[base];
    let b = arena[base + half];
    arena[base] = a * cosine - b * sine;
    arena[base + half] = b * cosine + a * sine;
}
