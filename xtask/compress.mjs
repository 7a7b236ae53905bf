// Writes a Brotli and a gzip file beside each file that the relay can send in that encoding. Usage: node compress.mjs DIST
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'

const dist = process.argv[2]
for (const name of readdirSync(dist, { recursive: true }).map(String)) {
  const file = join(dist, name)
  if (!/\.(wasm|js|css|html|svg)$/.test(name) || !statSync(file).isFile()) continue
  const bytes = readFileSync(file)
  const params = {
    [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
    [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
  }
  for (const [ending, encoded] of [
    ['br', brotliCompressSync(bytes, { params })],
    ['gz', gzipSync(bytes, { level: 9 })],
  ]) {
    // An encoding that saves nothing is not worth a file.
    if (encoded.length < bytes.length) writeFileSync(`${file}.${ending}`, encoded)
  }
}
