import { describe, expect, it } from 'vitest';
import { SETTLED_MS, Sight } from '../src/visibility';

describe('sight of an embedded frame', () => {
  it('is unsure before the browser tells and until that has held', () => {
    const sight = new Sight(true);
    expect(sight.at(5000)).toBe('unsure');
    sight.hear(true, 5000);
    expect(sight.at(5000 + SETTLED_MS - 1)).toBe('unsure');
    expect(sight.at(5000 + SETTLED_MS)).toBe('yes');
  });

  it('starts over when the frame was covered, however shortly', () => {
    const sight = new Sight(true);
    sight.hear(true, 0);
    sight.hear(false, 2000);
    sight.hear(true, 2100);
    expect(sight.at(2100 + SETTLED_MS - 1)).toBe('unsure');
    expect(sight.at(2100 + SETTLED_MS)).toBe('yes');
  });

  it('goes on counting while the verdict stays', () => {
    const sight = new Sight(true);
    sight.hear(false, 0);
    sight.hear(false, 700);
    expect(sight.at(SETTLED_MS)).toBe('no');
  });

  it('cannot be known without the browser’s help', () => {
    expect(new Sight(false).at(5000)).toBe('unknowable');
  });
});
