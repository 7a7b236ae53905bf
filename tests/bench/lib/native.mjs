// Peers that are programs: Shoal's engines natively, and PyTorch. They read a task's files from a folder.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, realpathSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'

import { root } from './site.mjs'

const run = promisify(execFile)
const TORCH = join(dirname(import.meta.dirname), 'torch_step.py')
const PYTHON = process.env.PYTHON ?? 'python3'
const BENCH = process.env.TRAIN_BENCH ?? join(root, 'target/release/examples/train_bench')

/** The drivers of the system and the one that Chromium brings along. */
function environment(adapter) {
  const folders = ['/usr/lib/chromium', '/opt/google/chrome']
  const browser = process.env.CHROMIUM
  if (browser && existsSync(browser)) folders.unshift(dirname(realpathSync(browser)))
  const swiftShader = folders.map((folder) => join(folder, 'vk_swiftshader_icd.json')).find((file) => existsSync(file))
  return {
    ...process.env,
    ...(swiftShader ? { VK_ADD_DRIVER_FILES: swiftShader } : {}),
    ...(adapter ? { WGPU_ADAPTER_NAME: adapter } : {}),
  }
}

async function json(program, args, options) {
  try {
    const { stdout } = await run(program, args, { maxBuffer: 1 << 26, ...options })
    return JSON.parse(stdout.trim().split('\n').at(-1))
  } catch (error) {
    throw new Error((error.stderr || error.message).trim().split('\n').slice(-6).join('\n'))
  }
}

const shoal = (order, adapter) => json(BENCH, [JSON.stringify(order)], { env: environment(adapter) })
const torch = (order) => json(PYTHON, [TORCH, JSON.stringify(order)], {})

/**
 * The peers among `wanted` that this machine has, by the name of their row.
 * @param {Record<string, { program?: string, engine: string }>} wanted
 * @param {(text: string) => void} say
 */
export async function found(wanted, say) {
  const rows = {}
  let has
  for (const [peer, { program, engine }] of Object.entries(wanted)) {
    if (program === 'torch') {
      has ??= await torch({ task: 'devices' }).catch((error) => {
        say(`no PyTorch in ${PYTHON} (PYTHON names another): ${error.message.split('\n').at(-1)}`)
        return { devices: [] }
      })
      if (has.devices.includes(engine)) rows[peer] = { torch: true, engine }
    } else if (engine === 'gpu') {
      for (const { name, software } of await shoal({ task: 'adapters' })) {
        rows[`${peer} (${name})`] = { engine, adapter: name, software }
      }
    } else {
      rows[peer] = { engine }
    }
  }
  return rows
}

/** Writes a task's files where programs find them. */
export function writeTask({ name, config, weights, batches }) {
  const folder = join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'bench', name)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config.model))
  writeFileSync(join(folder, 'recipe.json'), JSON.stringify({ optimizer: config.optimizer }))
  writeFileSync(join(folder, 'weights.safetensors'), weights())
  writeFileSync(join(folder, 'batches.safetensors'), batches())
  return folder
}

/** The same answer as `window.trainBench`'s. */
export function trainNatively(row, order) {
  const whole = { task: 'train', engine: row.engine, ...order }
  return row.torch ? torch(whole) : shoal(whole, row.adapter)
}

/** GFLOP/s of the fastest product of large square matrices, which a step is measured by. */
export async function gemmPeak(row) {
  const order = { task: 'gemm', engine: row.engine, sizes: row.software ? [1024] : [1024, 2048], ms: 500 }
  const { rates } = await (row.torch ? torch(order) : shoal(order, row.adapter))
  return Math.max(...rates.map(({ gflops }) => gflops))
}
