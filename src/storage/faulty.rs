//! A store that fails on demand, and counts what passes.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Body, ObjectStore, StoredObject};
use crate::error::{Error, ErrorKind};

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The n-th operation (from 0) and so many in all are `Unavailable`; then the store is back.
    Outage { from: u64, operations: u64 },
    /// Nothing: it only counts.
    None,
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
    passed: Arc<Passed>,
}

/// What has passed so far.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) puts: AtomicU64,
    pub(crate) gets: AtomicU64,
    pub(crate) bytes_put: AtomicU64,
    pub(crate) bytes_got: AtomicU64,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, fault: Fault) -> Arc<FaultyStore> {
        Arc::new(FaultyStore { inner, fault, operations: AtomicU64::new(0), passed: Arc::default() })
    }

    pub(crate) fn passed(&self) -> &Passed {
        &self.passed
    }

    /// How often the store was asked for something.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    fn pass(&self) -> Result<(), Error> {
        let nth = self.operations.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::FailFrom(from) if nth >= from => Err(unavailable()),
            Fault::Outage { from, operations } if (from..from + operations).contains(&nth) => Err(unavailable()),
            _ => Ok(()),
        }
    }
}

impl ObjectStore for FaultyStore {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error> {
        self.pass()?;
        self.inner.put(key, body)?;
        let bytes = match body {
            Body::Bytes(bytes) | Body::Hashed { bytes, .. } => bytes.len() as u64,
            Body::File(path) => std::fs::metadata(path).unwrap().len(),
        };
        self.passed.puts.fetch_add(1, Ordering::SeqCst);
        self.passed.bytes_put.fetch_add(bytes, Ordering::SeqCst);
        Ok(())
    }

    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        self.pass()?;
        let inner = self.inner.get_range(key, from, bytes)?;
        self.passed.gets.fetch_add(1, Ordering::SeqCst);
        let inner = Counted { inner, passed: Arc::clone(&self.passed) };
        Ok(match self.fault {
            Fault::FailFrom(_) | Fault::None | Fault::Outage { .. } => Box::new(inner),
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

struct Counted {
    inner: Box<dyn Read + Send>,
    passed: Arc<Passed>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.passed.bytes_got.fetch_add(read as u64, Ordering::SeqCst);
        Ok(read)
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
