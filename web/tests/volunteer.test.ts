import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { NotFetched } from '../src/loading';
import { forget } from '../src/settings';
import { hearPeer } from '../src/status';
import { type Opening, Volunteer } from '../src/volunteer';

/** A tab whose client loads when the test says so. */
class Tab {
  readonly page = Object.assign(new EventTarget(), { hidden: false });
  readonly openings: (Opening & { done: (client: FakeClient) => void; fail: (error: unknown) => void })[] =
    [];
  readonly volunteer: Volunteer;

  constructor(settings = { duty: 1, pauseHidden: true }) {
    vi.stubGlobal('document', this.page);
    const options = { run: 'r', engine: 'auto', direct: true, measureAll: false } as const;
    this.volunteer = new Volunteer(
      options,
      settings,
      () => {},
      (opening) =>
        new Promise((done, fail) => {
          this.openings.push({ ...opening, done, fail });
        }),
    );
  }

  hide(hidden: boolean): void {
    this.page.hidden = hidden;
    this.page.dispatchEvent(new Event('visibilitychange'));
  }

  /** Starts, and lets the client load. */
  async loaded(between: () => void = () => {}): Promise<FakeClient> {
    const started = this.volunteer.start();
    between();
    const client = new FakeClient(this.openings.at(-1) as Opening);
    this.openings.at(-1)?.done(client);
    await started;
    return client;
  }
}

class FakeClient {
  readonly did: string[] = [];
  constructor(readonly opening: Opening) {}
  ready(): void {
    hearPeer(this.opening.status, { type: 'ready', peer: 'p', durable: true, why: null, head: 0 });
    this.opening.changed();
  }
  pause(): void {
    this.did.push('pause');
    this.opening.status.state = 'paused';
  }
  resume(): void {
    this.did.push('resume');
    this.opening.status.state = 'running';
  }
  pace(duty: number): void {
    this.did.push(`pace ${duty}`);
  }
  sample(): void {}
  async close(): Promise<void> {
    this.did.push('close');
  }
}

afterEach(() => vi.unstubAllGlobals());

describe('a volunteer', () => {
  it('who stops while the client loads has no client', async () => {
    const tab = new Tab();
    const client = await tab.loaded(() => void tab.volunteer.stop());
    expect(client.opening.signal.aborted).toBe(true);
    expect(client.did).toEqual(['close']);
    expect(tab.volunteer.status.state).toBe('stopped');
    expect((await tab.loaded()).did).toEqual(['pace 1']);
  });

  it('who stops and starts again while the client loads has the second client only', async () => {
    const tab = new Tab();
    const first = tab.volunteer.start();
    await tab.volunteer.stop();
    const second = await tab.loaded();
    const late = new FakeClient(tab.openings[0] as Opening);
    tab.openings[0]?.done(late);
    await first;
    second.ready();
    expect(late.did).toEqual(['close']);
    expect(tab.volunteer.status.state).toBe('running');
  });

  it('who stops hears no more of a client that did not load', async () => {
    const tab = new Tab();
    const started = tab.volunteer.start();
    await tab.volunteer.stop();
    tab.openings[0]?.fail(new Error('aborted'));
    await started;
    expect(tab.volunteer.status).toMatchObject({ state: 'stopped', failure: null });
  });

  it('who chooses how hard while the client loads gets that', async () => {
    const tab = new Tab();
    const client = await tab.loaded(() => tab.volunteer.set({ duty: 0.25 }));
    expect(client.did).toEqual(['pace 0.25']);
  });

  it('who hides the tab while the client loads is paused when it is ready, until the tab shows', async () => {
    const tab = new Tab();
    const client = await tab.loaded(() => tab.hide(true));
    client.ready();
    expect(client.did).toEqual(['pace 1', 'pause']);
    tab.hide(false);
    expect(client.did).toEqual(['pace 1', 'pause', 'resume']);
  });

  it('who wants to train in a hidden tab does', async () => {
    const tab = new Tab({ duty: 1, pauseHidden: false });
    const client = await tab.loaded(() => tab.hide(true));
    client.ready();
    expect(tab.volunteer.status.state).toBe('running');
  });

  it('who paused by hand stays paused when the tab shows again', async () => {
    const tab = new Tab();
    const client = await tab.loaded();
    client.ready();
    tab.volunteer.pause();
    tab.hide(true);
    tab.hide(false);
    expect(tab.volunteer.status.state).toBe('paused');
  });
});

describe('a client that does not load', () => {
  const failing = async (error: unknown, relay: () => Promise<Response>) => {
    vi.stubGlobal('fetch', relay);
    const tab = new Tab();
    const started = tab.volunteer.start();
    tab.openings[0]?.fail(error);
    await started;
    return tab.volunteer.status.failure?.kind;
  };
  const missing = new NotFetched('the client', new TypeError('failed to fetch'));

  it('is the relay’s absence when the relay does not answer', async () => {
    expect(await failing(missing, () => Promise.reject(new TypeError()))).toBe('relayAway');
  });

  it('is an old page when the relay answers', async () => {
    expect(await failing(missing, async () => new Response('{}'))).toBe('outdated');
  });

  it('is a bug when it came and broke', async () => {
    expect(await failing(new Error('broken'), async () => new Response('{}'))).toBe('panic');
  });
});

describe('forgetting', () => {
  const removal = (outcomes: string[]) => {
    const removeEntry = vi.fn(async () => {
      const name = outcomes.shift();
      if (name) throw new DOMException(name, name);
    });
    vi.stubGlobal('navigator', { storage: { getDirectory: async () => ({ removeEntry }) } });
    return removeEntry;
  };
  beforeEach(() => vi.useFakeTimers({ shouldAdvanceTime: true, advanceTimeDelta: 50 }));
  afterEach(() => vi.useRealTimers());

  it('waits for an ended worker to free its files', async () => {
    const removeEntry = removal(['NoModificationAllowedError', 'NoModificationAllowedError', '']);
    await forget();
    expect(removeEntry).toHaveBeenCalledTimes(3);
  });

  it('has nothing to do where nothing is kept', async () => {
    removal(['NotFoundError']);
    await forget();
  });

  it('says what it cannot delete', async () => {
    removal(['InvalidStateError']);
    await expect(forget()).rejects.toThrow('InvalidStateError');
  });
});
