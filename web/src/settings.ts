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

/** Deletes everything that Shoal keeps in this browser: keys, votes, models, settings. */
export async function forget(): Promise<void> {
  try {
    localStorage.removeItem(KEY);
  } catch {
    // Nothing can be kept where storage is refused.
  }
  if (!navigator.storage?.getDirectory) return;
  const root = await navigator.storage.getDirectory();
  try {
    await root.removeEntry('shoal', { recursive: true });
  } catch (error) {
    if (!(error instanceof DOMException && error.name === 'NotFoundError')) throw error;
  }
}
