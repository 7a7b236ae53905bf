import { html, render } from 'lit';
import { embeddedView } from '../view/embedded';
import { runPage } from '../view/run';
import { announcement } from '../view/words';
import { Volunteer } from '../volunteer';
import { fakeRun, fakeStatus } from './fake';

const root = document.getElementById('app') as HTMLElement;
const search = new URLSearchParams(location.search);
const volunteer = new Volunteer(
  { run: fakeRun.id, engine: 'auto', direct: true, measureAll: false },
  { duty: 1, pauseHidden: false },
  () => draw(),
);
if (!search.has('stopped')) fakeStatus(volunteer.status);
if (search.has('failed')) {
  volunteer.status.state = 'failed';
  volunteer.status.failure = { kind: 'otherTab', text: 'Close the other tab, or go on there.' };
}

function draw(): void {
  if (search.has('embed')) {
    render(
      embeddedView({
        details: fakeRun,
        volunteer,
        obstacle: null,
        announcement: '',
        visible: 'yes' as const,
        hasty: search.has('hasty'),
        start: () => {},
      }),
      root,
    );
    return;
  }
  const view = { details: fakeRun, volunteer, obstacle: null, announcement: announcement(volunteer.status) };
  render(
    html`<header class="bar">
        <a class="mark" href="/"><img src="/shoal.svg" alt="" width="28" height="28" />Shoal</a>
        <p>people train a model together, in the open</p>
      </header>
      <main>${runPage(view)}</main>`,
    root,
  );
}
draw();
