// Shoal's training step beside those of jax-js and TensorFlow.js: one browser, the same weights and batches, in turn.
// `cargo xtask bench train` sets everything up and runs this.
import { parseArgs } from 'node:util'

import { call, launch, machine, offers } from './lib/browser.mjs'
import { figures, losses, median, ratios, table } from './lib/report.mjs'
import { root, serve } from './lib/site.mjs'
import { MODELS, task } from './lib/task.mjs'

/** Of the first losses, relative to the CPU engine's. */
const PARITY = 1e-4
/** A peer whose step takes longer is measured once. */
const PATIENCE_MS = 40_000
const REFERENCE = 'shoal-cpu'

const PEERS = {
  'shoal-webgpu': { page: '/bench.html', engine: 'gpu' },
  'shoal-cpu': { page: '/bench.html', engine: 'cpu' },
  'jaxjs-webgpu': { page: '/peers/pages/jax.html', engine: 'webgpu' },
  'jaxjs-wasm': { page: '/peers/pages/jax.html', engine: 'wasm' },
  'tfjs-webgpu': { page: '/peers/pages/tfjs.html', engine: 'webgpu' },
}

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: MODELS.join(',') },
    peers: { type: 'string', default: Object.keys(PEERS).join(',') },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '6' },
    dist: { type: 'string', default: `${root}/web/dist` },
    gpu: { type: 'boolean', default: false },
    gemm: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
})

const peers = names('peers', Object.keys(PEERS))
const models = names('models', MODELS)
const rounds = number('rounds')
const seconds = number('seconds')

function names(option, known) {
  const chosen = options[option].split(',').filter(Boolean)
  const strange = chosen.find((name) => !known.includes(name))
  if (strange !== undefined) throw new Error(`--${option}: ${strange} is none of ${known.join(', ')}`)
  return chosen
}

function number(option) {
  const value = Number(options[option])
  if (!(value > 0)) throw new Error(`--${option} must be a number above 0, and is ${options[option]}`)
  return value
}

const say = (text) => process.stderr.write(`${text}\n`)
const print = (text) => options.json || process.stdout.write(`${text}\n`)

/** The first three losses of every peer, which tell whether it may be timed, and how long its steps are. */
async function gate(measure) {
  const passed = new Map()
  const failed = {}
  let wanted
  // Without Shoal's CPU engine, the first peer is what the others are compared with.
  for (const peer of [REFERENCE, ...peers].filter((peer, i, all) => peers.includes(peer) && all.indexOf(peer) === i)) {
    try {
      const answer = await measure(peer, { steps: 1, warmup: 2 })
      const got = losses(answer)
      wanted ??= got
      const apart = Math.max(...got.map((loss, i) => Math.abs(loss - wanted[i]) / Math.abs(wanted[i])))
      say(`  ${peer}: ${answer.msPerStep.toFixed(0)} ms, losses ${got.map((loss) => loss.toFixed(6)).join(' ')}`)
      if (!(apart <= PARITY)) throw new Error(`its losses are ${apart.toExponential(1)} apart from the reference's`)
      passed.set(peer, [answer])
    } catch (error) {
      failed[peer] = error.message
      say(`  ${peer} is left out: ${error.message}`)
    }
  }
  return { passed, failed }
}

async function compare(browser, origin, { name, config }) {
  say(`${name}: parity`)
  const order = { config, weightsUrl: `/${name}/weights`, batchesUrl: `/${name}/batches` }
  const measure = (peer, { steps, warmup }) => {
    const { page, engine } = PEERS[peer]
    return call(browser, origin + page, 'trainBench', { ...order, steps, warmup, syncEvery: steps, engine })
  }
  const { passed, failed } = await gate(measure)
  const timed = new Map([...passed].map(([peer]) => [peer, []]))
  for (let round = 1; round <= rounds; round++) {
    // Forth and back, so that none is always the one after a hot neighbour.
    const turn = round % 2 === 1 ? [...passed] : [...passed].reverse()
    for (const [peer, [first]] of turn) {
      if (first.msPerStep > PATIENCE_MS) continue
      const steps = Math.min(500, Math.max(1, Math.ceil((1000 * seconds) / first.msPerStep)))
      try {
        const answer = await measure(peer, { steps, warmup: Math.min(10, steps) })
        timed.get(peer).push(answer)
        say(`${name}: round ${round} of ${rounds}: ${peer} ${answer.msPerStep.toFixed(1)} ms (${steps} steps)`)
      } catch (error) {
        passed.delete(peer)
        failed[peer] = error.message
        say(`${name}: round ${round} of ${rounds}: ${peer} is left out: ${error.message}`)
      }
    }
  }
  const rows = Object.fromEntries([...passed].map(([peer, gate]) => [peer, figures(gate, timed.get(peer))]))
  print(table(name, rows))
  return { rows, failed }
}

/** What each page that offers it reaches in plain matrix products, in GFLOP/s. */
async function gemm(browser, origin) {
  const rows = {}
  for (const peer of ['shoal-webgpu', 'jaxjs-webgpu']) {
    if (await offers(browser, origin + PEERS[peer].page, 'gemmBench')) rows[peer] = {}
  }
  for (const form of ['NN', 'NT', 'TN']) {
    for (const size of [256, 512, 1024]) {
      const rates = Object.fromEntries(Object.keys(rows).map((peer) => [peer, []]))
      for (let round = 0; round < rounds; round++) {
        for (const [peer, list] of Object.entries(rates)) {
          const { page, engine } = PEERS[peer]
          const order = { engine, form, size, ms: 1000 }
          list.push((await call(browser, origin + page, 'gemmBench', order)).gflops)
        }
      }
      for (const [peer, list] of Object.entries(rates)) {
        rows[peer][`${form} ${size}`] = Number(median(list).toFixed(2))
        print(`${peer} ${form} ${size}: ${rows[peer][`${form} ${size}`]} GFLOP/s`)
      }
    }
  }
  return rows
}

const tasks = models.map(task)
const made = new Map()
for (const { name, weights, batches } of tasks) {
  made.set(`/${name}/weights`, weights)
  made.set(`/${name}/batches`, batches)
}
const site = await serve(options.dist, made)
const browser = await launch(options.gpu)
const report = {}
let right = true
try {
  report.machine = await machine(browser, `${site.origin}/peers/pages/jax.html`)
  say(Object.values(report.machine).join(', '))
  if (options.gpu && /swiftshader|none/i.test(report.machine.adapter)) throw new Error('the browser found no GPU')
  report.ratios = {}
  for (const task of tasks) {
    const { rows, failed } = await compare(browser, site.origin, task)
    report[task.name] = rows
    report.ratios[task.name] = ratios(rows)
    if (Object.keys(failed).length > 0) {
      report.failed = { ...report.failed, [task.name]: failed }
      right = false
    }
    for (const [pair, ratio] of Object.entries(report.ratios[task.name])) print(`  ${pair}: ${ratio}`)
  }
  if (options.gemm) report.gemm = await gemm(browser, site.origin)
} finally {
  await browser.close()
  site.close()
}
process.stdout.write(`${JSON.stringify(report)}\n`)
process.exitCode = right ? 0 : 1
