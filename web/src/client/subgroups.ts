/**
 * Lets kernels pass values between neighbouring threads where the adapter can. The WebGPU library does not ask for the
 * feature on the web (gfx-rs/wgpu#10146), so each request for a device asks for it here.
 */

interface Adapter {
  readonly features: ReadonlySet<string>;
  requestDevice(descriptor?: Descriptor): Promise<unknown>;
}
interface Descriptor {
  requiredFeatures?: Iterable<string>;
}

const FEATURE = 'subgroups';

export function askForSubgroups(): void {
  const { GPUAdapter } = globalThis as { GPUAdapter?: { prototype: Adapter } };
  if (!GPUAdapter) return;
  const ask = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = function (this: Adapter, descriptor: Descriptor = {}) {
    const requiredFeatures = new Set(descriptor.requiredFeatures ?? []);
    if (this.features.has(FEATURE)) requiredFeatures.add(FEATURE);
    return ask.call(this, { ...descriptor, requiredFeatures: [...requiredFeatures] });
  };
}
