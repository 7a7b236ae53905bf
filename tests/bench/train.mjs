// Shoal's training step beside those of jax-js and TensorFlow.js: one browser, the same weights and batches, in turn.
// `cargo xtask bench train` sets everything up and runs this.
import { call, launch, machine } from './lib/browser.mjs'
import { found, gemmPeak, trainNatively, writeTask } from './lib/native.mjs'
import { PEERS, options as asked } from './lib/options.mjs'
import { classTable, driftOf, figures, gemmRatios, gemmTable, losses, median, ratios, table } from './lib/report.mjs'
import { root, serve } from './lib/site.mjs'
import { LARGE, MODELS, SMALL, flops, task } from './lib/task.mjs'

/** Of the first losses, relative to the CPU engine's. */
const PARITY = 1e-4
/** A peer whose step takes longer is measured once. */
const PATIENCE_MS = 40_000
/** Into which so many steps are cut when drift is measured. */
const WINDOWS = 100
/** The first of these that takes part. */
const REFERENCES = ['shoal-cpu', 'shoal-native-cpu']

const options = asked(process.argv.slice(2))
const { rounds, seconds } = options

const say = (text) => process.stderr.write(`${text}\n`)
const print = (text) => options.json || text === '' || process.stdout.write(`${text}\n`)

