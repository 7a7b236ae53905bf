//! The store's files in a browser: on its private file system, or in memory where it offers none.

use core::cell::RefCell;
use std::{collections::BTreeMap, collections::BTreeSet};

use shoal_store::{Files, StoreError};

use crate::opfs::Opfs;

#[derive(Debug)]
pub enum BrowserFiles {
    Private(Opfs),
    /// Gone with the tab: its owner must not vote.
    Memory(RefCell<BTreeMap<String, Vec<u8>>>),
}

impl BrowserFiles {
    /// Opens a directory of the private file system; else says why files stay in memory.
    pub async fn open(path: &str) -> (Self, Option<String>) {
        match Opfs::open(path).await {
            Ok(files) => (Self::Private(files), None),
            Err(why) => (Self::Memory(RefCell::default()), Some(why)),
        }
    }

    pub fn is_durable(&self) -> bool {
        matches!(self, Self::Private(_))
    }
}

impl Files for BrowserFiles {
    async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Private(files) => files.read(path, limit).await,
            Self::Memory(files) => Ok(files.borrow().get(path).cloned()),
        }
    }

    async fn write_atomic(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Private(files) => files.write_atomic(path, bytes).await,
            Self::Memory(files) => {
                files.borrow_mut().insert(path.to_owned(), bytes.to_vec());
                Ok(())
            }
        }
    }

    async fn append(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Private(files) => files.append(path, bytes).await,
            Self::Memory(files) => {
                files.borrow_mut().entry(path.to_owned()).or_default().extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    async fn remove(&self, path: &str) -> Result<(), StoreError> {
        match self {
            Self::Private(files) => files.remove(path).await,
            Self::Memory(files) => {
                files.borrow_mut().remove(path);
                Ok(())
            }
        }
    }

    async fn list(&self, directory: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Private(files) => files.list(directory).await,
            Self::Memory(files) => {
                let prefix = format!("{directory}/");
                let files = files.borrow();
                let inside = files.keys().filter_map(|path| path.strip_prefix(&prefix));
                let names: BTreeSet<&str> = inside.filter_map(|rest| rest.split('/').next()).collect();
                Ok(names.into_iter().map(ToOwned::to_owned).collect())
            }
        }
    }

    async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        match self {
            Self::Private(files) => files.size(path).await,
            Self::Memory(files) => Ok(files.borrow().get(path).map(|bytes| bytes.len() as u64)),
        }
    }
}
