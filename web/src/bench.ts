/** Trains alone in this browser and measures it: `window.trainBench`. */

import { askForSubgroups } from './client/subgroups';
import init, { trainBench } from './wasm/shoal_client.js';

export interface BenchOrder {
  /** `model` as in a `config.json`, `optimizer` as in a recipe file. */
  config: { batch: number; context: number; optimizer: unknown; model: unknown };
  /** A safetensors file with Hugging Face's names. */
  weightsUrl: string;
  /** A safetensors file with an int32 tensor `tokens` of shape [batches, batch, context + 1]. */
  batchesUrl: string;
  steps: number;
  /** Steps that are read back but not counted. */
  warmup: number;
  syncEvery: number;
  engine: 'gpu' | 'cpu';
}

export interface BenchReport {
  msPerStep: number;
  losses: (number | null)[];
  extra: Record<string, unknown>;
}

declare global {
  interface Window {
    trainBench: (order: BenchOrder) => Promise<BenchReport>;
  }
}

async function fetchBytes(url: string): Promise<Uint8Array> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));

askForSubgroups();
const ready = init();

window.trainBench = async ({ config, weightsUrl, batchesUrl, steps, warmup, syncEvery, engine }) => {
  const [weights, batches] = await Promise.all([fetchBytes(weightsUrl), fetchBytes(batchesUrl), ready]);
  const recipe = json({ optimizer: config.optimizer });
  return trainBench(json(config.model), recipe, weights, batches, steps, warmup, syncEvery, engine);
};
