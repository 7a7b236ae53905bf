/** The running client: one Wasm module, compiled once, in two workers and on the page. Loaded on the click. */

import type { Settings } from '../settings';
import { hearCompute, hearPeer, type Status } from '../status';
import type { Options } from '../volunteer';
import init, { PageLinks } from '../wasm/shoal_client.js';
import wasmUrl from '../wasm/shoal_client_bg.wasm?url';
import type { ComputeStart, FromComputeWorker, FromPeerWorker, PeerStart } from './messages';

/** How long a good-bye may take before the workers are ended without it. */
const LEAVE_MS_MAX = 1500;

async function compile(url: string): Promise<WebAssembly.Module> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  if (response.headers.get('content-type')?.startsWith('application/wasm')) {
    return WebAssembly.compileStreaming(response);
  }
  return WebAssembly.compile(await response.arrayBuffer());
}

export class Session {
  #left: () => void = () => {};
  #samples = 0;

  private constructor(
    readonly status: Status,
    readonly changed: () => void,
    readonly peer: Worker,
    readonly compute: Worker,
    readonly links: PageLinks,
  ) {}

  static async open(
    status: Status,
    options: Options,
    settings: Settings,
    changed: () => void,
  ): Promise<Session> {
    const module = await compile(wasmUrl);
    await init({ module_or_path: module });
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
    const { run, engine, direct } = options;
    const computeStart: ComputeStart = { module, port: jobs.port1, engine, duty: settings.duty };
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
      worker.onerror = (event) => {
        const text = event.message || 'a worker could not be started';
        hearPeer(this.status, { type: 'failed', kind: 'panic', text });
        this.#end();
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
  async close(): Promise<void> {
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
