/** Computes the golden vector of the outer step in this browser; the browser tests compare its digest. */

import init, { goldenDigest } from './wasm/shoal_client.js';

declare global {
  interface Window {
    shoalGolden: () => Promise<string>;
  }
}

window.shoalGolden = async () => {
  await init();
  return goldenDigest();
};

const output = document.getElementById('digest');
window.shoalGolden().then(
  (digest) => {
    if (output) output.textContent = digest;
  },
  (error: unknown) => {
    if (output) output.textContent = `failed: ${error}`;
  },
);
