// Counts what a page asks of WebGPU. Runs in each page before its own scripts.
// Counted steps begin where a page says `performance.mark('bench:steps')`, or else when it maps the last warm-up step's
// loss, and end with the last submit that computes: what follows is only the reading of the last loss.
;(() => {
  const counts = { submits: 0, dispatches: 0, passes: 0, bind_groups_created: 0, buffers_created: 0, mappings: 0 }
  const afterMappings = []
  let worked = { ...counts }
  let begun
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
    afterMappings.push({ ...counts })
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

  const windows = []
  wrap('Performance', 'mark', (name) => {
    if (name === 'bench:steps') begun = { ...counts }
    if (name === 'bench:window') windows.push(bytes)
  })

  /** Counts a step, over the counted steps, the most bytes of buffers that lived at once, and those at each window's end. */
  globalThis.benchCounts = (steps) => {
    const from = begun ?? afterMappings.at(-2)
    const perStep = {}
    for (const key of Object.keys(counts)) perStep[key] = from ? (worked[key] - from[key]) / steps : 0
    return { ...perStep, peak_bytes: peak, window_bytes: windows }
  }
})()
