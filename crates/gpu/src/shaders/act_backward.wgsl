// dZ *= f'(Z), where f is 0 ReLU, 1 SiLU, 2 GELU (with tanh), 3 tanh.
// Arguments: 0 values, 1 Z, 2 dZ, 3 f.
// Grid: a thread for each value.
// CPU twin: twin::act_backward. Tolerance 1e-5.

fn slope(kind: u32, x: f32) -> f32 {
    switch kind {
        case 0u: { return select(0.0, 1.0, x > 0.0); }
        case 1u: {
            let s = 1.0 / (1.0 + exp(-x));
            return s * (1.0 + x * (1.0 - s));
        }
        case 2u: {
            // Past this the slope is 0 or 1; x * x * x must stay finite.
            let y = clamp(x, -15.0, 15.0);
            let t = tanh(clamp(0.7978845608 * (y + 0.044715 * y * y * y), -15.0, 15.0));
            return 0.5 * (1.0 + t) + 0.5 * y * (1.0 - t * t) * 0.7978845608 * (1.0 + 0.134145 * y * y);
        }
        default: {
            let t = tanh(clamp(x, -15.0, 15.0));
            return 1.0 - t * t;
        }
    }
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = flat_index(id, groups);
    if (i >= arg(0u)) { return; }
    arena[arg(2u) + i] *= slope(arg(3u), arena[arg(1u) + i]);
}
