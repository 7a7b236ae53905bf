// Counts what a page asks of WebGPU. Runs in each page before its own scripts.
// A page may say where its counted steps begin and that it asks for their last result, with
// `performance.mark('bench:steps')` and `performance.mark('bench:read')`; else they begin when the last warm-up step's
// loss is mapped and end when the last loss is.
;(() => {
  const counts = { submits: 0, dispatches: 0, passes: 0, bind_groups_created: 0, buffers_created: 0, mappings: 0 }
  const marks = {}
  const atMappings = []
  // After the latest submit that computes: what follows it, up to a mapping, is only the reading of a result.
  let worked = { ...counts }
  const live = new Map()
  let bytes = 0
  let peak = 0
  let number = 0

  const wrap = (name, method, before) => {
    const prototype = globalThis[name]?.prototype
    const original = prototype?.[method]
    if (!original) return
    prototype[method] = function (...args) {
      before?.call(this, ...args)
      return original.apply(this, args)
    }
  }
  const count = (key) => () => {
    counts[key] += 1
  }
  wrap('GPUQueue', 'submit', () => {
    counts.submits += 1
    if (counts.dispatches > worked.dispatches) worked = { ...counts }
  })
  wrap('GPUCommandEncoder', 'beginComputePass', count('passes'))
  wrap('GPUComputePassEncoder', 'dispatchWorkgroups', count('dispatches'))
  wrap('GPUComputePassEncoder', 'dispatchWorkgroupsIndirect', count('dispatches'))
  wrap('GPUDevice', 'createBindGroup', count('bind_groups_created'))
  wrap('GPUBuffer', 'mapAsync', () => {
    counts.mappings += 1
    atMappings.push({ before: worked, after: { ...counts } })
    // A library may submit late, but all is submitted when the result is mapped.
    if (marks['bench:read']) marks.end ??= worked
  })

  // Buffers live until they are destroyed, or until the collector finds that nobody knows them any more.
  const numbers = new WeakMap()
  const release = (key) => {
    bytes -= live.get(key) ?? 0
    live.delete(key)
  }
  const forgotten = new FinalizationRegistry(release)
  const create = globalThis.GPUDevice?.prototype.createBuffer
  if (create) {
    GPUDevice.prototype.createBuffer = function (descriptor) {
      const buffer = create.call(this, descriptor)
      counts.buffers_created += 1
      number += 1
      numbers.set(buffer, number)
      forgotten.register(buffer, number)
      live.set(number, descriptor.size)
      bytes += descriptor.size
      peak = Math.max(peak, bytes)
      return buffer
    }
  }
  wrap('GPUBuffer', 'destroy', function () {
    release(numbers.get(this))
  })

  wrap('Performance', 'mark', (name) => {
    if (String(name).startsWith('bench:')) marks[name] = { ...counts }
  })

  /** Counts a step, over the counted steps, and the most bytes of buffers that lived at once. */
  globalThis.benchCounts = (steps) => {
    const from = marks['bench:steps'] ?? atMappings.at(-2)?.after
    const to = marks.end ?? atMappings.at(-1)?.before
    const perStep = {}
    for (const key of Object.keys(counts)) perStep[key] = from && to ? (to[key] - from[key]) / steps : 0
    return { ...perStep, peak_bytes: peak }
  }
})()
