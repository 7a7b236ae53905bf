import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { serve } from '../src/client/serve';

let posted: unknown[] = [];
const hear = (data: object) => (self.onmessage as (event: unknown) => Promise<void>)({ data });

beforeEach(() => {
  posted = [];
  vi.stubGlobal('self', { postMessage: (message: unknown) => posted.push(message) });
});
afterEach(() => vi.unstubAllGlobals());

it('a worker that cannot boot tells the page', async () => {
  serve(() => Promise.reject(new Error('out of memory')));
  await hear({ type: 'start' });
  expect(posted).toEqual([{ type: 'failed', kind: 'panic', text: 'Error: out of memory' }]);
});

it('a worker boots once and then handles messages in their order', async () => {
  const handled: unknown[] = [];
  let boots = 0;
  serve(async () => {
    boots += 1;
    return { handle: (message) => handled.push(message) };
  });
  await Promise.all([
    hear({ type: 'start' }),
    hear({ type: 'a' }),
    hear({ type: 'start' }),
    hear({ type: 'b' }),
  ]);
  expect(boots).toBe(1);
  expect(handled).toEqual([{ type: 'a' }, { type: 'b' }]);
});

it('a message that cannot be handled is told to the page', async () => {
  serve(async () => ({
    handle: () => {
      throw new Error('what is this');
    },
  }));
  await hear({ type: 'start' });
  await hear({ type: 'x' });
  expect(posted).toEqual([{ type: 'failed', kind: 'panic', text: 'Error: what is this' }]);
});
