// What `train.mjs` is asked to do, checked before anything is started.
import { parseArgs } from 'node:util'

import { LARGE, MODELS } from './task.mjs'

/** Pages of the browser, or programs. */
export const PEERS = {
  'shoal-webgpu': { page: '/bench.html', engine: 'gpu' },
  'shoal-cpu': { page: '/bench.html', engine: 'cpu' },
  // The same without helpers, as in pages that are not isolated.
  'shoal-cpu-1': { page: '/bench.html', engine: 'cpu', threads: 1 },
  'jaxjs-webgpu': { page: '/peers/pages/jax.html', engine: 'webgpu' },
  'jaxjs-wasm': { page: '/peers/pages/jax.html', engine: 'wasm' },
  'tfjs-webgpu': { page: '/peers/pages/tfjs.html', engine: 'webgpu' },
  'tfjs-wasm': { page: '/peers/pages/tfjs.html', engine: 'wasm' },
  'shoal-native-gpu': { program: 'shoal', engine: 'gpu' },
  'shoal-native-cpu': { program: 'shoal', engine: 'cpu' },
  'torch-cpu': { program: 'torch', engine: 'cpu' },
  'torch-cuda': { program: 'torch', engine: 'cuda' },
}

const HELP = `node train.mjs [options]: whole training steps of Shoal and its peers, in turn, on this machine
  --models LIST   of ${[...MODELS, LARGE].join(', ')} [${MODELS.join(',')}; with a real GPU all]
  --peers LIST    of ${Object.keys(PEERS).join(', ')} [all]
  --rounds N      how many times each takes its turn [3]
  --seconds N     about how long a turn lasts [6]
  --gemm WHICH    plain products too (yes), not (no), or nothing else (only) [yes]
  --drift STEPS   train so many steps, in turn with a fixed control, instead of comparing peers
  --gpu           Chromium uses a real GPU, through Vulkan, instead of SwiftShader
  --dist DIR      Shoal's built pages
  --json          print nothing but the JSON object
  --check         only check these options, and print what must be there: pages, shoal (natively), torch
  --help          print this`

/** @param {string[]} args @returns what was asked for, or ends the process with a line that says what is wrong */
export function options(args) {
  try {
    return checked(args)
  } catch (error) {
    process.stderr.write(`error: ${error.message}\n\`node train.mjs --help\` lists the options\n`)
    process.exit(2)
  }
}

function checked(args) {
  const text = (value) => ({ type: 'string', ...(value === undefined ? {} : { default: value }) })
  const flag = { type: 'boolean', default: false }
  const { values } = parseArgs({
    args,
    options: {
      models: text(),
      peers: text(Object.keys(PEERS).join(',')),
      rounds: text('3'),
      seconds: text('6'),
      gemm: text('yes'),
      drift: text(),
      dist: text(),
      gpu: flag,
      json: flag,
      check: flag,
      help: flag,
    },
  })
  if (values.help) {
    process.stdout.write(`${HELP}\n`)
    process.exit(0)
  }
  const peers = names('peers', values.peers, Object.keys(PEERS))
  const models = values.models === undefined ? undefined : names('models', values.models, [...MODELS, LARGE])
  if (!['yes', 'no', 'only'].includes(values.gemm)) throw new Error(`--gemm is yes, no or only, and not ${values.gemm}`)
  const number = (name) => {
    const value = Number(values[name])
    if (!(value > 0 && Number.isFinite(value))) throw new Error(`--${name} must be a number above 0, and is ${values[name]}`)
    return value
  }
  const drift = values.drift === undefined ? undefined : Math.ceil(number('drift'))
  if (values.check) {
    const kinds = peers.map((peer) => PEERS[peer].program ?? 'pages')
    process.stdout.write(`${[...new Set(kinds)].join(' ')}\n`)
    process.exit(0)
  }
  return { ...values, peers, models, drift, rounds: number('rounds'), seconds: number('seconds') }
}

function names(option, list, known) {
  const chosen = list.split(',').filter(Boolean)
  if (chosen.length === 0) throw new Error(`--${option} names nothing; choose from ${known.join(', ')}`)
  const strange = chosen.find((name) => !known.includes(name))
  if (strange !== undefined) throw new Error(`--${option}: ${strange} is none of ${known.join(', ')}`)
  return chosen
}
