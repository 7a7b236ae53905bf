// The safetensors format: a length, a JSON header, bytes. Runs in Node and in pages.

const TYPES = { F32: Float32Array, I32: Int32Array }

/**
 * @param {Record<string, { shape: number[], data: Float32Array | Int32Array }>} tensors
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function write(tensors) {
  const header = {}
  let end = 0
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    const dtype = data instanceof Int32Array ? 'I32' : 'F32'
    header[name] = { dtype, shape, data_offsets: [end, end + data.byteLength] }
    end += data.byteLength
  }
  const text = JSON.stringify(header)
  const head = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8))
  const bytes = new Uint8Array(8 + head.length + end)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(head.length), true)
  bytes.set(head, 8)
  for (const [name, { data }] of Object.entries(tensors)) {
    const start = 8 + head.length + header[name].data_offsets[0]
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), start)
  }
  return bytes
}

/**
 * @param {ArrayBuffer} buffer
 * @returns {Record<string, { shape: number[], data: Float32Array | Int32Array }>}
 */
export function read(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)))
  const tensors = {}
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const [start, end] = data_offsets.map((offset) => 8 + length + offset)
    tensors[name] = { shape, data: new TYPES[dtype](buffer.slice(start, end)) }
  }
  return tensors
}
