//! The browser's private file system, written through sync access handles, the only kind that can flush.

use std::io;

use js_sys::{ArrayBuffer, AsyncIterator, Function, Promise, Reflect, Uint8Array};
use shoal_store::StoreError;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    File, FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions, FileSystemGetFileOptions,
    FileSystemReadWriteOptions, FileSystemSyncAccessHandle,
};

use crate::scope;

/// Suffix of files that are being written.
const UNFINISHED: &str = ".tmp";
/// Another tab may hold a shared file (the device's key) for a moment.
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT_MS: f64 = 25.0;

#[derive(Clone, Debug)]
pub struct Opfs {
    root: FileSystemDirectoryHandle,
}

impl Opfs {
    /// Opens (and makes) a directory of this site's private file system; says why when there is none.
    pub async fn open(path: &str) -> Result<Self, String> {
        let storage = scope::worker().navigator().storage();
        if storage.is_undefined() {
            return Err("the browser offers no private file system here".to_owned());
        }
        let directory = JsFuture::from(storage.get_directory()).await.map_err(|error| scope::words(&error))?;
        let top = Self { root: directory.unchecked_into() };
        let root = top.directory(path, true).await.map_err(|error| scope::words(&error))?;
        let opened = Self { root: root.ok_or("its directory vanished")? };
        // Some browsers have the directories but not the handles; find out before anything relies on them.
        opened.write("probe", b"probe").await.map_err(|error| scope::words(&error))?;
        opened.remove("probe").await.map_err(|error| error.to_string())?;
        Ok(opened)
    }

    pub async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let fail = |error| io_error("read", path, &error);
        let Some(file) = self.file(path, false).await.map_err(fail)? else { return Ok(None) };
        let file: File = JsFuture::from(file.get_file()).await.map_err(fail)?.unchecked_into();
        if file.size() > limit as f64 {
            return Err(StoreError::TooLarge { what: "file", size: file.size() as u64, limit });
        }
        let buffer: ArrayBuffer = JsFuture::from(file.array_buffer()).await.map_err(fail)?.unchecked_into();
        Ok(Some(Uint8Array::new(&buffer).to_vec()))
    }

    /// Writes beside the file, flushes, then moves into place.
    pub async fn write_atomic(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let fail = |error| io_error("write", path, &error);
        let beside = format!("{path}{UNFINISHED}");
        let file = self.write(&beside, bytes).await.map_err(fail)?;
        let name = path.rsplit('/').next().unwrap_or(path);
        if let Some(moved) = move_to(&file, name) {
            return JsFuture::from(moved).await.map(drop).map_err(fail);
        }
        // Without a move the flush orders the two writes, and what is torn is found by its checksum.
        self.write(path, bytes).await.map_err(fail)?;
        self.remove(&beside).await
    }

    pub async fn append(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let fail = |error| io_error("append to", path, &error);
        let file = self.create(path).await.map_err(fail)?;
        let handle = exclusive(&file).await.map_err(fail)?;
        let written = handle.get_size().and_then(|size| write_at(&handle, bytes, size));
        handle.close();
        written.map_err(fail)
    }

    pub async fn remove(&self, path: &str) -> Result<(), StoreError> {
        let fail = |error| io_error("remove", path, &error);
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(directory) = self.directory(directory, false).await.map_err(fail)? else { return Ok(()) };
        found(JsFuture::from(directory.remove_entry(name)).await).map(drop).map_err(fail)
    }

    pub async fn list(&self, directory: &str) -> Result<Vec<String>, StoreError> {
        let fail = |error| io_error("list", directory, &error);
        let Some(handle) = self.directory(directory, false).await.map_err(fail)? else { return Ok(Vec::new()) };
        let keys: AsyncIterator = handle.keys();
        let mut names = Vec::new();
        loop {
            let next: Promise = keys.next().map_err(fail)?.unchecked_into();
            let entry = JsFuture::from(next).await.map_err(fail)?;
            let Some(name) = Reflect::get(&entry, &"value".into()).ok().and_then(|name| name.as_string()) else {
                break;
            };
            if !name.ends_with(UNFINISHED) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    pub async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let fail = |error| io_error("look at", path, &error);
        let Some(file) = self.file(path, false).await.map_err(fail)? else { return Ok(None) };
        let file: File = JsFuture::from(file.get_file()).await.map_err(fail)?.unchecked_into();
        Ok(Some(file.size() as u64))
    }

    async fn write(&self, path: &str, bytes: &[u8]) -> Result<FileSystemFileHandle, JsValue> {
        let file = self.create(path).await?;
        let handle = exclusive(&file).await?;
        let written = handle.truncate_with_u32(0).and_then(|()| write_at(&handle, bytes, 0.0));
        handle.close();
        written.map(|()| file)
    }

    async fn create(&self, path: &str) -> Result<FileSystemFileHandle, JsValue> {
        self.file(path, true).await?.ok_or_else(|| JsValue::from_str("the file vanished"))
    }

    async fn file(&self, path: &str, create: bool) -> Result<Option<FileSystemFileHandle>, JsValue> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(directory) = self.directory(directory, create).await? else { return Ok(None) };
        let options = FileSystemGetFileOptions::new();
        options.set_create(create);
        let file = JsFuture::from(directory.get_file_handle_with_options(name, &options)).await;
        Ok(found(file)?.map(JsCast::unchecked_into))
    }

    async fn directory(&self, path: &str, create: bool) -> Result<Option<FileSystemDirectoryHandle>, JsValue> {
        let mut directory = self.root.clone();
        let options = FileSystemGetDirectoryOptions::new();
        options.set_create(create);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let next = JsFuture::from(directory.get_directory_handle_with_options(name, &options)).await;
            match found(next)? {
                Some(next) => directory = next.unchecked_into(),
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }
}

async fn exclusive(file: &FileSystemFileHandle) -> Result<FileSystemSyncAccessHandle, JsValue> {
    let mut tries = 0;
    loop {
        match JsFuture::from(file.create_sync_access_handle()).await {
            Ok(handle) => return Ok(handle.unchecked_into()),
            Err(error) if named(&error, "NoModificationAllowedError") && tries < BUSY_TRIES => {
                tries += 1;
                scope::sleep(BUSY_WAIT_MS).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn write_at(handle: &FileSystemSyncAccessHandle, bytes: &[u8], at: f64) -> Result<(), JsValue> {
    let options = FileSystemReadWriteOptions::new();
    options.set_at(at);
    let written = handle.write_with_u8_array_and_options(bytes, &options)?;
    if written as usize != bytes.len() {
        return Err(JsValue::from_str("the browser's quota is full"));
    }
    handle.flush()
}

/// `file.move(name)`, where the browser has it.
fn move_to(file: &FileSystemFileHandle, name: &str) -> Option<Promise> {
    let move_file: Function = Reflect::get(file, &"move".into()).ok()?.dyn_into().ok()?;
    move_file.call1(file, &name.into()).ok()?.dyn_into().ok()
}

/// Turns "there is no such entry" into `None`.
fn found(result: Result<JsValue, JsValue>) -> Result<Option<JsValue>, JsValue> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if named(&error, "NotFoundError") => Ok(None),
        Err(error) => Err(error),
    }
}

fn named(error: &JsValue, name: &str) -> bool {
    Reflect::get(error, &"name".into()).ok().and_then(|found| found.as_string()).is_some_and(|found| found == name)
}

fn io_error(action: &'static str, path: &str, error: &JsValue) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source: io::Error::other(scope::words(error)) }
}
