//! A store that fails on demand.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Body, ObjectStore, StoredObject};
use crate::error::{Error, ErrorKind};

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The n-th operation (from 0) and all after it are `Unavailable`.
    FailFrom(u64),
    /// Every reader fails with `Unavailable` after so many bytes.
    ResetAfter(u64),
    /// Every reader ends cleanly after so many bytes.
    EndAfter(u64),
}

pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    operations: AtomicU64,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, fault: Fault) -> Arc<FaultyStore> {
        Arc::new(FaultyStore { inner, fault, operations: AtomicU64::new(0) })
    }

    /// How often the store was asked for something.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    fn pass(&self) -> Result<(), Error> {
        let nth = self.operations.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::FailFrom(from) if nth >= from => Err(unavailable()),
            _ => Ok(()),
        }
    }
}

impl ObjectStore for FaultyStore {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error> {
        self.pass()?;
        self.inner.put(key, body)
    }

    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        self.pass()?;
        let inner = self.inner.get_range(key, from, bytes)?;
        Ok(match self.fault {
            Fault::FailFrom(_) => inner,
            Fault::EndAfter(bytes) => Box::new(inner.take(bytes)),
            Fault::ResetAfter(bytes) => Box::new(inner.take(bytes).chain(Broken)),
        })
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        self.pass()?;
        self.inner.size(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<StoredObject>, Error> {
        self.pass()?;
        self.inner.list(prefix, after, limit)
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        self.pass()?;
        self.inner.delete(key)
    }

    fn url(&self) -> String {
        self.inner.url()
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(unavailable()))
    }
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the store does not answer")
}
