/** What both workers do with the page's messages. */

import type { FromComputeWorker } from './messages';

interface Served {
  handle(message: unknown): void;
}

/**
 * Boots on the first `start`, then hands messages on. What is thrown on the way is told to the page, which
 * would otherwise wait for a worker that never comes.
 */
export function serve<Start>(boot: (start: Start) => Promise<Served | null>): void {
  let booted: Promise<Served | null> | null = null;
  self.onmessage = async ({ data }: MessageEvent<{ type: string } & Start>) => {
    try {
      if (data.type === 'start') {
        booted ??= boot(data);
        await booted;
      } else (await booted)?.handle(data);
    } catch (error) {
      const failed: FromComputeWorker = { type: 'failed', kind: 'panic', text: String(error) };
      self.postMessage(failed);
    }
  };
}
