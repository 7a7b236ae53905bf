// Small web servers of the tests' own.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.wasm': 'application/wasm', '.css': 'text/css', '.svg': 'image/svg+xml' }

/**
 * Serves what `answer` gives; 404 for undefined.
 * @param {import('./programs.mjs').Workshop} workshop
 * @param {(path: string, body: string) => { type: string, bytes: string | Buffer } | undefined} answer
 * @returns {Promise<string>} the site's origin, which is not a relay's: its host is `localhost`
 */
export async function serve(workshop, answer) {
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    const found = answer(new URL(request.url ?? '/', 'http://localhost').pathname, body)
    response.writeHead(found ? 200 : 404, { 'content-type': found?.type ?? 'text/plain' })
    response.end(found?.bytes ?? '')
  })
  server.listen(0, 'localhost')
  await once(server, 'listening')
  workshop.onClose(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  return `http://localhost:${port}`
}

/** @param {string} html */
export const page = (html) => ({ type: TYPES['.html'], bytes: html })

/**
 * A file of a folder, or undefined.
 * @param {string} folder
 * @param {string} path
 */
export function file(folder, path) {
  try {
    return { type: TYPES[extname(path)] ?? 'application/octet-stream', bytes: readFileSync(join(folder, normalize(path))) }
  } catch {
    return undefined
  }
}
