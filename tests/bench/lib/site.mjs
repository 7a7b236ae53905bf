// One origin for all peers' pages, isolated, so that threads are allowed everywhere.
import { once } from 'node:events'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { dirname, extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'

const own = dirname(dirname(fileURLToPath(import.meta.url)))
export const root = join(own, '../..')

const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
  '.css': 'text/css',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
}

const HEADERS = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
}

/**
 * @param {string} dist Shoal's built pages
 * @param {Map<string, () => Uint8Array>} made files that exist in memory only, by path
 */
export async function serve(dist, made) {
  if (!existsSync(join(dist, 'bench.html'))) throw new Error(`${dist} has no bench.html: build the pages first`)
  const server = createServer((request, response) => {
    const path = normalize(new URL(request.url ?? '/', 'http://localhost').pathname)
    const bytes = made.get(path)?.() ?? file(dist, path)
    response.writeHead(bytes ? 200 : 404, { ...HEADERS, 'content-type': TYPES[extname(path)] ?? 'application/octet-stream' })
    response.end(bytes ?? '')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  const close = () => {
    server.closeAllConnections()
    server.close()
  }
  return { origin: `http://127.0.0.1:${port}`, close }
}

/** The peers' pages and packages lie below `/peers/`; everything else is Shoal's. */
function file(dist, path) {
  const found = path.startsWith('/peers/') ? join(own, path.slice('/peers'.length)) : join(dist, path)
  return existsSync(found) && statSync(found).isFile() ? readFileSync(found) : undefined
}
