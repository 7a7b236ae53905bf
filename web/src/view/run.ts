/** The contribute page of one run. */

import { html, nothing, type TemplateResult } from 'lit';
import './chart';
import { parametersOf, type RunDetails } from '../api';
import { bytes, count, lossText, plural, short, shortId } from '../format';
import { DUTIES } from '../settings';
import { newestHeldOut, type Status } from '../status';
import type { Volunteer } from '../volunteer';
import { forgetMe } from './forget';
import { school } from './school';
import { failureWords, notices, phaseText } from './words';

export interface RunView {
  details: RunDetails;
  volunteer: Volunteer;
  obstacle: { title: string; text: string } | null;
  announcement: string;
}

export function runPage(view: RunView): TemplateResult {
  const { details, volunteer } = view;
  const { manifest } = details;
  const live = volunteer.active;
  return html`
    <section class=${live ? 'hero live' : 'hero'}>
      <div>
        <p class="eyebrow">A run hosted by ${manifest.host || 'an unnamed host'}</p>
        <h1>${manifest.name}</h1>
        <p class="lede">${manifest.description}</p>
      </div>
      <figure class="school-frame">
        ${school(volunteer.status, details.peers)} ${live ? legend() : nothing}
      </figure>
    </section>
    <p class="visually-hidden" role="status" aria-live="polite" data-testid="announcement">${view.announcement}</p>
    ${problem(view)}
    ${live ? dashboard(view) : invitation(view)}
    ${facts(details, Math.max(details.round, volunteer.status.head))}
  `;
}

function legend(): TemplateResult {
  return html`<figcaption class="legend">
    <span><i class="dot me"></i>you</span><span><i class="dot direct"></i>direct link</span
    ><span><i class="dot relay"></i>through the relay</span>
  </figcaption>`;
}

function problem({ volunteer, obstacle }: RunView): TemplateResult | typeof nothing {
  const failure = volunteer.status.failure;
  const words = obstacle ?? (failure ? failureWords(failure) : null);
  if (!words) return nothing;
  return html`<div class="banner warn" role="alert" data-testid="problem">
    <strong>${words.title}</strong>
    <p>${words.text}</p>
  </div>`;
}

function invitation({ details, volunteer, obstacle }: RunView): TemplateResult {
  const data = dataBytes(details);
  return html`<section class="panel invite" aria-labelledby="invite">
    <div>
      <h2 id="invite">Lend this browser to the school</h2>
      <p>
        Your machine trains a copy of the model for a few seconds at a time, then everyone’s progress is merged and
        signed. It uses your ${hasGpu() ? 'GPU' : 'CPU'}, about ${bytes(data + 4 * parametersOf(details.manifest.model))}
        to begin with, and stops when you say so or close the tab.
      </p>
      <ul class="terms">
        <li>Peers that you link to see your IP address.</li>
        <li>A key made for this run signs your updates and stays in the run’s public record. Nothing else of you does.</li>
        <li>Your browser keeps the key and the latest model, until you choose “forget me”.</li>
        ${
          hasGpu()
            ? nothing
            : html`<li>This browser offers no WebGPU, so the CPU trains. That works, only more slowly.</li>`
        }
      </ul>
      <p class="note" role="status">${volunteer.status.notice}</p>
    </div>
    <div class="go">
      <button
        class="primary"
        data-testid="start"
        ?disabled=${obstacle !== null}
        @click=${() => void volunteer.start()}
      >
        Start training
      </button>
      ${effort(volunteer)}
      ${forgetMe(volunteer)}
    </div>
  </section>`;
}

const hasGpu = (): boolean => 'gpu' in navigator;

function dashboard(view: RunView): TemplateResult {
  const { volunteer } = view;
  const { status } = volunteer;
  const paused = status.state === 'paused';
  return html`
    <section class="panel now" aria-labelledby="now">
      <div class="now-line">
        <h2 id="now"><span class="round-label">Round</span> <span data-testid="round">${count(status.round)}</span></h2>
        <p data-testid="phase">${phaseText(status)}</p>
        <div class="buttons">
          <button
            data-testid=${paused ? 'resume' : 'pause'}
            aria-disabled=${status.state === 'starting'}
            @click=${() => (paused ? volunteer.resume() : volunteer.pause())}
          >
            ${paused ? 'Resume' : 'Pause'}
          </button>
          <button data-testid="stop" @click=${() => void volunteer.stop()}>Stop</button>
        </div>
      </div>
      <progress
        max="1"
        .value=${roundProgress(status)}
        aria-label=${`Progress of this round: ${phaseText(status)}`}
      ></progress>
      ${phases(status)}
      ${notices(status).map((notice) => html`<p class="note ${notice.tone}">${notice.text}</p>`)}
    </section>
    <div class="columns">
      <div class="column wide">${losses(status)} ${sample(volunteer)}</div>
      <div class="column">${figures(status)} ${machine(volunteer)} ${peers(status)}</div>
    </div>
  `;
}

