//! What lies in a repository: manifests, chunks, parts and the small objects, see `crate::fuzz`.

#![allow(clippy::cast_possible_truncation, reason = "numbers are cut to whatever there is room for")]

mod chunks;
mod objects;
mod parts;

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::codec::IdentitySource;
use super::{Repository, Settings, codec};
use crate::domain::compression::Compression;
use crate::error::Error;
use crate::storage::{Body, ObjectStore, StoredObject};
use crate::testing::fuzz::{Dice, Target, mutate};

/// Always the same, so that an input that was kept is opened again.
const PUBLIC: &str = "age160jycpvazrf3tent90rscpwwqfnr0thumsgv924ake8s5khpxehsdh2rqn";
const IDENTITY: &str = "AGE-SECRET-KEY-1LEDP4Q8R7WK2TQV4US8HKTNEW2C5F883MM94CKCQ0Y0R9QKWHFVSH6E36U";

pub(crate) fn targets() -> Vec<Box<dyn Target>> {
    vec![Box::new(objects::SmallObjects::new()), Box::new(chunks::Chunks::new()), Box::new(parts::Parts::new())]
}

/// A store in memory that takes whatever is put into it.
#[derive(Default)]
struct Shelf(Mutex<BTreeMap<String, Arc<[u8]>>>);

impl Shelf {
    fn replace(&self, key: &str, bytes: &[u8]) {
        self.0.lock().unwrap().insert(key.to_owned(), bytes.into());
    }

    fn object(&self, key: &str) -> Vec<u8> {
        self.0.lock().unwrap()[key].to_vec()
    }

    fn keep_only(&self, key: &str) {
        self.0.lock().unwrap().retain(|known, _| known == key);
    }
}

impl ObjectStore for Shelf {
    fn put(&self, key: &str, body: Body<'_>) -> Result<(), Error> {
        match body {
            Body::Bytes(bytes) | Body::Hashed { bytes, .. } => self.replace(key, bytes),
            Body::File(path) => self.replace(key, &std::fs::read(path).unwrap()),
        }
        Ok(())
    }

    fn get_range(&self, key: &str, from: u64, bytes: Option<u64>) -> Result<Box<dyn Read + Send>, Error> {
        let objects = self.0.lock().unwrap();
        let object = objects.get(key).ok_or_else(|| Error::new(crate::error::ErrorKind::NotFound, key))?;
        let mut reader = Cursor::new(Arc::clone(object));
        reader.set_position(from);
        Ok(Box::new(reader.take(bytes.unwrap_or(u64::MAX))))
    }

    fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        Ok(self.0.lock().unwrap().get(key).map(|object| object.len() as u64))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<StoredObject>, Error> {
        let objects = self.0.lock().unwrap();
        let wanted =
            objects.iter().filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|it| key.as_str() > it));
        Ok(wanted
            .take(limit)
            .map(|(key, object)| StoredObject { key: key.clone(), bytes: object.len() as u64 })
            .collect())
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }

    fn url(&self) -> String {
        "memory://shelf".to_owned()
    }
}

fn settings(compression: Compression, is_encrypted: bool) -> Settings {
    Settings {
        compression,
        encrypt_to: if is_encrypted { vec![PUBLIC.to_owned()] } else { Vec::new() },
        identity: IdentitySource::Asked(Arc::new(|| Ok(IDENTITY.as_bytes().to_vec()))),
        ..Settings::default()
    }
}

/// A repository on a shelf that writes in this form, and reads each.
fn repository(compression: Compression, is_encrypted: bool) -> (Repository, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let store = Arc::clone(&shelf) as Arc<dyn ObjectStore>;
    (Repository::on_store(store, &settings(compression, is_encrypted)).unwrap(), shelf)
}

