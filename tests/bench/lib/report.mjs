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
 * least, so that each peer is shown at its best.
 * @param {any[]} gate the measurement that decided on parity, whose time counts only where there is no other
 * @param {any[]} timed
 */
export function figures(gate, timed) {
  const all = [...gate, ...timed]
  const ms = (timed.length > 0 ? timed : gate).map((answer) => answer.msPerStep)
  const least = (key) => Math.min(...all.map(({ counts }) => counts[key]))
  return {
    ms: round(median(ms), 2),
    ms_least: round(Math.min(...ms), 2),
    ms_most: round(Math.max(...ms), 2),
    rounds: timed.length,
    dispatches: round(least('dispatches'), 1),
    passes: round(least('passes'), 1),
    submits: round(least('submits'), 1),
    buffers_created: round(least('buffers_created'), 1),
    bind_groups_created: round(least('bind_groups_created'), 1),
    mappings: round(least('mappings'), 1),
    peak_mb: round(least('peak_bytes') / 1e6, 1),
    first_step_ms: round(median(all.map(({ extra }) => extra.firstStepMs)), 1),
    // Opening the device, compiling, planning: beyond a steady step of the same page.
    first_step_extra_ms: round(median(all.map(({ extra, msPerStep }) => extra.firstStepMs - msPerStep)), 1),
    ...(all[0].extra.forms ? { forms: all[0].extra.forms } : {}),
  }
}

/** How Shoal's engines compare with each peer of their kind, in time, memory and what the first step costs more. */
export function ratios(rows) {
  const pairs = [
    ['shoal-webgpu', 'jaxjs-webgpu'],
    ['shoal-webgpu', 'tfjs-webgpu'],
    ['shoal-cpu', 'jaxjs-wasm'],
  ]
  const ratios = {}
  for (const [own, other] of pairs) {
    const [a, b] = [rows[own], rows[other]]
    if (!a || !b) continue
    const set = (what, value) => {
      if (Number.isFinite(value)) ratios[`${own}/${other}${what}`] = round(value, 3)
    }
    set('', a.ms / b.ms)
    set(' peak_mb', a.peak_mb / b.peak_mb)
    set(' first_step_extra_ms', a.first_step_extra_ms / b.first_step_extra_ms)
  }
  return ratios
}

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
  const line = (name, cell) => name.padEnd(14) + Object.keys(columns).map((key) => String(cell(key)).padStart(width(key) + 1)).join('')
  return ['', line(title, (key) => columns[key]), ...Object.entries(rows).map(([peer, row]) => line(peer, (key) => row[key]))].join('\n')
}
