/** Glue of the compute worker: instantiates the module that the page compiled, then hands messages on. */

import init, { ComputeWorker } from '../wasm/shoal_client.js';
import type { ComputeStart } from './messages';

let booted: Promise<ComputeWorker> | null = null;

async function boot({ module, ...start }: ComputeStart): Promise<ComputeWorker> {
  await init({ module_or_path: module });
  return new ComputeWorker(start);
}

self.onmessage = async ({ data }: MessageEvent<{ type: string } & ComputeStart>) => {
  if (data.type === 'start') booted ??= boot(data);
  else (await booted)?.handle(data);
};