/** The first three losses of every peer, which tell whether it may be timed, and how long its steps are. */
async function gate(names, measure) {
  const passed = new Map()
  const failed = {}
  let wanted
  // Without Shoal's CPU engine, the first peer is what the others are compared with.
  for (const peer of [...REFERENCES, ...names].filter((peer, i, all) => names.includes(peer) && all.indexOf(peer) === i)) {
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

/** Takes measurements of `task`, whatever a peer is. */
function measurer(browser, origin, natives, { name, config, weights, batches }) {
  const folder = Object.keys(natives).length > 0 ? writeTask({ name, config, weights, batches }) : undefined
  const page = { config, weightsUrl: `/${name}/weights`, batchesUrl: `/${name}/batches` }
  return (peer, order) => {
    if (peer in natives) return trainNatively(natives[peer], { folder, ...order })
    return call(browser, origin + PEERS[peer].page, 'trainBench', { ...page, ...order, engine: PEERS[peer].engine, threads: PEERS[peer].threads })
  }
}

async function compare(browser, origin, natives, task) {
  const { name, config } = task
  say(`${name}: parity`)
  const take = measurer(browser, origin, natives, task)
  const measure = (peer, { steps, warmup, profile = false }) => take(peer, { steps, warmup, syncEvery: steps, profile })
  // On software adapters and in pages without a card the large model takes minutes a step.
  const suits = (peer) => options.models || name !== LARGE || (peer in natives ? isReal(natives[peer]) : options.gpu)
  const names = [...pages, ...Object.keys(natives)].filter(suits)
  const { passed, failed } = await gate(names, measure)
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
  for (const [peer, row] of Object.entries(rows)) {
    if (peer in natives) await share(natives[peer], natives, row, config)
    const own = peer.startsWith('shoal-') && row.dispatches !== undefined
    if (!own) continue
    const { extra } = await measure(peer, { steps: 1, warmup: 2, profile: true })
    // Where there are no timestamps nothing is known of single kernels.
    if (extra.classes) row.classes = Object.fromEntries(Object.entries(extra.classes).map(([key, ms]) => [key, Number(ms.toFixed(2))]))
  }
  print(table(name, rows))
  print(classTable(name, rows))
  return { rows, failed }
}

const isReal = ({ software, engine }) => engine === 'cuda' || (engine === 'gpu' && !software)

/** Adds how much of the device's fastest product a whole step reaches. */
async function share(native, natives, row, config) {
  if (native.engine === 'cpu' && !native.torch) return
  // On a card the better one of ours and PyTorch's counts for both.
  const alike = isReal(native) ? Object.values(natives).filter(isReal) : [native]
  for (const one of alike) one.ownPeak ??= await gemmPeak(one)
  native.peak = Math.max(...alike.map(({ ownPeak }) => ownPeak))
  row.gemm_peak_gflops = Number(native.peak.toFixed(1))
  row.gemm_peak_share = Number((flops(config) / 1e6 / row.ms / native.peak).toFixed(3))
}

/** What each of the two reaches in plain matrix products, in GFLOP/s, in turn. */
async function gemm(browser, origin) {
  const rows = Object.fromEntries(['shoal-webgpu', 'jaxjs-webgpu'].filter((peer) => pages.includes(peer)).map((peer) => [peer, {}]))
  for (const form of ['nn', 'nt', 'tn']) {
    for (const size of [256, 512, 1024]) {
      const rates = Object.fromEntries(Object.keys(rows).map((peer) => [peer, []]))
      for (let round = 0; round < rounds; round++) {
        for (const [peer, list] of Object.entries(rates)) {
          const { page, engine } = PEERS[peer]
          const order = { engine, form, size, ms: 1000 }
          list.push((await call(browser, origin + page, 'gemmBench', order)).gflops)
        }
      }
      for (const [peer, list] of Object.entries(rates)) rows[peer][`${form} ${size}`] = Number(median(list).toFixed(2))
      say(`gemm ${form} ${size}: ${Object.entries(rows).map(([peer, row]) => `${peer} ${row[`${form} ${size}`]} GFLOP/s`).join(', ')}`)
    }
  }
  print(gemmTable(rows))
  return rows
}

/** Trains for long, and tells whether steps grow slower than a fixed piece of work beside them, and what memory does. */
async function drift(browser, origin, { name, config }, steps) {
  const rows = {}
  for (const peer of pages.filter((peer) => peer.startsWith('shoal-'))) {
    const order = { config, weightsUrl: `/${name}/weights`, batchesUrl: `/${name}/batches`, engine: PEERS[peer].engine, threads: PEERS[peer].threads }
    const syncEvery = Math.max(1, Math.ceil(steps / WINDOWS))
    const answer = await call(browser, origin + PEERS[peer].page, 'trainBench', { ...order, steps, warmup: 20, syncEvery, control: true })
    rows[peer] = driftOf(answer)
    print(`${name}, ${steps} steps: ${peer} ${JSON.stringify(rows[peer])}`)
  }
  return rows
}

const pages = options.peers.filter((peer) => 'page' in PEERS[peer])
// Drift is that of pages: their memory is managed for them.
const programs = options.drift ? [] : options.peers.filter((peer) => !('page' in PEERS[peer]))
const natives = await found(Object.fromEntries(programs.map((peer) => [peer, PEERS[peer]])), say)
const real = options.gpu || Object.values(natives).some(isReal)
const models = options.models ?? (real ? [...MODELS, LARGE] : MODELS)
const tasks = options.drift ? [task(SMALL)] : options.gemm === 'only' ? [] : models.map(task)
const made = new Map()
for (const { name, weights, batches } of tasks) {
  made.set(`/${name}/weights`, weights)
  made.set(`/${name}/batches`, batches)
}
const site = pages.length > 0 ? await serve(options.dist ?? `${root}/web/dist`, made) : undefined
const browser = site && (await launch(options.gpu))
const report = { machine: {} }
let right = true
try {
  if (site) {
    report.machine = await machine(browser, `${site.origin}/peers/pages/jax.html`)
    say(Object.values(report.machine).join(', '))
    if (options.gpu && /swiftshader|none/i.test(report.machine.adapter)) throw new Error('the browser found no GPU')
  }
  report.ratios = {}
  if (options.drift) report.drift = await drift(browser, site.origin, tasks[0], options.drift)
  for (const task of options.drift ? [] : tasks) {
    const { rows, failed } = await compare(browser, site?.origin, natives, task)
    report[task.name] = rows
    report.ratios[task.name] = ratios(rows)
    if (Object.keys(failed).length > 0) {
      report.failed = { ...report.failed, [task.name]: failed }
      right = false
    }
    for (const [pair, ratio] of Object.entries(report.ratios[task.name])) print(`  ${pair}: ${ratio}`)
  }
  if (site && !options.drift && options.gemm !== 'no') {
    report.gemm = await gemm(browser, site.origin)
    report.ratios.gemm = gemmRatios(report.gemm)
  }
} finally {
  await browser?.close()
  site?.close()
}
process.stdout.write(`${JSON.stringify(report)}\n`)
process.exitCode = right ? 0 : 1