const STEPS = [
  ['training', 'train'],
  ['committing', 'commit'],
  ['exchanging', 'exchange'],
  ['agreeing', 'agree'],
] as const;

/** Where the bar starts and ends for each step of a round; the columns of `.phases` in the style sheet agree. */
const BOUNDS = [0, 0.4, 0.6, 0.8, 1];

function roundProgress(status: Status): number {
  const index = STEPS.findIndex(([phase]) => phase === status.phase);
  const [from, to] = [BOUNDS[index], BOUNDS[index + 1]];
  if (from === undefined || to === undefined) return status.phaseProgress;
  return from + (to - from) * status.phaseProgress;
}

function phases(status: Status): TemplateResult {
  return html`<ol class="phases" aria-hidden="true">
    ${STEPS.map(([phase, word]) => html`<li class=${status.phase === phase ? 'current' : ''}>${word}</li>`)}
  </ol>`;
}

function losses(status: Status): TemplateResult {
  const own = status.ownLoss.at(-1)?.[1];
  const heldOut = newestHeldOut(status);
  return html`<section class="panel" aria-labelledby="losses">
    <h2 id="losses">Loss, in nats a token</h2>
    <dl class="readout">
      <div class="common">
        <dt>common model, held-out text</dt>
        <dd data-testid="held-out">${lossText(heldOut)}</dd>
      </div>
      <div class="own">
        <dt>your training steps</dt>
        <dd data-testid="own-loss">${lossText(own)}</dd>
      </div>
    </dl>
    <loss-chart
      role="img"
      aria-label=${`Chart of the loss over rounds. Held-out loss of the common model: ${lossText(heldOut)}. Loss of your last step: ${lossText(own)}.`}
      .losses=${{ own: status.ownLoss, heldOut: status.heldOut }}
    ></loss-chart>
  </section>`;
}

function figures(status: Status): TemplateResult {
  const figure = (id: string, name: string, value: string) =>
    html`<div>
      <dt>${name}</dt>
      <dd data-testid=${id}>${value}</dd>
    </div>`;
  return html`<section class="panel" aria-label="Your contribution">
    <dl class="figures">
      ${figure('accepted', 'accepted contributions', count(status.accepted))}
      ${figure('tokens-per-second', 'tokens a second', short(status.tokensPerSecond))}
      ${figure('bytes-up', 'sent', bytes(status.bytesUp))}
      ${figure('bytes-down', 'received', bytes(status.bytesDown))}
    </dl>
  </section>`;
}

function machine(volunteer: Volunteer): TemplateResult {
  const { status } = volunteer;
  const engine =
    status.engine === '' ? 'Choosing an engine…' : status.engine === 'gpu' ? 'WebGPU' : 'CPU (WebAssembly)';
  return html`<section class="panel" aria-labelledby="machine">
    <h2 id="machine">This machine</h2>
    <p class="engine" data-testid="engine">${engine}</p>
    ${status.engineName && status.engineName !== 'cpu' ? html`<p class="note">${status.engineName}</p>` : nothing}
    ${effort(volunteer)}
  </section>`;
}

/** How hard and when: the words that BOINC users know. */
function effort(volunteer: Volunteer): TemplateResult {
  const { settings } = volunteer;
  return html`<fieldset class="effort">
    <legend>How hard</legend>
    <div class="segments">
      ${DUTIES.map(
        (duty) =>
          html`<label
            ><input
              type="radio"
              name="duty"
              .checked=${settings.duty === duty}
              @change=${() => volunteer.set({ duty })}
            /><span>${duty * 100} %</span></label
          >`,
      )}
    </div>
    <label class="check"
      ><input
        type="checkbox"
        .checked=${settings.pauseHidden}
        @change=${(event: Event) =>
          volunteer.set({ pauseHidden: (event.target as HTMLInputElement).checked })}
      />
      Pause while this tab is hidden</label
    >
  </fieldset>`;
}

