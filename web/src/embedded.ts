/**
 * Entry of the frame on a partner's page. The start click counts only when it comes from a person and the
 * frame is really visible; where the browser cannot tell, the full page opens instead.
 */

import { html, render, type TemplateResult } from 'lit';
import { ApiError, readRun } from './api';
import { embeddedView } from './view/embedded';
import { exposeStatus, obstacle, optionsFrom, Volunteer } from './volunteer';

const root = document.getElementById('app') as HTMLElement;

/** Intersection Observer v2; TypeScript's library does not have it yet. */
interface VisibilityInit extends IntersectionObserverInit {
  trackVisibility: boolean;
  delay: number;
}
type VisibilityEntry = IntersectionObserverEntry & { isVisible?: boolean };

/** Follows whether nothing covers, fades or cuts the frame: `null` where the browser cannot tell. */
function watchVisibility(): () => boolean | null {
  let visible: boolean | null = null;
  const options: VisibilityInit = { threshold: [0, 0.9, 1], trackVisibility: true, delay: 100 };
  new IntersectionObserver((entries) => {
    const entry = entries.at(-1) as VisibilityEntry | undefined;
    if (entry && 'isVisible' in entry) visible = entry.isVisible === true && entry.intersectionRatio >= 0.9;
  }, options).observe(root);
  return () => visible;
}

function note(title: string, text: string): TemplateResult {
  return html`<article class="card" data-testid="problem" role="alert"><h1>${title}</h1><p>${text}</p></article>`;
}

async function open(): Promise<void> {
  const options = optionsFrom(new URLSearchParams(location.search));
  const details = await readRun(options.run);
  const visible = watchVisibility();
  const blocked = obstacle();
  let drawn = false;
  const start = (event: MouseEvent) => {
    if (!event.isTrusted) return;
    if (visible() === true) void volunteer.start();
    else window.open(`/?run=${encodeURIComponent(details.id)}`, '_blank', 'noopener');
  };
  const draw = () => {
    drawn = false;
    render(embeddedView({ details, volunteer, obstacle: blocked, start }), root);
  };
  const changed = () => {
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(draw);
  };
  const volunteer = new Volunteer(options, { duty: 0.5, pauseHidden: true }, changed);
  exposeStatus(volunteer);
  draw();
}

open().catch((error: unknown) => {
  if (!(error instanceof ApiError)) throw error;
  const title = error.kind === 'notFound' ? 'This run was not found' : 'The relay does not answer';
  render(note(title, 'The page that shows this box may carry an old link.'), root);
});
