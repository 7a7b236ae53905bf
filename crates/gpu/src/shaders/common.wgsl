// What every kernel sees. One bind group serves all dispatches; a dynamic offset picks a dispatch's arguments.
// Activations, gradients of activations and tables live in one arena, what is one value a row in `stats`; arguments are
// offsets, in f32.
// The token buffer holds, for each micro-batch of R rows, R inputs and R targets: those of the micro-batch at hand start at
// 2 * first_row.
// Kernels that move four values at a time see the same buffers as vectors, at a quarter of the index.
// Tolerances in kernels' headers are relative to the larger of 1 and the value, unless they say otherwise.

//@ if VEC4
alias Word = vec4<f32>;
//@ else
alias Word = f32;
//@ end

struct Arguments { v: array<vec4<u32>, 4> }

struct Step {
    lr: f32, beta1: f32, beta2: f32, eps: f32,
    weight_decay: f32, clip: f32, correction1: f32, correction2: f32,
    // The micro-batch starts with first_row of the batch; its gradients add to those that are there; other shards of the model
    // have gradients of this sum of squares.
    slot: u32, first_row: u32, adds: u32, foreign_squares: f32,
    // Of SGD and Muon, whose matrices have a rate of their own; AdamW's numbers serve what Muon leaves.
    nesterov: u32, matches_adamw: u32, momentum: f32, matrix_lr: f32,
}

@group(0) @binding(0) var<uniform> arguments: Arguments;
@group(0) @binding(1) var<uniform> step: Step;
@group(0) @binding(2) var<storage, read_write> params: array<Word>;
@group(0) @binding(3) var<storage, read_write> grads: array<Word>;
@group(0) @binding(4) var<storage, read_write> moment1: array<Word>;
@group(0) @binding(5) var<storage, read_write> moment2: array<Word>;
@group(0) @binding(6) var<storage, read_write> arena: array<Word>;
@group(0) @binding(7) var<storage, read> tokens: array<u32>;
@group(0) @binding(8) var<storage, read_write> losses: array<f32>;
// One value a row: neighbours write these, and writing a part of a vector may write the whole.
@group(0) @binding(9) var<storage, read_write> stats: array<f32>;

const NONE: u32 = 0xffffffffu;

fn arg(index: u32) -> u32 {
    return arguments.v[index / 4u][index % 4u];
}

// Index of an invocation in a grid of 64-wide workgroups folded into two dimensions.
fn flat_index(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.x + id.y * groups.x * 64u;
}
