// What every peer trains: the same model, weights and batches.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import { root } from './site.mjs'
import { write } from './safetensors.mjs'

const BATCHES = 8

const OPTIMIZER = { type: 'adamw', lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, gradClip: null }

/** For real GPUs: a step of it takes minutes where a processor plays one. */
export const LARGE = 'gpt2-124m'

/** For thousands of steps: one takes less than 60 ms on SwiftShader. */
export const SMALL = 'llama-pico'

/** @type {Record<string, { batch: number, context: number, hidden: number, inner: number, layers: number, heads: number, vocab: number, tied: boolean }>} */
const SIZES = {
  [SMALL]: { batch: 2, context: 32, hidden: 64, inner: 176, layers: 2, heads: 2, vocab: 256, tied: false },
  'llama-nano': { batch: 8, context: 128, hidden: 128, inner: 352, layers: 4, heads: 4, vocab: 256, tied: false },
  'llama-micro': { batch: 4, context: 256, hidden: 256, inner: 704, layers: 6, heads: 8, vocab: 256, tied: false },
  // GPT-2's sizes with Llama's layers.
  [LARGE]: { batch: 2, context: 1024, hidden: 768, inner: 2048, layers: 12, heads: 12, vocab: 50_257, tied: true },
}

/** What is measured unless models are named. */
export const MODELS = Object.keys(SIZES).filter((name) => name !== LARGE && name !== SMALL)

/**
 * A task by its model's name, with its two files.
 * @param {string} name
 */
export function task(name) {
  const size = SIZES[name]
  if (!size) throw new Error(`there is no model ${name}; choose from ${MODELS.join(', ')}`)
  const model = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_act: 'silu',
    vocab_size: size.vocab,
    hidden_size: size.hidden,
    intermediate_size: size.inner,
    num_hidden_layers: size.layers,
    num_attention_heads: size.heads,
    num_key_value_heads: size.heads,
    max_position_embeddings: size.context,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: size.tied,
  }
  return {
    name,
    config: { batch: size.batch, context: size.context, optimizer: OPTIMIZER, model },
    weights: once(() => write(weights(model))),
    batches: once(() => write({ tokens: tokens(size.batch, size.context) })),
  }
}

/** @template T @param {() => T} make @returns {() => T} */
function once(make) {
  let made
  return () => (made ??= make())
}

/**
 * Additions and multiplications in the products of a step: three times those of the forward pass, where attention is
 * causal and computes half of the scores.
 */
export function flops({ batch, context, model }) {
  const rows = batch * context
  const { vocab_size, hidden_size, intermediate_size, num_hidden_layers } = model
  const layer = 4 * hidden_size ** 2 + 3 * hidden_size * intermediate_size
  const products = 2 * rows * (num_hidden_layers * layer + vocab_size * hidden_size)
  const attention = num_hidden_layers * 2 * rows * context * hidden_size
  return 3 * (products + attention)
}

/** Hugging Face's names in Shoal's order, by bytes. */
function shapes({ vocab_size, hidden_size, intermediate_size, num_hidden_layers, tie_word_embeddings }) {
  const shapes = {
    ...(tie_word_embeddings ? {} : { 'lm_head.weight': [vocab_size, hidden_size] }),
    'model.embed_tokens.weight': [vocab_size, hidden_size],
    'model.norm.weight': [hidden_size],
  }
  for (let layer = 0; layer < num_hidden_layers; layer++) {
    const at = (part) => `model.layers.${layer}.${part}.weight`
    for (const norm of ['input_layernorm', 'post_attention_layernorm']) shapes[at(norm)] = [hidden_size]
    for (const letter of 'qkvo') shapes[at(`self_attn.${letter}_proj`)] = [hidden_size, hidden_size]
    for (const part of ['gate', 'up']) shapes[at(`mlp.${part}_proj`)] = [intermediate_size, hidden_size]
    shapes[at('mlp.down_proj')] = [hidden_size, intermediate_size]
  }
  return Object.fromEntries(Object.entries(shapes).sort(([a], [b]) => (a < b ? -1 : 1)))
}

function weights(model) {
  const random = normals(1)
  const tensors = {}
  for (const [name, shape] of Object.entries(shapes(model))) {
    const length = shape.reduce((product, size) => product * size, 1)
    const data = new Float32Array(length)
    if (shape.length === 1) data.fill(1)
    else for (let i = 0; i < length; i++) data[i] = 0.02 * random()
    tensors[name] = { shape, data }
  }
  return tensors
}

/** Windows of a text, at places that depend on the seed alone. */
function tokens(batch, context) {
  const text = corpus()
  const random = uniform(2)
  const width = context + 1
  const data = new Int32Array(BATCHES * batch * width)
  for (let row = 0; row < BATCHES * batch; row++) {
    const start = Math.floor(random() * (text.length - width))
    data.set(text.subarray(start, start + width), row * width)
  }
  return { shape: [BATCHES, batch, width], data }
}

function corpus() {
  const file = join(root, '../shared/data/tinyshakespeare.txt')
  if (existsSync(file)) return readFileSync(file)
  const random = uniform(3)
  const words = 'the a of and to in light sea net fish shoal turns round once more with every tide'.split(' ')
  const word = () => words[Math.floor(random() * words.length)] + (random() < 0.1 ? '.\n' : ' ')
  return Buffer.from(Array.from({ length: 20_000 }, word).join(''))
}

/** Mulberry32: numbers in [0, 1). */
function uniform(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Box and Muller 1958. */
function normals(seed) {
  const random = uniform(seed)
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}
