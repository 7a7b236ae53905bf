/** Lets the Wasm module start helpers of its CPU engine: workers that a bundler must know of. */

/** What a helper is told, once. */
export interface HelperOrder {
  module: WebAssembly.Module;
  memory: SharedArrayBuffer;
  /** The model's `config.json`. */
  config: Uint8Array;
  /** Which part of how many, sequences in the batch, tokens in a sequence. */
  sizes: number[];
}

export function offerHelpers(): void {
  Object.assign(globalThis, {
    startHelper: (order: HelperOrder): Worker => {
      const worker = new Worker(new URL('./helper.worker.ts', import.meta.url), { type: 'module' });
      worker.postMessage(order);
      return worker;
    },
  });
}
