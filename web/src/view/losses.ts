/** The losses of a run, aligned for drawing. */

export interface Losses {
  own: [number, number][];
  heldOut: Record<number, number>;
}

/** Both series on one axis of rounds: sorted, with gaps where a series has no value. */
export function align({ own, heldOut }: Losses): [number[], (number | null)[], (number | null)[]] {
  const held = Object.entries(heldOut).map(([round, loss]): [number, number] => [Number(round), loss]);
  const rounds = [...new Set([...own, ...held].map(([round]) => round))].sort((a, b) => a - b);
  const at = new Map(rounds.map((round, index) => [round, index]));
  const spread = (points: [number, number][]) => {
    const values: (number | null)[] = new Array(rounds.length).fill(null);
    for (const [round, loss] of points) {
      const index = at.get(round);
      if (index !== undefined && Number.isFinite(loss)) values[index] = loss;
    }
    return values;
  };
  return [rounds, spread(own), spread(held)];
}
