//! A repository in a scratch folder, whose objects a test can damage behind its back.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use age::secrecy::ExposeSecret;

use super::codec::IdentitySource;
use super::{Repository, Settings};
use crate::domain::compression::Compression;
use crate::storage::ObjectStore;
use crate::storage::faulty::{Fault, FaultyStore};
use crate::storage::local::LocalStore;
use crate::testing::TempDir;

pub(crate) struct Bench {
    pub(crate) scratch: TempDir,
    pub(crate) repository: Repository,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(&Settings::default())
    }

    pub(crate) fn with(settings: &Settings) -> Bench {
        let scratch = TempDir::new();
        let url = format!("file://{}", scratch.join("repository").display());
        let repository = Repository::open(&url, settings).unwrap().with_scratch_dir(&scratch);
        Bench { scratch, repository }
    }

    /// The same repository, written and read with other settings.
    pub(crate) fn reopened(&self, settings: &Settings) -> Repository {
        Repository::open_existing(&self.repository.url(), settings).unwrap().with_scratch_dir(&self.scratch)
    }

    /// The same repository seen through a store with a fault.
    pub(crate) fn with_fault(&self, fault: Fault) -> (Repository, Arc<FaultyStore>) {
        let inner: Arc<dyn ObjectStore> = Arc::new(LocalStore::open(&self.scratch.join("repository")).unwrap());
        let store = FaultyStore::new(inner, fault);
        (Repository { store: Arc::clone(&store) as Arc<dyn ObjectStore>, ..self.repository.clone() }, store)
    }

    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
        fs::read(self.scratch.join("repository").join(key)).unwrap()
    }

    pub(crate) fn overwrite(&self, key: &str, bytes: &[u8]) {
        // Not made durable: tests do this thousands of times.
        let path = self.scratch.join("repository").join(key);
        let _ = fs::remove_file(&path);
        fs::File::create_new(&path).unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn flip_bit(&self, key: &str, bit: usize) {
        let mut bytes = self.bytes(key);
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.overwrite(key, &bytes);
    }

    pub(crate) fn remove(&self, key: &str) {
        fs::remove_file(self.scratch.join("repository").join(key)).unwrap();
    }
}

/// A recipient, and the file that holds its identity, as age-keygen makes them.
pub(crate) struct Key {
    pub(crate) public: String,
    pub(crate) text: String,
}

impl Key {
    pub(crate) fn new() -> Key {
        let identity = age::x25519::Identity::generate();
        let text = format!("# made for a test\n\n{}\n", identity.to_string().expose_secret());
        Key { public: identity.to_public().to_string(), text }
    }

    /// Where a host that holds this key finds it.
    pub(crate) fn source(&self) -> IdentitySource {
        let text = self.text.clone().into_bytes();
        IdentitySource::Asked(Arc::new(move || Ok(text.clone())))
    }

    /// Encrypts to this key, and opens nothing.
    pub(crate) fn settings(&self) -> Settings {
        Settings { encrypt_to: vec![self.public.clone()], ..Settings::default() }
    }

    /// Encrypts to this key, and opens what is.
    pub(crate) fn settings_with_identity(&self) -> Settings {
        Settings { identity: self.source(), ..self.settings() }
    }
}

/// Each compression, in clear and encrypted.
pub(crate) fn every_form() -> Vec<Settings> {
    let key = Key::new();
    let all = Compression::ALL.into_iter();
    all.flat_map(|compression| {
        [Settings::default(), key.settings_with_identity()].map(|settings| Settings { compression, ..settings })
    })
    .collect()
}

/// Bytes that look like data: neither all alike nor all different.
pub(crate) fn sample(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&(state & 0x0F0F_FFFF_00FF_FFFF).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
