/** Numbers for people, in the browser's language. */

const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumSignificantDigits: 3 });
const plain = new Intl.NumberFormat();
const loss3 = new Intl.NumberFormat(undefined, { minimumFractionDigits: 3, maximumFractionDigits: 3 });

export const count = (value: number): string => plain.format(value);
export const short = (value: number): string => compact.format(value);
export const lossText = (value: number | undefined): string =>
  value === undefined || !Number.isFinite(value) ? '–' : loss3.format(value);

export function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size < 10 && unit > 0 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

export const plural = (value: number, one: string, many: string): string =>
  `${count(value)} ${value === 1 ? one : many}`;

/** The first digits of a peer's or model's id, as the rest of Shoal shortens them. */
export const shortId = (id: string): string => id.slice(0, 8);
