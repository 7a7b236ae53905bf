/** The compact view inside a partner's page. */

import { html, nothing, type TemplateResult } from 'lit';
import type { RunDetails } from '../api';
import { count, lossText, plural, short } from '../format';
import { newestHeldOut } from '../status';
import type { Visibility } from '../visibility';
import type { Volunteer } from '../volunteer';
import { failureWords, phaseText } from './words';

export interface EmbeddedView {
  details: RunDetails;
  volunteer: Volunteer;
  obstacle: { title: string; text: string } | null;
  announcement: string;
  visible: Visibility;
  /** The start was clicked before the frame had been seen for long enough. */
  hasty: boolean;
  start: (event: MouseEvent) => void;
}

export function embeddedView(view: EmbeddedView): TemplateResult {
  const { details, volunteer } = view;
  return html`<article class="card" data-visible=${view.visible}>
    <header>
      <img src="/shoal.svg" alt="" width="24" height="24" />
      <div>
        <h1>${details.manifest.name}</h1>
        <p>hosted by ${details.manifest.host}</p>
      </div>
      <a href=${`/?run=${details.id}`} target="_blank" rel="noopener" title="Open the full page">details</a>
    </header>
    <p class="visually-hidden" role="status" data-testid="announcement">${view.announcement}</p>
    ${volunteer.active ? running(volunteer) : invitation(view)}
  </article>`;
}

function invitation({ details, volunteer, obstacle, hasty, start }: EmbeddedView): TemplateResult {
  const failure = volunteer.status.failure;
  const words = obstacle ?? (failure ? failureWords(failure) : null);
  return html`
    ${
      words
        ? html`<p class="problem" role="alert" data-testid="problem"><strong>${words.title}</strong> ${words.text}</p>`
        : html`<p>
            Lend this browser to a model that ${plural(details.peers, 'peer trains', 'peers train')} together. Peers see
            your IP address; a key for this run stays in its public record.
          </p>`
    }
    <p class="hint" role="status" data-testid="hint">${hasty ? 'Look at this box for a moment, then click again.' : nothing}</p>
    <button class="primary" data-testid="start" ?disabled=${obstacle !== null} @click=${start}>Start training</button>
  `;
}

function running(volunteer: Volunteer): TemplateResult {
  const { status } = volunteer;
  const paused = status.state === 'paused';
  return html`
    <p class="phase" data-testid="phase">${phaseText(status)}</p>
    <progress max="1" .value=${status.phaseProgress} aria-label="Progress of this phase"></progress>
    <dl>
      <div><dt>round</dt><dd data-testid="round">${count(status.round)}</dd></div>
      <div><dt>held-out loss</dt><dd data-testid="held-out">${lossText(newestHeldOut(status))}</dd></div>
      <div><dt>accepted</dt><dd data-testid="accepted">${count(status.accepted)}</dd></div>
      <div><dt>tokens/s</dt><dd>${short(status.tokensPerSecond)}</dd></div>
    </dl>
    <div class="buttons">
      <button data-testid=${paused ? 'resume' : 'pause'} aria-disabled=${status.state === 'starting'}
        @click=${() => (paused ? volunteer.resume() : volunteer.pause())}>${paused ? 'Resume' : 'Pause'}</button>
      <button data-testid="stop" @click=${() => void volunteer.stop()}>Stop</button>
    </div>
    ${status.relay || status.state === 'starting' ? nothing : html`<p class="problem">The relay is away; direct links go on.</p>`}
  `;
}
