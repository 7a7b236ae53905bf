// The training step in TensorFlow.js.
import { expose, rotation } from './common.mjs'

const { tf } = window

tf.wasm.setWasmPaths('/peers/node_modules/@tensorflow/tfjs-backend-wasm/dist/')

expose(async (config, weights, engine) => {
  if (!(await tf.setBackend(engine))) throw new Error(`TensorFlow.js cannot use ${engine} here`)
  const { batch, context, optimizer } = config
  const { lr, beta1, beta2, eps, weightDecay } = optimizer
  const variables = {}
  for (const [name, { shape, data }] of Object.entries(weights)) {
    variables[name] = tf.variable(tf.tensor(data, shape), true, name)
  }
  const adam = tf.train.adam(lr, beta1, beta2, eps)
  const loss = decoder(config, variables, engine)
  // Decay that is decoupled (Loshchilov and Hutter 2019) happens before Adam's own change; only matrices decay.
  const decay = () => {
    for (const variable of Object.values(variables)) {
      if (variable.rank === 2) variable.assign(variable.mul(1 - lr * weightDecay))
    }
  }
  return {
    step: (inputs, targets) =>
      tf.tidy(() => {
        const [x, y] = [inputs, targets].map((data) => tf.tensor1d(data, 'int32'))
        const { value, grads } = tf.variableGrads(() => loss(x, y))
        decay()
        adam.applyGradients(grads)
        return value
      }),
    read: async (value) => {
      const [number] = await value.data()
      value.dispose()
      return number
    },
    drop: (value) => value.dispose(),
    // Reading one value waits for what was submitted before it.
    settle: () => variables['model.norm.weight'].data(),
  }
})

/** The mean cross-entropy of a Llama decoder. */
function decoder({ batch, context, model }, weights, engine) {
  const { hidden_size, num_attention_heads, num_hidden_layers, vocab_size, rms_norm_eps, rope_theta } = model
  const head = hidden_size / num_attention_heads
  const angles = rotation(context, head, rope_theta)
  const [cos, sin] = [angles.cos, angles.sin].map((data) => tf.keep(tf.tensor(data, [context, head])))
  const hidden = Float32Array.from({ length: context * context }, (_, i) => (i % context > i / context ? -1e9 : 0))
  const mask = tf.keep(tf.tensor(hidden, [context, context]))

  const linear = (x, weight) => tf.matMul(x, weight, false, true)
  const norm = (x, weight) => x.mul(x.square().mean(-1, true).add(rms_norm_eps).rsqrt()).mul(weight)
  const split = (x) => x.reshape([batch, context, num_attention_heads, head]).transpose([0, 2, 1, 3])
  const turn = (x) => {
    const [first, second] = tf.split(x, 2, -1)
    return x.mul(cos).add(tf.concat([second, first], -1).mul(sin))
  }

  // The Wasm backend has no kernel for the gradient of a gather.
  const embed = (table, tokens) =>
    engine === 'wasm' ? tf.matMul(tf.oneHot(tokens, vocab_size).toFloat(), table) : tf.gather(table, tokens)

  return (inputs, targets) => {
    let x = embed(weights['model.embed_tokens.weight'], inputs)
    for (let layer = 0; layer < num_hidden_layers; layer++) {
      const at = (part) => weights[`model.layers.${layer}.${part}.weight`]
      const mixed = norm(x, at('input_layernorm'))
      const query = turn(split(linear(mixed, at('self_attn.q_proj'))))
      const key = turn(split(linear(mixed, at('self_attn.k_proj'))))
      const value = split(linear(mixed, at('self_attn.v_proj')))
      const scores = tf.matMul(query, key, false, true).mul(1 / Math.sqrt(head)).add(mask)
      const attention = tf.matMul(scores.softmax(), value).transpose([0, 2, 1, 3])
      x = x.add(linear(attention.reshape([-1, hidden_size]), at('self_attn.o_proj')))
      const middle = norm(x, at('post_attention_layernorm'))
      const gate = linear(middle, at('mlp.gate_proj'))
      const up = linear(middle, at('mlp.up_proj'))
      x = x.add(linear(gate.mul(gate.sigmoid()).mul(up), at('mlp.down_proj')))
    }
    const logits = linear(norm(x, weights['model.norm.weight']), weights['lm_head.weight'] ?? weights['model.embed_tokens.weight'])
    const wanted = tf.oneHot(targets, vocab_size)
    return tf.losses.softmaxCrossEntropy(wanted, logits)
  }
}
