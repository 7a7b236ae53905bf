/** Glue of the compute worker: instantiates the module that the page compiled, then hands messages on. */

import init, { ComputeWorker } from '../wasm/shoal_client.js';
import type { ComputeStart } from './messages';
import { serve } from './serve';
import { askForSubgroups } from './subgroups';

askForSubgroups();

serve(async ({ module, ...start }: ComputeStart) => {
  await init({ module_or_path: module });
  return new ComputeWorker(start);
});
