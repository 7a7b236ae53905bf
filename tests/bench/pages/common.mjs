// The contract of `/bench.html`, for the peers' pages: see DESIGN.md, "Stable commands".
import { read } from '/peers/lib/safetensors.mjs'

/**
 * Whole training steps: each is started and not waited for, and its loss can be read or dropped once.
 * @template L
 * @typedef {object} Trainer
 * @property {(inputs: Int32Array, targets: Int32Array) => L} step
 * @property {(loss: L) => Promise<number>} read
 * @property {(loss: L) => unknown} drop may wait, to bound how much is under way
 * @property {() => Promise<unknown>} settle waits for all steps so far
 */

/**
 * @template L
 * @param {(config: any, weights: Record<string, { shape: number[], data: Float32Array }>, engine: string) => Promise<Trainer<L>>} open
 */
export function expose(open) {
  window.trainBench = async ({ config, weightsUrl, batchesUrl, steps, warmup, syncEvery, engine }) => {
    const [weights, batches] = await Promise.all([tensors(weightsUrl), tensors(batchesUrl)])
    const batch = batchReader(batches.tokens, config)
    const opened = performance.now()
    const trainer = await open(config, weights, engine)
    const extra = { firstStepMs: 0, warmupLosses: [] }
    for (let i = 0; i < warmup; i++) {
      extra.warmupLosses.push(await trainer.read(trainer.step(...batch(i))))
      if (i === 0) extra.firstStepMs = performance.now() - opened
    }
    await trainer.settle()
    const losses = []
    performance.mark('bench:steps')
    const started = performance.now()
    for (let i = 1; i <= steps; i++) {
      const loss = trainer.step(...batch(warmup + i - 1))
      if (i === steps || i % syncEvery === 0) {
        losses.push(await trainer.read(loss))
      } else {
        await trainer.drop(loss)
        losses.push(null)
      }
    }
    await trainer.settle()
    return { msPerStep: (performance.now() - started) / steps, losses, extra }
  }
}

async function tensors(url) {
  const response = await fetch(url)
  if (!response.ok) throw new Error(`${url}: ${response.status}`)
  return read(await response.arrayBuffer())
}

/** Gives the inputs and the targets of a step, each [batch × context]. */
function batchReader({ shape: [batches, rows, width], data }, { batch, context }) {
  if (rows !== batch || width !== context + 1) throw new Error('the batches do not fit the configuration')
  return (step) => {
    const inputs = new Int32Array(batch * context)
    const targets = new Int32Array(batch * context)
    for (let row = 0; row < batch; row++) {
      const start = ((step % batches) * batch + row) * width
      inputs.set(data.subarray(start, start + context), row * context)
      targets.set(data.subarray(start + 1, start + width), row * context)
    }
    return [inputs, targets]
  }
}

/**
 * Angles of RoPE (Su et al. 2021) in Hugging Face's order, where dimension i turns with i + head / 2.
 * @returns {{ cos: Float32Array, sin: Float32Array }} each [context × head]; the sine of the first half is negative,
 *   so that a head turns to `x · cos + swap(x) · sin`
 */
export function rotation(context, head, theta) {
  const half = head / 2
  const cos = new Float32Array(context * head)
  const sin = new Float32Array(context * head)
  for (let position = 0; position < context; position++) {
    for (let i = 0; i < head; i++) {
      const angle = position * theta ** (-(i % half) / half)
      cos[position * head + i] = Math.cos(angle)
      sin[position * head + i] = i < half ? -Math.sin(angle) : Math.sin(angle)
    }
  }
  return { cos, sin }
}

/**
 * Throws unless `product` is that of the two factors, each a square matrix and whether it is read transposed: for a
 * vector of signs, `c·x` must be `a·(b·x)`, which a wrong value anywhere changes (Freivalds 1977).
 * @param {number} size
 * @param {Float32Array} product
 * @param {[Float32Array, boolean]} left
 * @param {[Float32Array, boolean]} right
 */
export function checkProduct(size, product, left, right) {
  const apply = (matrix, transposed, x) => {
    const y = new Float64Array(size)
    for (let row = 0; row < size; row++) {
      for (let col = 0; col < size; col++) {
        if (transposed) y[col] += matrix[row * size + col] * x[row]
        else y[row] += matrix[row * size + col] * x[col]
      }
    }
    return y
  }
  const signs = Float64Array.from({ length: size }, () => (Math.random() < 0.5 ? 1 : -1))
  const got = apply(product, false, signs)
  const wanted = apply(...left, apply(...right, signs))
  const apart = Math.max(...got.map((value, i) => Math.abs(value - wanted[i])))
  if (!(apart <= 1e-5 * size)) throw new Error(`the product is ${apart.toExponential(1)} apart from the right one`)
}
