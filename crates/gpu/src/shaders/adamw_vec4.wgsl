// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over all parameters at once; matrices decay, vectors do not.
// Arguments: 0 values (a multiple of 4), 1 factor of clipping (in stats), 2 where in the token buffer a bit for each four values says
// that they decay, counted from the lowest, 3 where such bits say that another kernel moves them, or NONE.
// Grid: a thread for each four parameters.
// CPU twin: twin::adamw. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u) / 4u) { return; }
    if (arg(3u) != NONE && ((tokens[arg(3u) + i / 32u] >> (i & 31u)) & 1u) == 1u) { return; }
    let g = grads[i] * stats[arg(1u)];
    let m = step.beta1 * moment1[i] + (1.0 - step.beta1) * g;
    let v = step.beta2 * moment2[i] + (1.0 - step.beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    let decays = (tokens[arg(2u) + i / 32u] >> (i & 31u)) & 1u;
    let p = params[i] * (1.0 - step.lr * step.weight_decay * f32(decays));
    params[i] = p - step.lr * (m / step.correction1) / (sqrt(v / step.correction2) + step.eps);
}
