// Waiting for conditions. Nothing here waits for a fixed time and hopes.
import { once } from 'node:events'

/** What is waited for cannot happen any more. */
export class Hopeless extends Error {}

/**
 * Waits until `probe` gives something other than undefined, null or false, and returns it. A probe that throws
 * is asked again; its last error is part of the message when time is up, or at once when it is `Hopeless`.
 * @template T
 * @param {string} what
 * @param {() => Promise<T> | T} probe
 * @param {{ withinMs?: number, orElse?: () => unknown }} [options] `orElse` describes the state when it fails
 * @returns {Promise<NonNullable<T>>}
 */
export async function until(what, probe, { withinMs = 60_000, orElse = () => '' } = {}) {
  const end = performance.now() + withinMs
  let trouble = ''
  const failure = async (why) => new Error(`${why}: ${what} ${trouble} ${JSON.stringify(await orElse()) ?? ''}`)
  for (;;) {
    try {
      const found = await probe()
      if (found !== undefined && found !== null && found !== false) return found
      trouble = ''
    } catch (error) {
      trouble = String(error)
      if (error instanceof Hopeless) throw await failure('hopeless')
    }
    if (performance.now() > end) throw await failure(`not within ${withinMs / 1000} s`)
    await nextPoll()
  }
}

const nextPoll = () => new Promise((resolve) => setTimeout(resolve, 100))

/** @param {import('node:child_process').ChildProcess} child */
export async function ended(child) {
  // One that never started has no id and will not exit.
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  return child.exitCode
}
