//! The adapter, the device, and what goes wrong with them.

use std::sync::{Arc, Mutex, PoisonError};

use shoal_learn::EngineError;

use crate::{forms::Traits, signal::Signal};

/// What the device reported since it was last asked.
#[derive(Debug, Default)]
struct Faults {
    lost: Option<String>,
    out_of_memory: Option<String>,
    failed: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FaultLog(Arc<Mutex<Faults>>);

impl FaultLog {
    fn with<T>(&self, act: impl FnOnce(&mut Faults) -> T) -> T {
        // A panic while holding the lock cannot leave half a fault, so the content is good.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An error if anything went wrong. A lost device stays lost.
    pub fn check(&self) -> Result<(), EngineError> {
        self.with(|faults| {
            if let Some(reason) = &faults.lost {
                return Err(EngineError::DeviceLost(reason.clone()));
            }
            if let Some(reason) = faults.out_of_memory.take() {
                return Err(EngineError::OutOfMemory(reason));
            }
            faults.failed.take().map_or(Ok(()), |reason| Err(EngineError::Failed(reason)))
        })
    }
}

#[derive(Debug)]
pub(crate) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub name: String,
    pub faults: FaultLog,
    pub traits: Traits,
    /// Work can be timed on the device.
    pub timestamps: bool,
}

impl Drop for Gpu {
    /// A browser would keep the device's memory until its collector comes by, and the next engine may need it.
    fn drop(&mut self) {
        self.device.destroy();
    }
}

impl Gpu {
    /// Takes the fastest adapter there is, with all its limits; natively the one that [`ADAPTER_NAME`] asks for.
    pub async fn open() -> Result<Self, EngineError> {
        let adapter = adapter().await?;
        let wanted = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("shoal"),
                required_features: adapter.features() & wanted,
                required_limits: adapter.limits(),
                ..Default::default()
            })
            .await
            .map_err(|error| EngineError::NoDevice(error.to_string()))?;
        let faults = FaultLog::default();
        let log = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            log.with(|faults| match &error {
                wgpu::Error::OutOfMemory { .. } => faults.out_of_memory = Some(error.to_string()),
                _ => faults.failed = Some(error.to_string()),
            });
        }));
        let log = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            log.with(|faults| faults.lost = Some(format!("{reason:?}: {message}")));
        });
        let name = name(&adapter, &device);
        let info = adapter.get_info();
        let software = info.device_type == wgpu::DeviceType::Cpu || SOFTWARE.iter().any(|word| name.contains(word));
        let traits = Traits {
            quads: has_subgroups(&device) && info.subgroup_min_size >= 4,
            software,
            workgroup_bytes: device.limits().max_compute_workgroup_storage_size,
        };
        let timestamps = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        Ok(Self { device, queue, name, faults, traits, timestamps })
    }

    /// Waits until all that was submitted is done.
    pub async fn finished(&self) -> Result<(), EngineError> {
        let signal = Signal::default();
        let done = signal.clone();
        self.queue.on_submitted_work_done(move || done.send(()));
        pump(&self.device, &self.faults)?;
        signal.await;
        self.faults.check()
    }

    /// Values of 4 bytes that one binding may hold, and at most this many bytes.
    pub fn binding_values_max(&self, bytes_max: u64) -> usize {
        let limits = self.device.limits();
        let bytes_max = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(bytes_max);
        (bytes_max / 4).min(u64::from(u32::MAX)) as usize
    }

    pub fn storage(&self, label: &str, values: usize) -> wgpu::Buffer {
        self.buffer(label, values as u64 * 4, wgpu::BufferUsages::STORAGE)
    }

    /// A buffer that can be written and read back.
    pub fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            // Kernels may see it as vectors of four values.
            size: bytes.next_multiple_of(16).max(16),
            usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    }
}

