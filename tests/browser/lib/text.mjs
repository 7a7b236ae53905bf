// What guessing by byte frequencies alone would score.

/**
 * Entropy of the bytes in nats a byte: the least mean cross-entropy of any model that ignores context.
 * @param {Uint8Array} bytes
 */
export function unigramEntropy(bytes) {
  const counts = new Float64Array(256)
  for (const byte of bytes) counts[byte] += 1
  let entropy = 0
  for (const count of counts) {
    if (count > 0) entropy -= (count / bytes.length) * Math.log(count / bytes.length)
  }
  return entropy
}

/**
 * The held-out end of a run's text, fetched from the relay as a peer would.
 * @param {import('./programs.mjs').Relay} relay
 */
export async function heldOut(relay) {
  const { manifest } = await relay.details()
  const chunks = manifest.data.sources.flatMap((source) => source.chunks)
  const text = Buffer.concat(await Promise.all(chunks.map((chunk) => relay.bytes(`/api/blobs/${chunk.digest}`))))
  return text.subarray(text.length - Number(manifest.data.held_out_bytes))
}

/**
 * Fails when two volunteers hold different models after one round. Gives the number of rounds that at least two
 * of them know.
 * @param {{ models: Record<string, string> }[]} statuses
 */
export function compareModels(statuses) {
  /** @type {Map<string, Set<string>>} */
  const digests = new Map()
  let shared = 0
  for (const { models } of statuses) {
    for (const [round, model] of Object.entries(models)) {
      const seen = digests.get(round)
      if (seen) {
        seen.add(model)
        shared += 1
      } else {
        digests.set(round, new Set([model]))
      }
    }
  }
  for (const [round, seen] of digests) {
    if (seen.size > 1) throw new Error(`round ${round}: different models ${[...seen].join(', ')}`)
  }
  return shared
}
