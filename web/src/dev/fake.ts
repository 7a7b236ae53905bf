/** A page with an invented session, to look at while designing. It is not part of the production build. */

import type { RunDetails } from '../api';
import type { Status } from '../status';

export const fakeRun: RunDetails = {
  id: '3f9ac1d2'.repeat(8),
  round: 41,
  peers: 5,
  manifest: {
    name: 'Little stories',
    description:
      'A small model learns to tell little stories, byte by byte, from a text that was written for it.',
    host: 'the demo relay',
    model: {
      vocab_size: 256,
      hidden_size: 128,
      intermediate_size: 384,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      tie_word_embeddings: false,
    },
    data: {
      held_out_bytes: 60_000,
      sources: [
        {
          name: 'Little stories',
          licence: 'CC0-1.0',
          attribution: 'Written by a seeded generator that comes with Shoal.',
          chunks: [{ bytes: 1_048_576 }],
        },
      ],
    },
    recipe: { context: 128, batch: 8, local_steps: 20 },
    timing: { train_ms_max: 20_000 },
  },
};

export function fakeStatus(status: Status): void {
  const ids = Array.from({ length: 6 }, (_, index) =>
    (index * 2_654_435_761 + 77).toString(16).padStart(8, 'a'),
  );
  Object.assign(status, {
    state: 'running',
    peer: ids[0],
    relay: !location.search.includes('away'),
    durable: true,
    head: 41,
    round: 42,
    phase: 'training',
    phaseProgress: 0.62,
    step: 13,
    steps: 20,
    accepted: 17,
    tokensPerSecond: 18_432,
    bytesUp: 4_100_000,
    bytesDown: 21_300_000,
    engine: 'gpu',
    engineName: 'NVIDIA GeForce RTX 4070',
    sample: {
      text: 'Once there was a small grey fish who wanted to see the sun. She asked the old crab, and the crab said: swim up until the water is warm',
      busy: false,
    },
    roster: ids.map((peer, index) => ({
      peer,
      weight: 1,
      trains: index !== 4,
      valid: index,
      me: index === 0,
    })),
    links: ids.slice(1, 5).map((peer, index) => ({ peer, direct: index < 3 })),
  } satisfies Record<string, unknown>);
  for (let round = 1; round <= 41; round += 1) status.heldOut[round] = 1.6 + 3.9 * Math.exp(-round / 9);
  for (let step = 0; step < 42 * 20; step += 1) {
    const noise = Math.sin(step * 12.9898) * 0.12 + Math.sin(step * 4.1) * 0.08;
    status.ownLoss.push([step / 20, 1.55 + 3.95 * Math.exp(-step / 175) + noise]);
  }
}
