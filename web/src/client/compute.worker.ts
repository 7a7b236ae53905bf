/** Glue of the compute worker: instantiates the module that the page compiled, then hands messages on. */

import init, { ComputeWorker } from '../wasm/shoal_client.js';
import { offerHelpers } from './helpers';
import type { ComputeStart } from './messages';
import { serve } from './serve';
import { askForSubgroups } from './subgroups';

askForSubgroups();
offerHelpers();

serve(async ({ module, ...start }: ComputeStart) => {
  await init({ module_or_path: module });
  return new ComputeWorker(start);
});
