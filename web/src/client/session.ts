/** The running client: one Wasm module, compiled once, in two workers and on the page. Loaded on the click. */

import { explain, NotFetched } from '../loading';
import { hearCompute, hearPeer, type Status } from '../status';
import type { Opening } from '../volunteer';
import init, { PageLinks } from '../wasm/shoal_client.js';
import wasmUrl from '../wasm/shoal_client_bg.wasm?url';
import type { ComputeStart, Failure, FromComputeWorker, FromPeerWorker, PeerStart } from './messages';

/** How long a good-bye may take before the workers are ended without it. */
const LEAVE_MS_MAX = 1500;

async function compile(url: string, signal: AbortSignal): Promise<WebAssembly.Module> {
  try {
    const response = await fetch(url, { signal });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    if (response.headers.get('content-type')?.startsWith('application/wasm')) {
      return await WebAssembly.compileStreaming(response);
    }
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (error) {
    // What comes and does not compile is a bug; anything else did not come.
    throw error instanceof WebAssembly.CompileError ? error : new NotFetched(url, error);
  }
}

export class Session {
  #left: () => void = () => {};
  #closing: Promise<void> | null = null;
  #samples = 0;

  private constructor(
    readonly status: Status,
    readonly changed: () => void,
    readonly peer: Worker,
    readonly compute: Worker,
    readonly links: PageLinks,
  ) {}

  /** Once `signal` aborts, no worker is started any more. */
  static async open({ status, options, settings, changed, signal }: Opening): Promise<Session> {
    const module = await compile(wasmUrl, signal);
    await init({ module_or_path: module });
    signal.throwIfAborted();
    const peer = new Worker(new URL('./peer.worker.ts', import.meta.url), { type: 'module', name: 'peer' });
    const compute = new Worker(new URL('./compute.worker.ts', import.meta.url), {
      type: 'module',
      name: 'compute',
    });
    const links = new PageLinks((message: unknown, transfer: Transferable[]) =>
      peer.postMessage(message, transfer),
    );
    const session = new Session(status, changed, peer, compute, links);
    session.#listen();
    const jobs = new MessageChannel();
    const { run, engine, direct, measureAll } = options;
    const { duty } = settings;
    const computeStart: ComputeStart = { module, port: jobs.port1, engine, duty, measureAll };
    compute.postMessage({ type: 'start', ...computeStart }, [jobs.port1]);
    const peerStart: PeerStart = { module, port: jobs.port2, relay: location.origin, run, direct };
    peer.postMessage({ type: 'start', ...peerStart }, [jobs.port2]);
    return session;
  }

  #listen(): void {
    this.peer.onmessage = ({ data }: MessageEvent<FromPeerWorker>) => {
      if (data.type === 'link') {
        this.links.handle(data.command);
        return;
      }
      hearPeer(this.status, data);
      if (data.type === 'left') this.#left();
      if (data.type === 'failed') this.#end();
      this.changed();
    };
    this.compute.onmessage = ({ data }: MessageEvent<FromComputeWorker>) => {
      hearCompute(this.status, data);
      if (data.type === 'failed') this.#end();
      this.changed();
    };
    for (const worker of [this.peer, this.compute]) {
      worker.onerror = async ({ message }) => {
        this.#end();
        // Without a message its script did not come.
        const failure: Failure = message
          ? { kind: 'panic', text: message }
          : await explain(new NotFetched('a worker', 'its script did not load'));
        hearPeer(this.status, { type: 'failed', ...failure });
        this.changed();
      };
    }
  }

  pause(): void {
    if (this.status.state !== 'running') return;
    this.status.state = 'paused';
    this.peer.postMessage({ type: 'pause' });
  }

  resume(): void {
    if (this.status.state !== 'paused') return;
    this.status.state = 'running';
    this.peer.postMessage({ type: 'resume' });
  }

  pace(duty: number): void {
    this.compute.postMessage({ type: 'pace', duty });
  }

  sample(prompt: string): void {
    this.#samples += 1;
    this.status.sample = { text: '', busy: true };
    this.compute.postMessage({ type: 'sample', id: this.#samples, prompt });
  }

  /** Says good-bye to the peers, then ends everything. */
  close(): Promise<void> {
    this.#closing ??= this.#leave();
    return this.#closing;
  }

  async #leave(): Promise<void> {
    const left = new Promise<void>((resolve) => {
      this.#left = resolve;
    });
    this.peer.postMessage({ type: 'leave' });
    await Promise.race([left, new Promise((resolve) => setTimeout(resolve, LEAVE_MS_MAX))]);
    this.#end();
  }

  #end(): void {
    this.#left();
    this.links.closeAll();
    this.peer.terminate();
    this.compute.terminate();
  }
}
