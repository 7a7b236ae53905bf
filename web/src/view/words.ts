/** What is going on, in plain words. */

import type { Failure } from '../client/messages';
import { lossText, plural } from '../format';
import { newestHeldOut, type Status } from '../status';

const PHASES: Record<Status['phase'], string> = {
  syncing: 'Fetching the current model',
  following: 'Following the run',
  joining: 'Asking to be taken in',
  training: 'Training',
  committing: 'Done training; waiting for the others’ steps',
  exchanging: 'Exchanging updates with peers',
  agreeing: 'Agreeing on the new model',
  waiting: 'Waiting for more peers',
  over: 'Those who take part decided to end this run',
};

export function phaseText(status: Status): string {
  switch (status.state) {
    case 'stopped':
      return 'Not running';
    case 'failed':
      return 'Stopped by a problem';
    case 'starting':
      return status.opening;
    case 'paused':
      return 'Paused: following the run without training';
    case 'running':
      if (status.phase === 'training' && status.steps > 0)
        return `Training, step ${status.step} of ${status.steps}`;
      return PHASES[status.phase];
  }
}

/** A sentence for screen readers; it changes once a round, not with each step. */
export function announcement(status: Status): string {
  if (status.state === 'running' && status.head > 0) {
    const heldOut = newestHeldOut(status);
    const loss = heldOut === undefined ? '' : ` Held-out loss ${lossText(heldOut)}.`;
    return `Round ${status.head} is certified.${loss} ${plural(status.accepted, 'contribution', 'contributions')} of yours accepted.`;
  }
  return status.state === 'starting' ? 'Starting.' : phaseText(status);
}

export interface Notice {
  tone: 'info' | 'warn';
  text: string;
}

/** Conditions that the volunteer should know of, most pressing first. */
export function notices(status: Status): Notice[] {
  const found: Notice[] = [];
  const live = status.state === 'running' || status.state === 'paused';
  if (live && !status.relay) {
    found.push({
      tone: 'warn',
      text:
        status.links.length > 0
          ? 'The relay is away. Training goes on over the direct links to peers; newcomers cannot join until it is back.'
          : 'The relay is away and no peer is linked directly. Your local round goes on, and reconnecting is tried all the time.',
    });
  }
  if (live && status.phase === 'waiting') {
    found.push({
      tone: 'warn',
      text: `Too few peers are present to agree on a round (weight ${status.present} of ${status.needed} needed). It goes on by itself when they return.`,
    });
  }
  if (status.engine === 'cpu' && status.engineWhy) {
    found.push({ tone: 'info', text: `The CPU trains: ${status.engineWhy}` });
  }
  if (live && !status.durable) {
    const why = status.durableWhy ? ` (${status.durableWhy})` : '';
    found.push({
      tone: 'info',
      text: `This browser gives the page no lasting storage${why}, so your updates count but you have no vote.`,
    });
  }
  if (status.notice) found.push({ tone: 'info', text: status.notice });
  return found;
}

/** The title and advice for a failure. */
export function failureWords(failure: Failure): { title: string; text: string } {
  const titles: Record<Failure['kind'], string> = {
    notFound: 'This run was not found on the relay.',
    relayAway: 'The relay does not answer.',
    outdated: 'This page is older than the relay.',
    otherTab: 'Another tab of this browser already takes part in this run.',
    badManifest: 'The run’s description does not hold.',
    data: 'The run’s data could not be fetched whole.',
    storage: 'The browser’s storage failed.',
    engine: 'The engine failed.',
    panic: 'The client stopped: this is a bug in Shoal.',
  };
  return { title: titles[failure.kind], text: failure.text };
}
