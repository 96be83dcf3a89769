//! A repository whose store did not answer when coffer started.
//!
//! An appliance looks after database servers, some of which run only if it does; it does not stay away because a store
//! far away does. Every request opens the store first, until that has succeeded once, and then proves that it is the
//! repository the state belongs to: before that nothing is read from it and nothing is written to it.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::{Settings, read_marker};
use crate::error::{Error, ErrorKind};
use crate::storage::{self, Body, ObjectStore, StoredObject};

/// Opens what it stands for when it is asked for something. See the module.
pub(super) struct Awaited {
    url: String,
    settings: Settings,
    id: Uuid,
    opened: Mutex<Option<Arc<dyn ObjectStore>>>,
}

impl Awaited {
    /// Stands for the repository `id` at `url`, which must be well-formed.
    pub(super) fn new(url: &str, settings: &Settings, id: Uuid) -> Awaited {
        Awaited { url: url.to_owned(), settings: settings.clone(), id, opened: Mutex::new(None) }
    }

    fn store(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        // Whoever comes while somebody tries waits for that try, and not for one of his own behind it.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.as_ref() {
            return Ok(Arc::clone(store));
        }
        let store = storage::open_existing(&self.url, &self.settings.access)?;
        match read_marker(store.as_ref())? {
            Some(marker) if marker.id == self.id => Ok(Arc::clone(opened.insert(store))),
            Some(_) => Err(super::other_repository(&store.url())),
            None => Err(Error::new(ErrorKind::Unavailable, format!("`{}` holds no repository any more", store.url()))
                .hint("Check that the address leads to the same place as before; nothing was written there.")),
        }
    }
}

impl ObjectStore for Awaited {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error> {
        self.store()?.put(key, body)
    }

    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        self.store()?.get_range(key, from, bytes)
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        self.store()?.size(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<StoredObject>, Error> {
        self.store()?.list(prefix, after, limit)
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        self.store()?.delete(key)
    }

    fn delete_many(&self, keys: &[String]) -> Result<(), Error> {
        self.store()?.delete_many(keys)
    }

    fn url(&self) -> String {
        self.url.split('?').next().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Repository;
    use crate::testing::TempDir;

    #[test]
    fn a_repository_that_comes_back_is_used_and_another_one_is_not() {
        let scratch = TempDir::new();
        let (dir, away) = (scratch.join("here"), scratch.join("away"));
        let (url, settings) = (format!("file://{}", dir.display()), Settings::default());
        let id = Repository::open(&url, &settings).unwrap().id();
        std::fs::rename(&dir, &away).unwrap();
        let awaited = Repository::open_known(&url, &settings, id).unwrap();
        assert_eq!((awaited.id(), awaited.url()), (id, url.clone()));
        assert_eq!(awaited.instances().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(!dir.exists());

        let other = Repository::open(&url, &settings).unwrap().id();
        assert_eq!(awaited.instances().unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(Repository::open_known(&url, &settings, id).unwrap_err().kind(), ErrorKind::Refused);
        assert_ne!(other, id);

        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::rename(&away, &dir).unwrap();
        assert!(awaited.instances().unwrap().is_empty());
        awaited.check_answers().unwrap();
    }
}
