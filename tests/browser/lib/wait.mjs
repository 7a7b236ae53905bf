// Waiting for conditions. Nothing here waits for a fixed time and hopes.
import { once } from 'node:events'

/**
 * Waits until `probe` gives something other than undefined, null or false, and returns it. A probe that throws
 * is asked again; its last error is part of the message when time is up.
 * @template T
 * @param {string} what
 * @param {() => Promise<T> | T} probe
 * @param {{ withinMs?: number, orElse?: () => unknown }} [options] `orElse` describes the state when it fails
 * @returns {Promise<NonNullable<T>>}
 */
export async function until(what, probe, { withinMs = 60_000, orElse = () => '' } = {}) {
  const end = performance.now() + withinMs
  let trouble = ''
  for (;;) {
    try {
      const found = await probe()
      if (found !== undefined && found !== null && found !== false) return found
      trouble = ''
    } catch (error) {
      trouble = String(error)
    }
    if (performance.now() > end) {
      const state = JSON.stringify(await orElse()) ?? ''
      throw new Error(`not within ${withinMs / 1000} s: ${what} ${trouble} ${state}`)
    }
    await nextPoll()
  }
}

const nextPoll = () => new Promise((resolve) => setTimeout(resolve, 100))

/** @param {import('node:child_process').ChildProcess} child */
export async function ended(child) {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  return child.exitCode
}
