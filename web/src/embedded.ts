/**
 * Entry of the frame on a partner's page. The start click counts only when it comes from a person and the
 * frame has really been visible for a while; where it is not, or the browser cannot tell, the full page opens.
 */

import { html, render, type TemplateResult } from 'lit';
import { announcer } from './announcer';
import { ApiError, readRun } from './api';
import { embeddedView } from './view/embedded';
import { keepingFocus } from './view/focus';
import { watchVisibility } from './visibility';
import { exposeStatus, obstacle, optionsFrom, Volunteer } from './volunteer';

const root = document.getElementById('app') as HTMLElement;

function note(title: string, text: string): TemplateResult {
  return html`<article class="card" data-testid="problem" role="alert"><h1>${title}</h1><p>${text}</p></article>`;
}

async function open(): Promise<void> {
  const options = optionsFrom(new URLSearchParams(location.search));
  const details = await readRun(options.run);
  const blocked = obstacle();
  const announce = announcer();
  let hasty = false;
  let drawn = false;
  const start = (event: MouseEvent) => {
    if (!event.isTrusted) return;
    const seen = visible();
    hasty = seen === 'unsure';
    if (seen === 'yes') void volunteer.start();
    else if (hasty) changed();
    else window.open(`/?run=${encodeURIComponent(details.id)}`, '_blank', 'noopener');
  };
  const draw = () => {
    drawn = false;
    const announcement = announce(volunteer.status, performance.now());
    const view = { details, volunteer, obstacle: blocked, announcement, visible: visible(), hasty, start };
    keepingFocus(root, () => render(embeddedView(view), root));
  };
  const changed = () => {
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(draw);
  };
  const volunteer = new Volunteer(options, { duty: 0.5, pauseHidden: true }, changed);
  const visible = watchVisibility(root, changed);
  exposeStatus(volunteer);
  draw();
}

open().catch((error: unknown) => {
  if (!(error instanceof ApiError)) throw error;
  const title = error.kind === 'notFound' ? 'This run was not found' : 'The relay does not answer';
  render(note(title, 'The page that shows this box may carry an old link.'), root);
});
