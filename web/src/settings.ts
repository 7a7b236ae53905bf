/** What the volunteer chose, kept in this browser; without storage the defaults hold. */

export interface Settings {
  /** Share of the time that may be spent computing: 0.25, 0.5 or 1. */
  duty: number;
  pauseHidden: boolean;
}

const KEY = 'shoal.settings';
export const DUTIES = [0.25, 0.5, 1] as const;

export function readSettings(defaults: Settings): Settings {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Settings>;
    const duty = DUTIES.find((choice) => choice === stored.duty) ?? defaults.duty;
    return { duty, pauseHidden: stored.pauseHidden ?? defaults.pauseHidden };
  } catch {
    // Storage is refused or holds something else: the defaults are as good as any.
    return { ...defaults };
  }
}

export function writeSettings(settings: Settings): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A private window may refuse; the choice then holds for this page only.
  }
}

/** A worker that was ended frees its files a moment later. */
const BUSY_TRIES = 20;
const BUSY_WAIT_MS = 100;

/** Deletes everything that Shoal keeps in this browser: keys, votes, models, settings. */
export async function forget(): Promise<void> {
  try {
    localStorage.removeItem(KEY);
  } catch {
    // Nothing can be kept where storage is refused.
  }
  if (!navigator.storage?.getDirectory) return;
  const root = await navigator.storage.getDirectory();
  for (let tries = 1; ; tries += 1) {
    try {
      await root.removeEntry('shoal', { recursive: true });
      return;
    } catch (error) {
      const name = error instanceof DOMException ? error.name : '';
      if (name === 'NotFoundError') return;
      if (name !== 'NoModificationAllowedError' || tries === BUSY_TRIES) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, BUSY_WAIT_MS));
  }
}
