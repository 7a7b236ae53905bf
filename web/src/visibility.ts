/**
 * Whether a person can be said to see the frame. Visible for an instant is not enough: a partner's page could
 * uncover the frame between the two clicks of a double-click.
 */

/** So long a verdict must hold before it counts. */
export const SETTLED_MS = 800;

/** `unsure` is not known yet, or not long enough; `unknowable` is a browser that cannot tell. */
export type Visibility = 'unsure' | 'yes' | 'no' | 'unknowable';

export class Sight {
  #visible: boolean | null = null;
  #since = 0;

  constructor(readonly supported: boolean) {}

  /** Takes what the browser says at `now`, in milliseconds. */
  hear(visible: boolean, now: number): void {
    if (visible === this.#visible) return;
    this.#visible = visible;
    this.#since = now;
  }

  at(now: number): Visibility {
    if (!this.supported) return 'unknowable';
    if (this.#visible === null || now - this.#since < SETTLED_MS) return 'unsure';
    return this.#visible ? 'yes' : 'no';
  }
}

/** Intersection Observer v2; TypeScript's library does not have it yet. */
interface VisibilityInit extends IntersectionObserverInit {
  trackVisibility: boolean;
  delay: number;
}
type VisibilityEntry = IntersectionObserverEntry & { isVisible?: boolean };

/** The least that browsers allow. */
const DELAY_MS = 100;

/** Follows whether nothing covers, fades or cuts `target`; `changed` is called when the verdict may differ. */
export function watchVisibility(target: HTMLElement, changed: () => void): () => Visibility {
  const sight = new Sight('isVisible' in IntersectionObserverEntry.prototype);
  const options: VisibilityInit = { threshold: [0, 0.9, 1], trackVisibility: true, delay: DELAY_MS };
  new IntersectionObserver((entries) => {
    const entry = entries.at(-1) as VisibilityEntry | undefined;
    if (!entry) return;
    sight.hear(entry.isVisible === true && entry.intersectionRatio >= 0.9, performance.now());
    changed();
    // A timer may come a little early.
    setTimeout(changed, SETTLED_MS + DELAY_MS);
  }, options).observe(target);
  return () => sight.at(performance.now());
}
