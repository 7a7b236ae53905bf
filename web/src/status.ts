/** What a session knows, as one plain value: pages draw it and tests read it. */

import type { Failure, FromComputeWorker, FromPeerWorker, Link, Member, Phase } from './client/messages';

export type SessionState = 'stopped' | 'starting' | 'running' | 'paused' | 'failed';

export interface Status {
  state: SessionState;
  /** What is going on while the state is `starting`. */
  opening: string;
  run: string;
  peer: string;
  relay: boolean;
  durable: boolean;
  durableWhy: string | null;
  head: number;
  round: number;
  phase: Phase;
  phaseProgress: number;
  roster: Member[];
  links: Link[];
  present: number;
  needed: number;
  bytesUp: number;
  bytesDown: number;
  accepted: number;
  /** Digest of the common model after each certified round seen here. */
  models: Record<number, string>;
  /** Held-out loss of the common model after each round evaluated here. */
  heldOut: Record<number, number>;
  /** Own training loss: [round as a fraction, loss]. */
  ownLoss: [number, number][];
  step: number;
  steps: number;
  tokens: number;
  tokensPerSecond: number;
  engine: '' | 'gpu' | 'cpu';
  engineName: string;
  engineWhy: string | null;
  recoveries: number;
  notice: string;
  failure: Failure | null;
  sample: { text: string; busy: boolean };
}

export const OWN_LOSS_POINTS_MAX = 4000;

export const emptyStatus = (run: string): Status => ({
  state: 'stopped',
  opening: '',
  run,
  peer: '',
  relay: false,
  durable: false,
  durableWhy: null,
  head: 0,
  round: 0,
  phase: 'syncing',
  phaseProgress: 0,
  roster: [],
  links: [],
  present: 0,
  needed: 0,
  bytesUp: 0,
  bytesDown: 0,
  accepted: 0,
  models: {},
  heldOut: {},
  ownLoss: [],
  step: 0,
  steps: 0,
  tokens: 0,
  tokensPerSecond: 0,
  engine: '',
  engineName: '',
  engineWhy: null,
  recoveries: 0,
  notice: '',
  failure: null,
  sample: { text: '', busy: false },
});

/** Takes news of the peer worker into the status. */
export function hearPeer(status: Status, message: FromPeerWorker): void {
  switch (message.type) {
    case 'opening':
      status.opening = message.text;
      break;
    case 'ready':
      status.peer = message.peer;
      status.durable = message.durable;
      status.durableWhy = message.why;
      status.head = message.head;
      if (status.state === 'starting') status.state = 'running';
      break;
    case 'status': {
      const { type: _, acceptedOwn, ...rest } = message;
      Object.assign(status, rest);
      status.accepted = acceptedOwn;
      break;
    }
    case 'certified':
      status.models[message.round] = message.model;
      status.head = Math.max(status.head, message.round);
      if (message.recovery) status.recoveries += 1;
      // Trouble of an earlier round is over.
      if (message.own) status.notice = '';
      break;
    case 'caughtUp':
      status.models[message.round] = message.model;
      status.head = Math.max(status.head, message.round);
      break;
    case 'rolledBack':
      for (const round of Object.keys(status.models).map(Number)) {
        if (round <= message.to) continue;
        delete status.models[round];
        delete status.heldOut[round];
      }
      status.head = message.to;
      break;
    case 'notice':
      status.notice = message.text;
      break;
    case 'failed':
      fail(status, message);
      break;
    case 'left':
      status.state = 'stopped';
      break;
  }
}

/** Takes news of the compute worker into the status. */
export function hearCompute(status: Status, message: FromComputeWorker): void {
  switch (message.type) {
    case 'engine':
      status.engine = message.kind;
      status.engineName = message.name;
      status.engineWhy = message.why;
      break;
    case 'progress':
      status.step = message.step;
      status.steps = message.steps;
      status.tokens += message.tokens;
      status.tokensPerSecond = message.tokensPerSecond;
      if (message.loss === null) break;
      status.ownLoss.push([message.round - 1 + message.step / Math.max(1, message.steps), message.loss]);
      if (status.ownLoss.length > OWN_LOSS_POINTS_MAX) status.ownLoss = thin(status.ownLoss);
      break;
    case 'evaluated':
      status.heldOut[message.round] = message.loss;
      break;
    case 'sample':
      status.sample = { text: message.text, busy: !message.done };
      break;
    case 'failed':
      fail(status, message);
      break;
  }
}

function fail(status: Status, { kind, text }: Failure): void {
  // The first failure is the cause; what follows is its echo.
  status.failure ??= { kind, text };
  status.state = 'failed';
}

/** Halves the older half of the points, so that a session of days keeps its shape and its recent detail. */
function thin(points: [number, number][]): [number, number][] {
  const half = points.length >> 1;
  return [...points.slice(0, half).filter((_, index) => index % 2 === 0), ...points.slice(half)];
}

export function newestHeldOut(status: Status): number | undefined {
  const rounds = Object.keys(status.heldOut).map(Number);
  return rounds.length > 0 ? status.heldOut[Math.max(...rounds)] : undefined;
}