function peers(status: Status): TemplateResult {
  const paths = new Map(status.links.map((link) => [link.peer, link.direct]));
  const others = [
    ...new Set([...status.roster.filter((member) => !member.me).map((m) => m.peer), ...paths.keys()]),
  ].sort();
  const path = (peer: string) => {
    const direct = paths.get(peer);
    return direct === undefined ? 'not linked' : direct ? 'direct' : 'relay';
  };
  const trains = new Set(status.roster.filter((member) => member.trains).map((member) => member.peer));
  return html`<section class="panel" aria-labelledby="peers">
    <h2 id="peers">Peers</h2>
    <p class="note">
      Relay: <span data-testid="relay">${status.relay ? 'connected' : 'away'}</span
      >${status.peer ? html`, you are <code>${shortId(status.peer)}</code>` : nothing}
    </p>
    <ul class="peers" data-testid="peers">
      ${others.map(
        (peer) =>
          html`<li><code>${shortId(peer)}</code> <span class="role">${trains.has(peer) ? 'trains' : 'keeps the record'}</span>
            <span class="path ${path(peer).replace(' ', '-')}">${path(peer)}</span></li>`,
      )}
      ${others.length === 0 ? html`<li class="note">No other peer yet.</li>` : nothing}
    </ul>
  </section>`;
}

function sample(volunteer: Volunteer): TemplateResult {
  const { status } = volunteer;
  const ready = !status.sample.busy && status.engine !== '';
  // Not a form: nothing here is for the page's address.
  const ask = () => {
    const prompt = document.getElementById('prompt') as HTMLInputElement;
    if (ready) volunteer.sample(prompt.value);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === 'Enter') ask();
  };
  return html`<section class="panel" aria-labelledby="sample">
    <h2 id="sample">Ask the common model</h2>
    <div class="sample">
      <label class="visually-hidden" for="prompt">Beginning of a text</label>
      <input id="prompt" value="Once " maxlength="200" autocomplete="off" data-testid="prompt" @keydown=${onKey} />
      <button data-testid="sample" ?disabled=${!ready} @click=${ask}>
        ${status.sample.busy ? 'Writing…' : 'Continue the text'}
      </button>
    </div>
    <output class="story" for="prompt" aria-live="off" data-testid="sample-text"
      >${status.sample.text || 'It begins with noise, and gets better as the run goes on.'}</output
    >
    <p class="visually-hidden" role="status">${status.sample.busy ? '' : status.sample.text}</p>
  </section>`;
}

const dataBytes = (details: RunDetails): number =>
  details.manifest.data.sources.flatMap((s) => s.chunks).reduce((sum, chunk) => sum + chunk.bytes, 0);

function facts(details: RunDetails, rounds: number): TemplateResult {
  const { manifest } = details;
  const { model, recipe } = manifest;
  return html`<section class="facts" aria-labelledby="facts">
    <h2 id="facts">What is being trained</h2>
    <dl>
      <div>
        <dt>Model</dt>
        <dd>
          Llama-style decoder, ${short(parametersOf(model))} parameters: ${plural(model.num_hidden_layers, 'layer', 'layers')}
          of width ${model.hidden_size}, vocabulary of ${model.vocab_size}
        </dd>
      </div>
      <div>
        <dt>Data</dt>
        <dd>
          ${manifest.data.sources.map(
            (source) =>
              html`<p>${source.name}, ${bytes(source.chunks.reduce((sum, chunk) => sum + chunk.bytes, 0))},
                licence ${source.licence}. ${source.attribution}</p>`,
          )}
        </dd>
      </div>
      <div>
        <dt>A round</dt>
        <dd>
          Up to ${plural(recipe.local_steps, 'step', 'steps')} of ${recipe.batch} × ${recipe.context} tokens or
          ${Math.round(manifest.timing.train_ms_max / 1000)} s, then all updates are merged
        </dd>
      </div>
      <div>
        <dt>So far</dt>
        <dd>${plural(rounds, 'certified round', 'certified rounds')}, ${plural(details.peers, 'peer', 'peers')} now</dd>
      </div>
      <div>
        <dt>Privacy</dt>
        <dd>An open run: data and updates are public, and anyone can replay them</dd>
      </div>
      <div>
        <dt>Run</dt>
        <dd><code class="id">${details.id}</code></dd>
      </div>
    </dl>
  </section>`;
}
