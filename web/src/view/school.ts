/** The school: one fish for each peer of the run, drawn as it is linked to this browser. */

import { html, svg, type TemplateResult } from 'lit';
import { plural } from '../format';
import type { Status } from '../status';

type Kind = 'me' | 'direct' | 'relay' | 'apart';

const BODY = 'M-9 0C-4-6 6-6 11 0 6 6-4 6-9 0Z';
const TAIL = 'M-8 0l-7-5v10Z';
const GOLDEN_ANGLE = 2.399963;

/** A sunflower arrangement, flattened: each newcomer finds room without moving the others. */
function place(index: number): [number, number] {
  const radius = 31 * Math.sqrt(index);
  const angle = index * GOLDEN_ANGLE;
  return [160 + 1.4 * radius * Math.cos(angle), 66 + 0.62 * radius * Math.sin(angle)];
}

function fish(kind: Kind, index: number): TemplateResult {
  const [x, y] = place(index);
  return svg`<g transform="translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(1.3)">
    <g class="fish ${kind} drift-${index % 4}"><path d=${BODY}></path><path d=${TAIL}></path></g>
  </g>`;
}

export function school(status: Status, expected: number): TemplateResult {
  const running = status.state === 'running' || status.state === 'paused';
  const paths = new Map(status.links.map((link) => [link.peer, link.direct]));
  const others = new Set([
    ...status.roster.filter((member) => !member.me).map((member) => member.peer),
    ...paths.keys(),
  ]);
  const kinds: Kind[] = running
    ? [
        'me',
        ...[...others].sort().map((peer): Kind => {
          const direct = paths.get(peer);
          return direct === undefined ? 'apart' : direct ? 'direct' : 'relay';
        }),
      ]
    : Array.from({ length: Math.max(1, Math.min(24, expected)) }, (): Kind => 'apart');
  const direct = kinds.filter((kind) => kind === 'direct').length;
  const relayed = kinds.filter((kind) => kind === 'relay').length;
  const label = running
    ? `You and ${plural(others.size, 'other peer', 'other peers')}: ${direct} linked directly, ${relayed} through the relay.`
    : `${plural(expected, 'peer', 'peers')} in this run now.`;
  return html`<svg class="school" viewBox="0 0 320 132" role="img" aria-label=${label}>
    ${kinds.map((kind, index) => fish(kind, index))}
  </svg>`;
}
