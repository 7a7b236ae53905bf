/**
 * One volunteer on one page: its status, its settings, and the session that is loaded on the click.
 * Before [`start`] nothing of the client is fetched: no Wasm, no socket, no worker.
 */

import type { EngineChoice } from './client/messages';
import type { Session } from './client/session';
import { explain, NotFetched, words } from './loading';
import { forget, readSettings, type Settings, writeSettings } from './settings';
import { emptyStatus, type Status } from './status';

export interface Options {
  run: string;
  engine: EngineChoice;
  /** `false`: frames travel through the relay only, and peers do not see this machine's address. */
  direct: boolean;
  /** For tests and the curious: the held-out loss of each round, where a slow machine would skip some. */
  measureAll: boolean;
}

export function optionsFrom(search: URLSearchParams): Options {
  const engine = search.get('engine');
  return {
    run: search.get('run') ?? '',
    engine: engine === 'cpu' || engine === 'gpu' ? engine : 'auto',
    direct: search.get('direct') !== 'off',
    measureAll: search.get('measure') === 'all',
  };
}

/** What the client is opened with. */
export interface Opening {
  status: Status;
  options: Options;
  settings: Settings;
  changed: () => void;
  /** Aborts when the volunteer no longer wants it. */
  signal: AbortSignal;
}

/** A running client, as far as a volunteer steers it. */
export type Client = Pick<Session, 'pause' | 'resume' | 'pace' | 'sample' | 'close'>;

async function openSession(opening: Opening): Promise<Client> {
  const { Session } = await import('./client/session').catch((error: unknown) => {
    throw new NotFetched('the client', error);
  });
  return Session.open(opening);
}

export class Volunteer {
  status: Status;
  settings: Settings;
  #session: Client | null = null;
  #loading: AbortController | null = null;
  #hiddenPause = false;

  constructor(
    readonly options: Options,
    defaults: Settings,
    readonly changed: () => void,
    readonly open: (opening: Opening) => Promise<Client> = openSession,
  ) {
    this.status = emptyStatus(options.run);
    this.settings = readSettings(defaults);
    document.addEventListener('visibilitychange', () => this.#visibility());
  }

  get active(): boolean {
    return this.status.state !== 'stopped' && this.status.state !== 'failed';
  }

  async start(): Promise<void> {
    if (this.active) return;
    const status: Status = {
      ...emptyStatus(this.options.run),
      state: 'starting',
      opening: 'Loading the client…',
    };
    this.status = status;
    this.#hiddenPause = false;
    this.changed();
    const loading = new AbortController();
    this.#loading = loading;
    try {
      await this.#load(status, loading.signal);
    } catch (error) {
      const failure = await explain(error);
      // Whoever stopped meanwhile need not hear of it.
      if (loading.signal.aborted) return;
      status.failure ??= failure;
      status.state = 'failed';
    }
    this.changed();
  }

  async #load(status: Status, signal: AbortSignal): Promise<void> {
    const { options, settings } = this;
    const changed = () => {
      this.#visibility();
      this.changed();
    };
    const session = await this.open({ status, options, settings, changed, signal });
    if (signal.aborted) {
      await session.close();
      return;
    }
    this.#session = session;
    // It may have been chosen while the client loaded.
    session.pace(this.settings.duty);
    this.#visibility();
  }

  pause(): void {
    this.#hiddenPause = false;
    this.#session?.pause();
    this.changed();
  }

  resume(): void {
    this.#session?.resume();
    this.changed();
  }

  async stop(): Promise<void> {
    this.#loading?.abort();
    await this.#session?.close();
    this.#session = null;
    this.status.state = 'stopped';
    this.changed();
  }

  set(settings: Partial<Settings>): void {
    this.settings = { ...this.settings, ...settings };
    writeSettings(this.settings);
    this.#session?.pace(this.settings.duty);
    this.changed();
  }

  sample(prompt: string): void {
    this.#session?.sample(prompt);
    this.changed();
  }

  async forget(): Promise<void> {
    await this.stop();
    this.status = emptyStatus(this.options.run);
    const say = (notice: string) => {
      this.status.notice = notice;
      this.changed();
    };
    say('Deleting what Shoal keeps in this browser…');
    try {
      await forget();
      say('Everything that Shoal kept in this browser is deleted.');
    } catch (error) {
      // The usual cause: another tab of this site is at work and holds a file.
      say(
        `Not everything could be deleted (${words(error)}). Close other tabs of this site, then try again.`,
      );
    }
  }

  /** Asked at each change too: a client that becomes ready in a hidden tab must not begin to train. */
  #visibility(): void {
    if (!this.settings.pauseHidden) return;
    if (document.hidden && this.status.state === 'running') {
      this.pause();
      this.#hiddenPause = true;
    } else if (!document.hidden && this.#hiddenPause) {
      this.#hiddenPause = false;
      this.resume();
    }
  }
}

/** Lets tests and curious people read the status: `window.shoalStatus` is a fresh copy at each look. */
export function exposeStatus(volunteer: Volunteer): void {
  Object.defineProperty(window, 'shoalStatus', { get: () => structuredClone(volunteer.status) });
}

/** Why this page cannot train at all, in plain words; `null` when it can. */
export function obstacle(): { title: string; text: string } | null {
  if (!window.isSecureContext) {
    return {
      title: 'This address is not secure, so the browser locks the machine’s GPU and storage away.',
      text: `Open this page as http://localhost:${location.port || '8080'} on the machine that runs the relay, or over HTTPS: the relay prints an https:// address for other machines when it starts (your browser will ask once about its certificate).`,
    };
  }
  const missing = [
    typeof WebAssembly === 'undefined' && 'WebAssembly',
    typeof Worker === 'undefined' && 'workers',
    typeof RTCPeerConnection === 'undefined' && 'WebRTC',
  ].filter(Boolean);
  if (missing.length > 0) {
    return {
      title: `This browser lacks ${missing.join(' and ')}.`,
      text: 'A current Firefox, Chrome, Edge or Safari can take part.',
    };
  }
  return null;
}
