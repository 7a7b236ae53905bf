/** What the page and its two workers say to each other. The Rust side is `client-wasm/src/messages.rs`. */

/** Asks of the page by the peer worker, because only a page may own an `RTCPeerConnection`. */
export interface LinkCommand {
  type: 'link';
  command: unknown;
}

export type Phase =
  | 'syncing'
  | 'following'
  | 'joining'
  | 'training'
  | 'committing'
  | 'exchanging'
  | 'agreeing'
  | 'waiting'
  | 'over';

export interface Member {
  peer: string;
  weight: number;
  trains: boolean;
  valid: number;
  me: boolean;
  anchor: boolean;
  present: boolean;
  committed: boolean;
}

export interface Link {
  peer: string;
  direct: boolean;
}

export type FailureKind =
  | 'notFound'
  | 'relayAway'
  | 'outdated'
  | 'otherTab'
  | 'badManifest'
  | 'data'
  | 'storage'
  | 'engine'
  | 'panic';

export interface Failure {
  kind: FailureKind;
  text: string;
}

export type FromPeerWorker =
  | LinkCommand
  | { type: 'opening'; text: string }
  | { type: 'ready'; peer: string; durable: boolean; why: string | null; head: number }
  | {
      type: 'status';
      head: number;
      round: number;
      phase: Phase;
      phaseProgress: number;
      roster: Member[];
      present: number;
      needed: number;
      acceptedOwn: number;
      links: Link[];
      bytesUp: number;
      bytesDown: number;
      relay: boolean;
      durable: boolean;
    }
  | { type: 'certified'; round: number; model: string; accepted: number; own: boolean; recovery: boolean }
  | { type: 'caughtUp'; round: number; model: string }
  | { type: 'rolledBack'; to: number }
  | { type: 'notice'; text: string }
  | ({ type: 'failed' } & Failure)
  | { type: 'left' };

export type FromComputeWorker =
  | { type: 'engine'; kind: 'gpu' | 'cpu'; name: string; why: string | null }
  | {
      type: 'progress';
      round: number;
      step: number;
      steps: number;
      /** Only some steps read their loss. */
      loss: number | null;
      tokens: number;
      tokensPerSecond: number;
    }
  | { type: 'evaluated'; round: number; loss: number }
  | { type: 'sample'; id: number; text: string; done: boolean }
  | ({ type: 'failed' } & Failure);

export interface PeerStart {
  module: WebAssembly.Module;
  port: MessagePort;
  relay: string;
  run: string;
  direct: boolean;
}

export interface ComputeStart {
  module: WebAssembly.Module;
  port: MessagePort;
  engine: EngineChoice;
  duty: number;
  /** Measures each common model, however long that keeps this machine from training. */
  measureAll: boolean;
}

export type EngineChoice = 'auto' | 'gpu' | 'cpu';
