/** What screen readers hear of a session, and how often. */

import type { Status } from './status';
import { announcement } from './view/words';

/** They hear of progress at most this often. */
export const ANNOUNCE_MS_MIN = 15_000;

/** Gives the sentence to show at `now`; it stays until news may be said. */
export function announcer(): (status: Status, now: number) => string {
  let said = '';
  let saidAt = Number.NEGATIVE_INFINITY;
  return (status, now) => {
    // A failure is an alert of its own.
    if (status.state === 'stopped' || status.state === 'failed') return '';
    const news = announcement(status);
    const urgent = status.state === 'paused';
    if (news !== said && (urgent || now - saidAt >= ANNOUNCE_MS_MIN)) {
      said = news;
      saidAt = now;
    }
    return said;
  };
}
