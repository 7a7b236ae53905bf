// Prints the sizes of what a volunteer downloads, as one JSON object: of the compressed files that the relay sends.
// Usage: node sizes.mjs DIST
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

const dist = process.argv[2]
const files = readdirSync(dist, { recursive: true }).map(String).filter((name) => statSync(join(dist, name)).isFile())
const read = (name) => readFileSync(join(dist, name))
// What has no compressed file is sent as it is.
const sent = (name, ending) => read(files.includes(`${name}.${ending}`) ? `${name}.${ending}` : name).length
const gzip = (names) => names.reduce((sum, name) => sum + sent(name, 'gz'), 0)

const wasm = files.filter((name) => name.endsWith('.wasm'))
if (wasm.length !== 1) throw new Error(`expected one Wasm module in ${dist}, found ${wasm.length}`)

// What index.html names, and what those scripts import before anything is clicked.
const html = read('index.html').toString()
const named = [...html.matchAll(/(?:src|href)="\.?\/?([^"]+\.(?:js|css))"/g)].map((match) => match[1])
const page = new Set()
const follow = (name) => {
  if (page.has(name) || !files.includes(name)) return
  page.add(name)
  if (!name.endsWith('.js')) return
  const imports = /(?:^|[;}\s])(?:import|export)\s*(?:[^"'();]*?\bfrom\s*)?["']\.\/([^"']+\.js)["']/g
  for (const match of read(name).toString().matchAll(imports)) follow(join(name, '..', match[1]))
}
named.forEach(follow)
const scripts = [...page].filter((name) => name.endsWith('.js'))

console.log(
  JSON.stringify({
    wasmRaw: read(wasm[0]).length,
    wasmBrotli: sent(wasm[0], 'br'),
    pageScriptGzip: gzip(scripts),
    pageGzip: gzip(['index.html', ...page]),
    embedGzip: gzip(['embed.js']),
  }),
)
