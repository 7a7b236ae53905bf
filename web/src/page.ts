/** Entry of the contribute page: lists the relay's runs, or opens the one that the address names. */

import { html, render, type TemplateResult } from 'lit';
import { announcer } from './announcer';
import { ApiError, listRuns, type RunDetails, type RunSummary, readRun } from './api';
import { plural, short } from './format';
import { keepingFocus } from './view/focus';
import { runPage } from './view/run';
import { exposeStatus, obstacle, optionsFrom, Volunteer } from './volunteer';

const root = document.getElementById('app') as HTMLElement;

function frame(content: TemplateResult): void {
  render(
    html`<header class="bar">
        <a class="mark" href="/"><img src="/shoal.svg" alt="" width="28" height="28" />Shoal</a>
        <p>people train a model together, in the open</p>
      </header>
      <main>${content}</main>
      <footer><p>Every round is signed by those who trained it, and anyone can replay the run to the same model.</p></footer>`,
    root,
  );
}

function message(title: string, text: TemplateResult | string): void {
  frame(html`<section class="panel message" role="alert" data-testid="problem">
    <h1>${title}</h1>
    <p>${text}</p>
  </section>`);
}

function runList(runs: RunSummary[]): TemplateResult {
  return html`<section class="hero"><div>
      <h1>Runs on this relay</h1>
      <p class="lede">Choose one to see what it trains. Nothing starts before you click.</p>
    </div></section>
    <ul class="runs" data-testid="runs">
      ${runs.map(
        (run) =>
          html`<li><a class="panel" href=${`/?run=${run.id}`}>
            <h2>${run.name}</h2>
            <p>${run.description}</p>
            <p class="note">${short(run.parameters)} parameters, ${plural(run.round, 'round', 'rounds')},
              ${plural(run.peers, 'peer', 'peers')}, hosted by ${run.host}</p>
          </a></li>`,
      )}
    </ul>`;
}

function openRun(details: RunDetails, search: URLSearchParams): void {
  const blocked = obstacle();
  const announce = announcer();
  let drawn = false;
  const draw = () => {
    drawn = false;
    const announcement = announce(volunteer.status, performance.now());
    keepingFocus(root, () => frame(runPage({ details, volunteer, obstacle: blocked, announcement })));
  };
  const changed = () => {
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(draw);
  };
  const volunteer = new Volunteer(optionsFrom(search), { duty: 1, pauseHidden: false }, changed);
  volunteer.options.run = details.id;
  volunteer.status.run = details.id;
  exposeStatus(volunteer);
  document.title = `${details.manifest.name} · Shoal`;
  draw();
}

async function open(): Promise<void> {
  const search = new URLSearchParams(location.search);
  const wanted = search.get('run');
  if (wanted) {
    openRun(await readRun(wanted), search);
    return;
  }
  const runs = await listRuns();
  const only = runs.length === 1 ? runs[0] : undefined;
  if (only) openRun(await readRun(only.id), search);
  else if (runs.length > 0) frame(runList(runs));
  else message('No run yet', 'This relay is up, and its host has not published a run.');
}

open().catch((error: unknown) => {
  if (!(error instanceof ApiError)) throw error;
  if (error.kind === 'notFound') {
    message(
      'This run was not found',
      html`The link may be old or cut short. <a href="/">See the runs of this relay</a>.`,
    );
  } else if (error.kind === 'relayAway') {
    message('The relay does not answer', 'It may be restarting. Reload this page in a moment.');
  } else {
    message('The relay refused', error.message);
  }
});
