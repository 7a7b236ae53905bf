// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over all parameters at once; matrices decay, vectors do not.
// Arguments: 0 values, 1 factor of clipping.
// The token buffer lists, from step.ranges_at on, the ranges [start, end) of parameters that do not decay.
// Grid: a thread for each parameter.
// CPU twin: twin::adamw. Tolerance 1e-6.

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u)) { return; }
    let g = grads[i] * arena[arg(1u)];
    let m = step.beta1 * moment1[i] + (1.0 - step.beta1) * g;
    let v = step.beta2 * moment2[i] + (1.0 - step.beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    var decay = step.weight_decay;
    for (var r = 0u; r < step.ranges; r++) {
        let at = step.ranges_at + 2u * r;
        if (i >= tokens[at] && i < tokens[at + 1u]) { decay = 0.0; }
    }
    let p = params[i] * (1.0 - step.lr * decay);
    params[i] = p - step.lr * (m / step.correction1) / (sqrt(v / step.correction2) + step.eps);
}
