/** Glue of the peer worker: instantiates the module that the page compiled, then hands messages on. */

import init, { PeerWorker } from '../wasm/shoal_client.js';
import type { PeerStart } from './messages';

/** One tab for each run and site: two would vote with one key. The browser frees the lock with the worker. */
function lockRun(run: string): Promise<boolean> {
  return new Promise((resolve) => {
    if (!navigator.locks) resolve(true);
    else
      void navigator.locks.request(`shoal run ${run}`, { ifAvailable: true }, (lock) => {
        resolve(lock !== null);
        return lock ? new Promise<void>(() => {}) : undefined;
      });
  });
}

let booted: Promise<PeerWorker | null> | null = null;

async function boot({ module, ...start }: PeerStart): Promise<PeerWorker | null> {
  if (!(await lockRun(start.run))) {
    const text = 'Close the other tab, or go on there. One browser takes part in a run once.';
    self.postMessage({ type: 'failed', kind: 'otherTab', text });
    return null;
  }
  await init({ module_or_path: module });
  return new PeerWorker(start);
}

self.onmessage = async ({ data }: MessageEvent<{ type: string } & PeerStart>) => {
  if (data.type === 'start') booted ??= boot(data);
  else (await booted)?.handle(data);
};
