// The training step in jax-js, the whole of it under one `jit`. Its arrays count their references by hand: a call
// takes what it is given, so every use but the last is of `x.ref`.
import { blockUntilReady, defaultDevice, init, jit, nn, numpy as np, tree, valueAndGrad } from '@jax-js/jax'

import { checkProduct, expose, rotation } from './common.mjs'

expose(async (config, weights, engine) => {
  if (!(await init(engine)).includes(engine)) throw new Error(`jax-js cannot use ${engine} here`)
  defaultDevice(engine)
  const { batch, context, optimizer } = config
  const each = (make) => Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, make(weight)]))
  let parameters = each(({ shape, data }) => np.array(data, { shape }))
  let means = each(({ shape }) => np.zeros(shape))
  let squares = each(({ shape }) => np.zeros(shape))
  const train = jit(trainer(config))
  let number = 0
  let latest = Promise.resolve()
  return {
    step: (inputs, targets) => {
      number += 1
      const rate = np.array([optimizer.lr / (1 - optimizer.beta1 ** number)])
      const scale = np.array([1 / Math.sqrt(1 - optimizer.beta2 ** number)])
      const [x, y] = [inputs, targets].map((data) => np.array(data, { shape: [batch, context], dtype: np.int32 }))
      const result = train(parameters, means, squares, x, y, rate, scale)
      ;({ parameters, means, squares } = result)
      return result.loss
    },
    read: async (loss) => (await loss.data())[0],
    // jax-js computes nothing until somebody wants it. So that the GPU neither idles nor hoards, wait for the step before.
    drop: async (loss) => {
      const before = latest
      latest = blockUntilReady(loss).then(() => loss.dispose())
      await before
    },
    settle: () => blockUntilReady(parameters),
  }
})

/** Loss and gradients, then AdamW (Loshchilov and Hutter 2019) with decay on matrices only. */
function trainer(config) {
  const { lr, beta1, beta2, eps, weightDecay } = config.optimizer
  const withGradients = valueAndGrad(decoder(config))
  return (before, means, squares, inputs, targets, rate, scale) => {
    const [loss, gradients] = withGradients(tree.ref(before), inputs, targets)
    const after = { loss, parameters: {}, means: {}, squares: {} }
    for (const name of Object.keys(before)) {
      const gradient = gradients[name]
      const mean = means[name].mul(beta1).add(gradient.ref.mul(1 - beta1))
      const square = squares[name].mul(beta2).add(np.square(gradient).mul(1 - beta2))
      const decay = before[name].ndim === 2 ? 1 - lr * weightDecay : 1
      const change = mean.ref.mul(rate.ref).div(np.sqrt(square.ref).mul(scale.ref).add(eps))
      after.parameters[name] = before[name].mul(decay).sub(change)
      after.means[name] = mean
      after.squares[name] = square
    }
    rate.dispose()
    scale.dispose()
    return after
  }
}

/** The mean cross-entropy of a Llama decoder. */
function decoder({ batch, context, model }) {
  const { hidden_size, num_attention_heads, num_hidden_layers, vocab_size, rms_norm_eps, rope_theta } = model
  const head = hidden_size / num_attention_heads
  const heads = [batch, context, num_attention_heads, head]
  const angles = rotation(context, head, rope_theta)
  const constant = (data) => np.array(data, { shape: [context, 1, 2, head / 2] })
  const [cos, sin] = [angles.cos, angles.sin].map(constant)

  const linear = (x, weight) => np.matmul(x, weight.transpose())
  const norm = (x, weight) => {
    const size = np.sqrt(np.mean(np.square(x.ref), -1, { keepdims: true }).add(rms_norm_eps))
    return x.div(size).mul(weight)
  }
  const turn = (x) => {
    const halves = x.reshape([batch, context, num_attention_heads, 2, head / 2])
    return halves.ref.mul(cos.ref).add(np.flip(halves, 3).mul(sin.ref)).reshape(heads)
  }

  return (weights, inputs, targets) => {
    const table = weights['model.embed_tokens.weight']
    const output = weights['lm_head.weight'] ?? table.ref
    let x = np.take(table, inputs.reshape([-1]), 0)
    for (let layer = 0; layer < num_hidden_layers; layer++) {
      const at = (part) => weights[`model.layers.${layer}.${part}.weight`]
      const mixed = norm(x.ref, at('input_layernorm'))
      const query = turn(linear(mixed.ref, at('self_attn.q_proj')).reshape(heads))
      const key = turn(linear(mixed.ref, at('self_attn.k_proj')).reshape(heads))
      const value = linear(mixed, at('self_attn.v_proj')).reshape(heads)
      const attention = nn.dotProductAttention(query, key, value, { isCausal: true })
      x = x.add(linear(attention.reshape([-1, hidden_size]), at('self_attn.o_proj')))
      const middle = norm(x.ref, at('post_attention_layernorm'))
      const gate = nn.silu(linear(middle.ref, at('mlp.gate_proj')))
      x = x.add(linear(gate.mul(linear(middle, at('mlp.up_proj'))), at('mlp.down_proj')))
    }
    const logits = linear(norm(x, weights['model.norm.weight']), output)
    const wanted = nn.oneHot(targets.reshape([-1]), vocab_size)
    return nn.logSoftmax(logits).mul(wanted).sum().div(-batch * context)
  }
}

/** Rate of `a · b` (nn), `a · bᵀ` (nt) or `aᵀ · b` (tn) for square matrices, in GFLOP/s. */
window.gemmBench = async ({ engine, form, size, ms }) => {
  await init(engine)
  defaultDevice(engine)
  const [turned, side] = [form[0] === 't', form[1] === 't']
  const noise = () => Float32Array.from({ length: size * size }, () => Math.random() - 0.5)
  const [left, right] = [noise(), noise()]
  const [a, b] = [left, right].map((data) => np.array(data, { shape: [size, size] }))
  const multiply = jit((a, b) => np.matmul(turned ? a.transpose() : a, side ? b.transpose() : b))
  const run = async (times) => {
    const started = performance.now()
    const waits = []
    for (let i = 0; i < times; i++) {
      const product = multiply(a.ref, b.ref)
      waits.push(blockUntilReady(product).then(() => product.dispose()))
    }
    await Promise.all(waits)
    return performance.now() - started
  }
  checkProduct(size, await multiply(a.ref, b.ref).data(), [left, turned], [right, side])
  await run(1)
  const times = Math.max(3, Math.ceil(ms / (await run(1))))
  return { gflops: (2 * size ** 3 * times) / 1e6 / (await run(times)) }
}