const FORMS: [(Compression, bool); 4] =
    [(Compression::Zstd, false), (Compression::Zstd, true), (Compression::Gzip, false), (Compression::Gzip, true)];

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// Stored bytes of the object of `name`: packed by the book, by an enemy, or changed behind the packing.
fn packed(dice: &mut Dice, name: &str, raw: &[u8]) -> Vec<u8> {
    let (compression, is_encrypted) = *dice.pick(&FORMS);
    let mut stored = match (dice.below(3), compression) {
        (0, Compression::Zstd) => odd_zstd(dice, name, raw),
        (0, Compression::Gzip) => odd_gzip(dice, name, raw),
        _ => {
            let codec = codec::Codec::new(&settings(compression, false)).unwrap();
            let mut stored = Vec::new();
            codec.packer().unwrap().pack(name, raw, &mut stored).unwrap();
            stored
        }
    };
    if dice.one_in(3) {
        mutate::change(dice, &mut stored, raw);
    }
    if is_encrypted {
        let recipient: age::x25519::Recipient = PUBLIC.parse().unwrap();
        let encryptor = age::Encryptor::with_recipients([&recipient as &dyn age::Recipient].into_iter()).unwrap();
        let mut out = Vec::new();
        let mut writer = encryptor.wrap_output(&mut out).unwrap();
        writer.write_all(&stored).unwrap();
        writer.finish().unwrap();
        stored = out;
        if dice.one_in(2) {
            odd_header(dice, &mut stored);
        }
    }
    stored
}

/// Frames that no writer of ours makes.
fn odd_zstd(dice: &mut Dice, name: &str, raw: &[u8]) -> Vec<u8> {
    let name_bytes = if dice.one_in(3) { dice.number() as u32 } else { name.len() as u32 };
    let mut out = [&0x184D_2A51_u32.to_le_bytes()[..], &name_bytes.to_le_bytes(), name.as_bytes()].concat();
    let frame = |dice: &mut Dice, raw: &[u8]| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(*dice.pick(&[10, 20, 25, 26, 30])).unwrap();
        encoder.include_contentsize(dice.one_in(2)).unwrap();
        let _ = encoder.write_all(raw);
        if dice.one_in(12) {
            let zeros = vec![dice.byte(); 1 << 16];
            let times = 1 << dice.below_or(6, 20, 12);
            (0..times).for_each(|_| encoder.write_all(&zeros).unwrap());
        }
        let mut frame = encoder.finish().unwrap();
        if dice.one_in(3)
            && let Some(size) = frame.get_mut(4..13)
        {
            // A frame header that claims eight bytes of content size.
            size[0] = 0xC0 | (size[0] & 0x3F);
            size[1..].copy_from_slice(&dice.number().to_le_bytes());
        }
        frame
    };
    let frames = if dice.one_in(8) { dice.below_or(4, 20, 2_000) } else { 1 };
    let one = frame(dice, raw);
    out.extend(one.repeat(frames.min((1 << 20) / one.len().max(1))));
    out
}

/// Members that no writer of ours makes.
fn odd_gzip(dice: &mut Dice, name: &str, raw: &[u8]) -> Vec<u8> {
    let mut builder = flate2::GzBuilder::new().filename(name);
    if dice.one_in(3) {
        let length = 1 << dice.below(20);
        builder = builder.comment(vec![b'c'; length]);
    }
    if dice.one_in(3) {
        let length = dice.range(1 << 17).len();
        builder = builder.extra(dice.bytes(length.min(65_535)));
    }
    let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(raw).unwrap();
    if dice.one_in(12) {
        let zeros = vec![0; 1 << 16];
        let times = 1 << dice.below(10);
        (0..times).for_each(|_| encoder.write_all(&zeros).unwrap());
    }
    let member = encoder.finish().unwrap();
    let times = 1 + dice.below(2);
    member.repeat(times)
}

/// Puts lines into the header of an encrypted object: stanzas, or what looks like some.
fn odd_header(dice: &mut Dice, stored: &mut Vec<u8>) {
    let lines: [&[u8]; 6] = [
        b"-> X25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
        b"-> grease \n\n",
        b"-> a b c d e f g\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
        b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
        b"-> scrypt bBjlhJVYZeE4aqUdmtRHfw 15\nZV/AhotwSGqaPCU43cepl4WYUouAa17a3xpu4G2yi5k\n",
        b"---",
    ];
    let made = dice.pick(&lines);
    let most = 1 << (6 + dice.below(16));
    let times = 1 + dice.below(most / made.len());
    let behind = b"age-encryption.org/v1\n".len();
    if stored.len() > behind {
        stored.splice(behind..behind, made.repeat(times));
    }
}
