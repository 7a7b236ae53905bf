// Starts the programs under test as a person would: the relay, native volunteers, the verifier.
import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

import { ended, Hopeless, until } from './wait.mjs'

export const root = join(dirname(fileURLToPath(import.meta.url)), '../../..')
const programs = process.env.SHOAL_TARGET ?? join(root, 'target/debug')

/** Tiny Shakespeare where the machine has it, else nothing: the relay then makes its own text. */
export function tinyShakespeare() {
  const file = join(root, '../shared/data/tinyshakespeare.txt')
  return existsSync(file) ? file : undefined
}

/** @returns {Promise<number>} */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
      server.close(() => resolve(port))
    })
  })
}

/** Folders and processes that end with the test. */
export class Workshop {
  /** @type {(() => unknown)[]} */
  #closing = []

  folder() {
    const folder = mkdtempSync(join(tmpdir(), 'shoal-test-'))
    this.#closing.push(() => rmSync(folder, { recursive: true, force: true, maxRetries: 10 }))
    return folder
  }

  /** @param {() => unknown} close */
  onClose(close) {
    this.#closing.push(close)
  }

  /**
   * @param {string} program
   * @param {string[]} args
   */
  start(program, args) {
    const child = spawn(join(programs, program), args, { stdio: ['ignore', 'pipe', 'pipe'] })
    /** @type {string[]} */
    const log = []
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        log.push(text)
        if (process.env.SHOAL_SHOW_LOGS) process.stderr.write(`[${program}] ${text}`)
      })
    }
    child.on('error', (error) => log.push(String(error)))
    const stop = async () => {
      child.kill('SIGKILL')
      await ended(child)
    }
    this.#closing.push(stop)
    return { child, stop, log: () => log.join('').slice(-4000) }
  }

  async close() {
    const troubles = []
    // Each is closed, whatever becomes of the others: a relay must not outlive its test.
    for (const close of this.#closing.splice(0).reverse()) {
      try {
        await close()
      } catch (error) {
        // A process that is gone needs no ending.
        if (error.code !== 'ESRCH') troubles.push(error)
      }
    }
    if (troubles.length > 0) throw new AggregateError(troubles, `not closed: ${troubles.join('; ')}`)
  }
}

export class Relay {
  /**
   * @param {Workshop} workshop
   * @param {{ args?: string[], data?: string }} [options] `data` is a text file; without it the demo's own text
   */
  static async start(workshop, { args = [], data } = {}) {
    const relay = new Relay()
    relay.workshop = workshop
    relay.dataDir = workshop.folder()
    relay.port = await freePort()
    relay.url = `http://127.0.0.1:${relay.port}`
    relay.args = [
      ...['--listen', `127.0.0.1:${relay.port}`, '--no-https', '--data-dir', relay.dataDir],
      ...['--demo', '--resident', '--model', 'tiny', ...(data ? ['--data', data] : []), ...args],
    ]
    await relay.resume()
    const [run] = await relay.json('/api/runs')
    relay.run = run.id
    return relay
  }

  /** Starts it, or starts it again on the same port and data. */
  async resume() {
    this.process = this.workshop.start('shoal-relay', this.args)
    const { child, log } = this.process
    await until('the relay answers and has a run', async () => {
      if (child.exitCode !== null || child.pid === undefined) throw new Hopeless('the relay has ended')
      return (await this.json('/api/runs')).length > 0
    }, { orElse: log })
  }

  /** As a power cut would. */
  async kill() {
    await this.process.stop()
  }

  /** @param {string} path */
  async json(path) {
    return JSON.parse((await this.bytes(path)).toString())
  }

  /** @param {string} path */
  async bytes(path) {
    const response = await fetch(this.url + path)
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    return Buffer.from(await response.arrayBuffer())
  }

  async details() {
    return this.json(`/api/runs/${this.run}`)
  }

  get page() {
    return `${this.url}/?run=${this.run}`
  }

  /** Replays the run from genesis; gives what `shoal verify` prints, or throws with it. */
  async verify() {
    const shoal = join(programs, 'shoal')
    const { stdout } = await promisify(execFile)(shoal, ['verify', this.url, '--run', this.run])
    return stdout
  }

  /** A volunteer without a browser. */
  join() {
    return this.workshop.start('shoal', [
      ...['join', this.url, '--run', this.run, '--engine', 'cpu', '--data-dir', this.workshop.folder()],
    ])
  }
}
