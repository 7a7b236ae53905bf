// Z[r, c] += b[c], and A = f(Z), where f is 0 ReLU, 1 SiLU, 2 GELU (with tanh), 3 tanh.
// Arguments: 0 values, 1 columns, 2 Z, 3 b (in params) or NONE, 4 f, 5 A or NONE.
// Grid: a thread for each value.
// CPU twin: twin::bias_act. Tolerance 1e-5.

fn activation(kind: u32, x: f32) -> f32 {
    switch kind {
        // A value that is not a number stays one.
        case 0u: { return select(x, 0.0, x < 0.0); }
        case 1u: { return x / (1.0 + exp(-x)); }
        // Some devices overflow in the tanh of large values.
        case 2u: { return 0.5 * x * (1.0 + tanh(clamp(0.7978845608 * (x + 0.044715 * x * x * x), -15.0, 15.0))); }
        default: { return tanh(clamp(x, -15.0, 15.0)); }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u)) { return; }
    var x = arena[arg(2u) + i];
    if (arg(3u) != NONE) {
        x += params[arg(3u) + i % arg(1u)];
        arena[arg(2u) + i] = x;
    }
    if (arg(5u) != NONE) { arena[arg(5u) + i] = activation(arg(4u), x); }
}
