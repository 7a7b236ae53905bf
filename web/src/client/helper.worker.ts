/** A helper of the CPU engine: computes one part of each batch until the team is dissolved. */

import init, { helpTeam } from '../wasm/shoal_client.js';
import type { HelperOrder } from './helpers';

self.onmessage = async ({ data }: MessageEvent<HelperOrder>) => {
  try {
    await init({ module_or_path: data.module });
    helpTeam(data.memory, data.config, Uint32Array.from(data.sizes));
  } finally {
    self.close();
  }
};
