/** Why the client did not load, in words that help. */

import type { Failure } from './client/messages';

/** How long the relay may take to say that it is there. */
const PROBE_MS_MAX = 5000;

/** A part of the client did not come from the relay, or came as something else. */
export class NotFetched extends Error {
  constructor(part: string, cause: unknown) {
    super(`${part}: ${words(cause)}`, { cause });
  }
}

export const words = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Asks the relay before anything is called a bug: most often it is away, or newer than this page. */
export async function explain(error: unknown): Promise<Failure> {
  if (!(error instanceof NotFetched)) {
    return { kind: 'panic', text: `The client could not be loaded: ${words(error)}` };
  }
  return (await relayAnswers())
    ? { kind: 'outdated', text: `Reload it to go on with the relay’s own version. (${error.message})` }
    : { kind: 'relayAway', text: 'It may be restarting. Reload this page in a moment, then start again.' };
}

async function relayAnswers(): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(PROBE_MS_MAX);
    return (await fetch('/healthz', { cache: 'no-store', signal })).ok;
  } catch {
    // No answer is the answer.
    return false;
  }
}
