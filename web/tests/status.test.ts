import { describe, expect, it } from 'vitest';
import { bytes } from '../src/format';
import { emptyStatus, hearCompute, hearPeer, newestHeldOut, OWN_LOSS_POINTS_MAX } from '../src/status';
import { align } from '../src/view/losses';
import { notices, phaseText } from '../src/view/words';

const progress = (round: number, step: number) =>
  ({ type: 'progress', round, step, steps: 10, loss: 5, tokens: 64, tokensPerSecond: 100 }) as const;

describe('status', () => {
  it('keeps one digest for each certified round', () => {
    const status = emptyStatus('r');
    hearPeer(status, { type: 'certified', round: 1, model: 'aa', accepted: 2, own: true, recovery: false });
    hearPeer(status, { type: 'caughtUp', round: 3, model: 'cc' });
    expect(status.models).toEqual({ 1: 'aa', 3: 'cc' });
    expect(status.head).toBe(3);
  });

  it('forgets what a rollback took back', () => {
    const status = emptyStatus('r');
    hearPeer(status, { type: 'certified', round: 1, model: 'aa', accepted: 1, own: true, recovery: false });
    hearPeer(status, { type: 'certified', round: 2, model: 'bb', accepted: 1, own: true, recovery: true });
    hearCompute(status, { type: 'evaluated', round: 1, loss: 4 });
    hearCompute(status, { type: 'evaluated', round: 2, loss: 3 });
    hearPeer(status, { type: 'rolledBack', to: 1 });
    expect(status.models).toEqual({ 1: 'aa' });
    expect(newestHeldOut(status)).toBe(4);
  });

  it('keeps the first failure, which is the cause', () => {
    const status = emptyStatus('r');
    hearPeer(status, { type: 'failed', kind: 'notFound', text: 'first' });
    hearCompute(status, { type: 'failed', kind: 'panic', text: 'second' });
    expect(status.failure).toEqual({ kind: 'notFound', text: 'first' });
    expect(status.state).toBe('failed');
  });

  it('bounds the points it keeps and never drops the newest', () => {
    const status = emptyStatus('r');
    for (let step = 0; step < 3 * OWN_LOSS_POINTS_MAX; step += 1) hearCompute(status, progress(step + 1, 10));
    expect(status.ownLoss.length).toBeLessThanOrEqual(OWN_LOSS_POINTS_MAX);
    expect(status.ownLoss.at(-1)?.[0]).toBe(3 * OWN_LOSS_POINTS_MAX);
  });
});

describe('words', () => {
  it('say that training goes on when the relay is away and a peer is linked', () => {
    const status = { ...emptyStatus('r'), state: 'running' as const, durable: true };
    status.links = [{ peer: 'aa', direct: true }];
    expect(notices(status).map((notice) => notice.text)).toEqual([expect.stringContaining('goes on')]);
  });

  it('name the step while training', () => {
    const status = { ...emptyStatus('r'), state: 'running' as const, phase: 'training' as const };
    hearCompute(status, progress(1, 3));
    expect(phaseText(status)).toBe('Training, step 3 of 10');
  });
});

describe('chart', () => {
  it('puts both series on one sorted axis, with gaps', () => {
    const lines = align({
      own: [
        [0.5, 5],
        [1.5, 4],
      ],
      heldOut: { 1: 4.5 },
    });
    expect(lines).toEqual([
      [0.5, 1, 1.5],
      [5, null, 4],
      [null, 4.5, null],
    ]);
  });
});

describe('format', () => {
  it('writes bytes with decimal units', () => {
    expect([bytes(999), bytes(1500), bytes(12_300_000)]).toEqual(['999 B', '1.5 kB', '12 MB']);
  });
});
