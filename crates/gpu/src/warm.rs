//! Compiling many kernels at once: what takes the longest before a first step, and can use all cores.

use shoal_learn::EngineError;

use crate::{kernels::Kernel, pipelines::pipeline};

type Compiled = Vec<(Kernel, wgpu::ComputePipeline)>;

#[cfg(not(target_arch = "wasm32"))]
const THREADS_MAX: usize = 8;

/// Natively the threads are ours.
#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::unused_async)] // in browsers it waits
pub(crate) async fn compile_all(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    kernels: &[Kernel],
    head: usize,
) -> Result<Compiled, EngineError> {
    use std::sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    };

    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let compiled = pipeline(device, layout, *kernel, head).map(|pipeline| (*kernel, pipeline));
                    done.lock().unwrap_or_else(PoisonError::into_inner).push(compiled);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
}

/// A browser compiles what is created asynchronously on threads of its own, and wgpu only creates synchronously; but a browser
/// does not compile again what it compiled and still holds. So the same pipelines are created asynchronously first, and kept
/// until wgpu has its own.
#[cfg(target_arch = "wasm32")]
pub(crate) async fn compile_all(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    kernels: &[Kernel],
    head: usize,
) -> Result<Compiled, EngineError> {
    let mut begun = Vec::new();
    if let Some(device) = device.as_webgpu() {
        for kernel in kernels {
            // What a browser does not do asynchronously it does, or refuses, below.
            begun.extend(browser::create(device.as_ref(), &kernel.source(head)?).ok());
        }
    }
    let mut kept = Vec::new();
    for promise in begun {
        // What it refuses is refused below too, with its reason.
        kept.extend(promise.await.ok());
    }
    let compiled = kernels.iter().map(|kernel| Ok((*kernel, pipeline(device, layout, *kernel, head)?))).collect();
    drop(kept);
    compiled
}

#[cfg(target_arch = "wasm32")]
mod browser {
    use js_sys::{
        Array, Function, Object, Promise, Reflect,
        futures::JsFuture,
        wasm_bindgen::{JsCast, JsValue},
    };

    use crate::pipelines::BINDINGS;

    /// Begins to create the pipeline that [`crate::pipelines::pipeline`] creates.
    pub fn create(device: &JsValue, source: &str) -> Result<JsFuture, JsValue> {
        let module = call(device, "createShaderModule", &object(&[("code", source.into())])?)?;
        let entries = Array::new();
        for (binding, (access, dynamic)) in (0_u32..).zip(BINDINGS) {
            let buffer = object(&[("type", access.name().into()), ("hasDynamicOffset", dynamic.into())])?;
            let visibility = wgpu::ShaderStages::COMPUTE.bits().into();
            entries.push(&object(&[("binding", binding.into()), ("visibility", visibility), ("buffer", buffer)])?);
        }
        let group = call(device, "createBindGroupLayout", &object(&[("entries", entries.into())])?)?;
        let layouts = object(&[("bindGroupLayouts", Array::of1(&group).into())])?;
        let layout = call(device, "createPipelineLayout", &layouts)?;
        let compute = object(&[("module", module), ("entryPoint", "main".into())])?;
        let pipeline = object(&[("layout", layout), ("compute", compute)])?;
        Ok(call(device, "createComputePipelineAsync", &pipeline)?.dyn_into::<Promise>()?.into())
    }

    fn call(on: &JsValue, name: &str, argument: &JsValue) -> Result<JsValue, JsValue> {
        Reflect::get(on, &name.into())?.dyn_into::<Function>()?.call1(on, argument)
    }

    fn object(fields: &[(&str, JsValue)]) -> Result<JsValue, JsValue> {
        let object = Object::new();
        for (name, value) in fields {
            Reflect::set(&object, &(*name).into(), value)?;
        }
        Ok(object.into())
    }
}
