// Figures of measurements.

/** @param {number[]} values */
export function median(values) {
  const sorted = values.toSorted((a, b) => a - b)
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2
}

const round = (value, digits) => Number(value.toFixed(digits))

/** Losses in the order of the steps; those that were not read are left out. */
export const losses = ({ extra, losses }) => [...extra.warmupLosses, ...losses].filter((loss) => loss !== null)

/**
 * One peer's figures: the time is the median of the rounds, what it asks of WebGPU is from whichever measurement asked
 * least, so that each peer is shown at its best. What a peer cannot tell is left out.
 * @param {any[]} gate the measurement that decided on parity, whose time counts only where there is no other
 * @param {any[]} timed
 */
export function figures(gate, timed) {
  const all = [...gate, ...timed]
  const ms = (timed.length > 0 ? timed : gate).map((answer) => answer.msPerStep)
  const row = { ms: round(median(ms), 2), ms_least: round(Math.min(...ms), 2), ms_most: round(Math.max(...ms), 2), rounds: timed.length }
  for (const key of ['dispatches', 'passes', 'submits', 'buffers_created', 'bind_groups_created', 'mappings']) {
    const least = Math.min(...all.map(({ counts }) => counts[key]))
    if (Number.isFinite(least)) row[key] = round(least, 1)
  }
  const peak = Math.min(...all.map(({ counts }) => counts.peak_bytes))
  if (Number.isFinite(peak)) row.peak_mb = round(peak / 1e6, 1)
  row.first_step_ms = round(median(all.map(({ extra }) => extra.firstStepMs)), 1)
  // Opening the device, compiling, planning: beyond a steady step of the same page.
  row.first_step_extra_ms = round(median(all.map(({ extra, msPerStep }) => extra.firstStepMs - msPerStep)), 1)
  if (all[0].extra.threads) row.threads = all[0].extra.threads
  if (all[0].extra.forms) row.forms = all[0].extra.forms
  return row
}

/** How Shoal's engines compare with each peer of their kind, in time, memory and what the first step costs more. */
export function ratios(rows) {
  const of = (start) => Object.keys(rows).filter((name) => name === start || name.startsWith(`${start} (`))
  const kinds = [
    ['shoal-webgpu', 'jaxjs-webgpu'],
    ['shoal-webgpu', 'tfjs-webgpu'],
    ['shoal-cpu', 'jaxjs-wasm'],
    ['shoal-cpu-1', 'jaxjs-wasm'],
    ['shoal-cpu', 'tfjs-wasm'],
    ['shoal-native-gpu', 'torch-cuda'],
    ['shoal-native-cpu', 'torch-cpu'],
  ]
  const pairs = kinds.flatMap(([own, other]) => of(own).flatMap((own) => of(other).map((other) => [own, other])))
  const ratios = {}
  for (const [own, other] of pairs) {
    const [a, b] = [rows[own], rows[other]]
    const set = (what, value) => {
      if (Number.isFinite(value)) ratios[`${own}/${other}${what}`] = round(value, 3)
    }
    set('', a.ms / b.ms)
    set(' peak_mb', a.peak_mb / b.peak_mb)
    set(' first_step_extra_ms', a.first_step_extra_ms / b.first_step_extra_ms)
  }
  return ratios
}

/** Milliseconds of one step by class of kernel, and the products' share of what the adapter can do. */
export function classTable(title, rows) {
  const known = Object.entries(rows).filter(([, row]) => row.classes || row.gemm_peak_share)
  if (known.length === 0) return ''
  const classes = ['gemm', 'attention', 'elementwise', 'loss', 'optimiser']
  const name = (peer) => peer.padEnd(nameWidth(rows))
  const cells = ([, { classes: ms, gemm_peak_gflops, gemm_peak_share }]) => [
    ...classes.map((key) => ms?.[key] ?? ''),
    gemm_peak_gflops ?? '',
    gemm_peak_share === undefined ? '' : `${(100 * gemm_peak_share).toFixed(0)} %`,
  ]
  const line = (first, cells) => name(first) + cells.map((cell) => String(cell).padStart(13)).join('')
  const head = line(`${title}, ms`, [...classes, 'peak GFLOP/s', 'share'])
  return ['', head, ...known.map((entry) => line(entry[0], cells(entry)))].join('\n')
}

const nameWidth = (rows) => Math.max(14, ...Object.keys(rows).map((name) => name.length))

/** @param {string} title @param {Record<string, ReturnType<typeof figures>>} rows */
export function table(title, rows) {
  const columns = {
    ms: 'ms',
    ms_least: 'least',
    ms_most: 'most',
    dispatches: 'dispatches',
    submits: 'submits',
    buffers_created: 'buffers',
    bind_groups_created: 'bind groups',
    mappings: 'mappings',
    peak_mb: 'peak MB',
    first_step_ms: 'first step ms',
    first_step_extra_ms: 'of that beyond a step',
  }
  const width = (key) => Math.max(9, columns[key].length)
  const line = (name, cell) =>
    name.padEnd(nameWidth(rows)) + Object.keys(columns).map((key) => String(cell(key) ?? '').padStart(width(key) + 1)).join('')
  return ['', line(title, (key) => columns[key]), ...Object.entries(rows).map(([peer, row]) => line(peer, (key) => row[key]))].join('\n')
}

/** How many times as fast as jax-js' Shoal's products are, by form and size. */
export function gemmRatios({ 'shoal-webgpu': own, 'jaxjs-webgpu': other }) {
  if (!own || !other) return {}
  return Object.fromEntries(Object.keys(own).map((what) => [what, round(own[what] / other[what], 3)]))
}

/** @param {Record<string, Record<string, number>>} rows GFLOP/s by peer, then by form and size */
export function gemmTable(rows) {
  const ratios = gemmRatios(rows)
  const columns = Object.keys(rows)
  const line = (name, cell) => name.padEnd(14) + [...columns, 'ratio'].map((key) => String(cell(key)).padStart(15)).join('')
  const body = Object.keys(rows[columns[0]] ?? {}).map((what) =>
    line(what, (key) => (key === 'ratio' ? (ratios[what] ?? '') : rows[key][what])),
  )
  return ['', line('GFLOP/s', (key) => key), ...body].join('\n')
}

/** How steps change over a long training, against the control between them: medians of the first and the last quarter. */
export function driftOf({ extra: { windows, threads }, counts }) {
  const quarter = Math.max(1, windows.length >> 2)
  const [first, last] = [windows.slice(0, quarter), windows.slice(-quarter)]
  const of = (part, key) => median(part.map(key))
  const step = ({ ms, steps }) => ms / steps
  const relative = (window) => step(window) / window.controlMs
  const change = (key) => round(of(last, key) / of(first, key) - 1, 4)
  return {
    steps: windows.reduce((sum, { steps }) => sum + steps, 0),
    ...(threads ? { threads } : {}),
    step_ms: [round(of(first, step), 2), round(of(last, step), 2)],
    control_ms: [round(of(first, ({ controlMs }) => controlMs), 1), round(of(last, ({ controlMs }) => controlMs), 1)],
    drift: change(step),
    drift_of_control: change(({ controlMs }) => controlMs),
    drift_against_control: change(relative),
    gpu_bytes: [counts.window_bytes[0], counts.window_bytes.at(-1)],
    heap_bytes: [windows[0].heapBytes, windows.at(-1).heapBytes],
  }
}
