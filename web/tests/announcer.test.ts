import { expect, it } from 'vitest';
import { ANNOUNCE_MS_MIN, announcer } from '../src/announcer';
import { emptyStatus } from '../src/status';

const running = (head: number) => ({ ...emptyStatus('r'), state: 'running' as const, head });

it('screen readers hear of rounds, but not of each', () => {
  const announce = announcer();
  expect(announce(running(1), 0)).toContain('Round 1');
  expect(announce(running(2), 1000)).toContain('Round 1');
  expect(announce(running(3), ANNOUNCE_MS_MIN)).toContain('Round 3');
});

it('screen readers hear of a pause at once, and of nothing once it is over', () => {
  const announce = announcer();
  announce(running(1), 0);
  expect(announce({ ...running(1), state: 'paused' }, 1)).toContain('Paused');
  expect(announce({ ...running(1), state: 'stopped' }, 2)).toBe('');
});
