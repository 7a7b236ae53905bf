/** Trains alone in this browser and measures it: `window.trainBench`; plain products: `window.gemmBench`. */

import { offerHelpers } from './client/helpers';
import { askForSubgroups } from './client/subgroups';
import init, { gemmBench, trainBench } from './wasm/shoal_client.js';

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
  /** Also time each kernel of one more step: `extra.classes`, where the device has timestamps. */
  profile?: boolean;
  /** Also time a fixed piece of work before each reading of a loss: `extra.windows`. */
  control?: boolean;
  /** Of the CPU engine; as many as there are cores unless given. Without isolation there is one. */
  threads?: number;
}

export interface BenchReport {
  msPerStep: number;
  losses: (number | null)[];
  extra: Record<string, unknown>;
}

export interface GemmOrder {
  engine: 'gpu';
  /** `a·b`, `a·bᵀ` or `aᵀ·b`, of square matrices. */
  form: 'nn' | 'nt' | 'tn';
  size: number;
  /** About how long to multiply. */
  ms: number;
}

export interface GemmReport {
  gflops: number;
  kernel: string;
}

declare global {
  interface Window {
    gemmBench: (order: GemmOrder) => Promise<GemmReport>;
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
offerHelpers();
const ready = init();

window.trainBench = async ({ config, weightsUrl, batchesUrl, steps, warmup, syncEvery, engine, ...more }) => {
  const [weights, batches] = await Promise.all([fetchBytes(weightsUrl), fetchBytes(batchesUrl), ready]);
  const recipe = json({ optimizer: config.optimizer });
  const { profile = false, control = false, threads } = more;
  const times = [steps, warmup, syncEvery] as const;
  return trainBench(
    json(config.model),
    recipe,
    weights,
    batches,
    ...times,
    engine,
    profile,
    control,
    threads,
  );
};

window.gemmBench = async ({ engine, form, size, ms }) => {
  await ready;
  return gemmBench(engine, form, size, ms);
};
