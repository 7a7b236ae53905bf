/** Glue of the peer worker: instantiates the module that the page compiled, then hands messages on. */

import init, { PeerWorker } from '../wasm/shoal_client.js';
import type { PeerStart } from './messages';
import { serve } from './serve';

/** A session that is being left on this page holds the lock for a moment more. */
const LOCK_MS_MAX = 2500;

/** One tab for each run and site: two would vote with one key. The browser frees the lock with the worker. */
function lockRun(run: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    if (!navigator.locks) {
      resolve(true);
      return;
    }
    const hold = () => {
      resolve(true);
      return new Promise<void>(() => {});
    };
    const signal = AbortSignal.timeout(LOCK_MS_MAX);
    navigator.locks.request(`shoal run ${run}`, { signal }, hold).catch((error: unknown) => {
      if (signal.aborted) resolve(false);
      else reject(error);
    });
  });
}

serve(async ({ module, ...start }: PeerStart) => {
  if (!(await lockRun(start.run))) {
    const text = 'Close the other tab, or go on there. One browser takes part in a run once.';
    self.postMessage({ type: 'failed', kind: 'otherTab', text });
    return null;
  }
  await init({ module_or_path: module });
  return new PeerWorker(start);
});
