#!/usr/bin/env -S node --no-warnings
// Runs a Wasm program (a test binary of a core, or the simulator) under Node. Usage: node wasi.mjs PROGRAM [ARGUMENTS]
import { readFile } from 'node:fs/promises'
import { argv, cwd } from 'node:process'
import { WASI } from 'node:wasi'

const [, , program, ...rest] = argv
// One thread: this platform has no others. Cargo puts test binaries in a folder of their own.
const args = [program, ...rest, ...(program.includes('/deps/') ? ['--test-threads=1'] : [])]
const wasi = new WASI({ version: 'preview1', args, env: { RUST_BACKTRACE: '0' }, preopens: { '.': cwd() } })
const module = await WebAssembly.compile(await readFile(program))
const instance = await WebAssembly.instantiate(module, wasi.getImportObject())
process.exitCode = wasi.start(instance)