/// Natively nobody else runs callbacks; in browsers the event loop does.
pub(crate) fn pump(device: &wgpu::Device, faults: &FaultLog) -> Result<(), EngineError> {
    if cfg!(not(target_arch = "wasm32"))
        && let Err(error) = device.poll(wgpu::PollType::wait_indefinitely())
    {
        faults.check()?;
        return Err(EngineError::Failed(error.to_string()));
    }
    Ok(())
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends =
        if cfg!(target_arch = "wasm32") { wgpu::Backends::BROWSER_WEBGPU } else { wgpu::Backends::PRIMARY };
    wgpu::Instance::new(descriptor)
}

async fn adapter() -> Result<wgpu::Adapter, EngineError> {
    let instance = instance();
    #[cfg(not(target_arch = "wasm32"))]
    if let Ok(name) = std::env::var(ADAPTER_NAME) {
        let wanted = name.to_lowercase();
        let all = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
        let found = all.into_iter().find(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted));
        return found.ok_or_else(|| EngineError::NoDevice(format!("no adapter is called {name:?} ({ADAPTER_NAME})")));
    }
    let options =
        wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    instance.request_adapter(&options).await.map_err(|error| EngineError::NoDevice(error.to_string()))
}

/// The environment variable whose value, or a part of it, is the wanted adapter's name: wgpu's own convention.
#[cfg(not(target_arch = "wasm32"))]
const ADAPTER_NAME: &str = "WGPU_ADAPTER_NAME";

/// The names of all adapters of this machine, and whether each is a processor that plays a graphics card.
#[cfg(not(target_arch = "wasm32"))]
pub async fn adapters() -> Vec<(String, bool)> {
    let all = instance().enumerate_adapters(wgpu::Backends::PRIMARY).await;
    let mut names: Vec<(String, bool)> = Vec::new();
    for info in all.iter().map(wgpu::Adapter::get_info) {
        // One card may be reached through several drivers; the first is the one that `open` would take.
        if names.iter().all(|(name, _)| *name != info.name) {
            names.push((info.name, info.device_type == wgpu::DeviceType::Cpu));
        }
    }
    names
}

/// Names of adapters that compute on the processor, where a page is not told their kind.
const SOFTWARE: [&str; 3] = ["swiftshader", "llvmpipe", "lavapipe"];

/// What the device is called: natively by its driver, in a browser by its maker and kind (`nvidia ampere`), since
/// pages rarely get to know more.
fn name(adapter: &wgpu::Adapter, device: &wgpu::Device) -> String {
    let info = adapter.get_info();
    let names = [info.name, browser_name(device), info.driver];
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "unnamed adapter".to_owned())
}

#[cfg(target_arch = "wasm32")]
fn browser_name(device: &wgpu::Device) -> String {
    let field = |of: &js_sys::wasm_bindgen::JsValue, key: &str| js_sys::Reflect::get(of, &key.into()).ok();
    let Some(info) = device.as_webgpu().and_then(|device| field(device.as_ref(), "adapterInfo")) else {
        return String::new();
    };
    let words = ["vendor", "architecture"].iter().filter_map(|key| field(&info, key)?.as_string());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// wgpu does not know the feature on the web; the page's glue asks for it, and only the device can tell.
#[cfg(target_arch = "wasm32")]
fn has_subgroups(device: &wgpu::Device) -> bool {
    let has = || {
        let features = js_sys::Reflect::get(device.as_webgpu()?.as_ref(), &"features".into()).ok()?;
        let has: js_sys::Function = js_sys::Reflect::get(&features, &"has".into()).ok()?.into();
        has.call1(&features, &"subgroups".into()).ok()?.as_bool()
    };
    has().unwrap_or(false)
}

#[cfg(not(target_arch = "wasm32"))]
fn has_subgroups(device: &wgpu::Device) -> bool {
    device.features().contains(wgpu::Features::SUBGROUP)
}

#[cfg(not(target_arch = "wasm32"))]
fn browser_name(_: &wgpu::Device) -> String {
    String::new()
}
