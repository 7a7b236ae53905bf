import { defineConfig } from 'vite';

// The relay serves `dist` at its root. Only `embed.js` has a fixed name: partners link to it.
export default defineConfig({
  build: {
    target: 'es2022',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rolldownOptions: {
      input: {
        index: 'index.html',
        embedded: 'embed.html',
        golden: 'golden.html',
        bench: 'bench.html',
        embed: 'src/embed.ts',
      },
      output: {
        entryFileNames: (chunk) => (chunk.name === 'embed' ? 'embed.js' : 'assets/[name]-[hash].js'),
      },
    },
  },
  worker: { format: 'es' },
  server: { proxy: { '/api': { target: 'http://127.0.0.1:8080', ws: true } } },
  test: { include: ['tests/**/*.test.ts'] },
} as Parameters<typeof defineConfig>[0]);
