/** Live chart of losses over rounds. uPlot is loaded when the chart first has something to show. */

import type uPlot from 'uplot';

import { align, type Losses } from './losses';

class LossChart extends HTMLElement {
  #plot: uPlot | null = null;
  #loading = false;
  #losses: Losses = { own: [], heldOut: {} };
  #observer: ResizeObserver | null = null;
  readonly #scheme = matchMedia('(prefers-color-scheme: dark)');
  readonly #recolour = () => {
    this.#drop();
    this.#draw();
  };

  connectedCallback(): void {
    this.#observer = new ResizeObserver(() => this.#plot?.setSize(this.#size()));
    this.#observer.observe(this);
    this.#scheme.addEventListener('change', this.#recolour);
    this.#draw();
  }

  disconnectedCallback(): void {
    this.#observer?.disconnect();
    this.#scheme.removeEventListener('change', this.#recolour);
    this.#drop();
  }

  set losses(losses: Losses) {
    this.#losses = losses;
    this.#draw();
  }

  #draw(): void {
    if (this.#plot) {
      this.#plot.setData(align(this.#losses));
    } else if (!this.#loading && this.isConnected && this.#losses.own.length > 0) {
      this.#loading = true;
      void this.#load();
    }
  }

  async #load(): Promise<void> {
    const [{ default: UPlot }] = await Promise.all([import('uplot'), import('uplot/dist/uPlot.min.css')]);
    this.#loading = false;
    if (!this.isConnected) return;
    const colour = (name: string) => getComputedStyle(this).getPropertyValue(name).trim();
    const axis = {
      stroke: colour('--muted'),
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { show: false },
    };
    const font = `11px ${getComputedStyle(this).fontFamily}`;
    const paths = UPlot.paths.spline?.();
    this.#plot = new UPlot(
      {
        ...this.#size(),
        legend: { show: false },
        cursor: { show: false },
        padding: [10, 12, 0, 0],
        scales: { x: { time: false } },
        axes: [
          { ...axis, font, size: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000] },
          { ...axis, font, size: 44 },
        ],
        series: [
          {},
          { stroke: colour('--own'), width: 1.25, points: { show: false }, spanGaps: true },
          {
            stroke: colour('--common'),
            width: 2.5,
            points: { show: true, size: 6, fill: colour('--common') },
            spanGaps: true,
            ...(paths ? { paths } : {}),
          },
        ],
      },
      align(this.#losses),
      this,
    );
  }

  #size(): { width: number; height: number } {
    return { width: Math.max(200, this.clientWidth), height: Math.max(160, this.clientHeight) };
  }

  #drop(): void {
    this.#plot?.destroy();
    this.#plot = null;
  }
}

customElements.define('loss-chart', LossChart);
