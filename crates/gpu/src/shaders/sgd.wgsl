// Stochastic gradient descent with momentum over all parameters at once, as in PyTorch; matrices decay, vectors do not.
// Arguments: 0 values (with VEC4 a multiple of 4), 1 factor of clipping (in stats), 2 where in the token buffer a bit for each
// value, or with VEC4 for each four, says that it decays, counted from the lowest.
// Grid: a thread for each parameter, or with VEC4 for each four.
// CPU twin: twin::sgd. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u) / GROUP) { return; }
    let decays = (tokens[arg(2u) + i / 32u] >> (i & 31u)) & 1u;
    let p = params[i];
    let g = grads[i] * stats[arg(1u)] + step.weight_decay * f32(decays) * p;
    let m = step.momentum * moment1[i] + g;
    moment1[i] = m;
    params[i] = p - step.lr * select(m, g + step.momentum * m, step.nesterov == 1u);
}
