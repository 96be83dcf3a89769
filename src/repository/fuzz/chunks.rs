//! Chunks of binlog: their heads, and what stands behind.

use std::io::{Cursor, Read};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{FORMS, Shelf, packed, repository};
use crate::domain::chunk::{Chunk, ChunkFacts};
use crate::domain::compression::Compression;
use crate::repository::chunk::{ChunkBody, ChunkHead};
use crate::repository::codec::HEAD_MAGIC;
use crate::repository::{Repository, layout, sha256_hex};
use crate::storage::StoredObject;
use crate::testing::fuzz::{Dice, Target, golden, json as change_json, mutate};

/// A chunk that claims more is read no further than this.
const READ_BYTES_MAX: u64 = 64 << 20;

struct Stored {
    raw: Vec<u8>,
    head: Value,
    payload: Vec<u8>,
    object: Vec<u8>,
}

pub(super) struct Chunks {
    corpus: Vec<Stored>,
    reader: Repository,
    shelf: Arc<Shelf>,
    /// Where an object lies whose head cannot be read.
    some_key: String,
}

impl Chunks {
    pub(super) fn new() -> Chunks {
        let mut corpus = Vec::new();
        let mut some_key = String::new();
        for ((compression, is_encrypted), raw) in FORMS.into_iter().cycle().zip(golden("binlog", ".binlog")) {
            let (writer, shelf) = repository(compression, is_encrypted);
            let facts = facts(&raw);
            let chunk = writer.put_chunk(&facts, &raw[4..100], ChunkBody::Bytes(&raw)).unwrap();
            let object = shelf.object(&chunk.key);
            let length = u32::from_le_bytes(object[4..8].try_into().unwrap()) as usize;
            let head = serde_json::from_slice(&object[8..8 + length - 65]).unwrap();
            corpus.push(Stored { raw, head, payload: object[8 + length..].to_vec(), object });
            some_key = chunk.key;
        }
        let (reader, shelf) = repository(Compression::Zstd, false);
        Chunks { corpus, reader, shelf, some_key }
    }
}

fn facts(raw: &[u8]) -> ChunkFacts {
    let facts = crate::repository::chunk::tests::facts(raw, 0);
    let range = |server_id| json!({"domain": 0, "server_id": server_id, "first": 1, "last": u64::MAX});
    let gap = json!({
        "after": null,
        "position_before": facts.position_after,
        "state_behind": facts.state_after,
        "reason": "purged before it was shipped",
    });
    let mut value = serde_json::to_value(&facts).unwrap();
    value["ranges"] = (0..3).map(range).collect();
    value["gap_before"] = gap;
    serde_json::from_value(value).unwrap_or(facts)
}

impl Target for Chunks {
    fn name(&self) -> &'static str {
        "chunk"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        let stored = dice.pick(&self.corpus);
        if dice.one_in(5) {
            let mut object = stored.object.clone();
            let other = &dice.pick(&self.corpus).object;
            mutate::change(dice, &mut object, other);
            return object;
        }
        let (mut head, mut payload) = (stored.head.clone(), stored.payload.clone());
        if dice.one_in(2) {
            change_json::change(dice, &mut head);
        }
        if dice.one_in(2) {
            let name = chunk_name(&head).unwrap_or_default();
            payload = packed(dice, &name, &stored.raw);
        }
        if let (false, Some(head)) = (dice.one_in(8), head.as_object_mut()) {
            head.insert("payload".to_owned(), json!({"bytes": payload.len(), "sha256": sha256_hex(&payload)}));
        }
        let mut text = head.to_string().into_bytes();
        if dice.one_in(6) {
            mutate::change(dice, &mut text, b"{\"format\":1,");
        }
        let length = (text.len() + 65) as u32;
        let length = if dice.one_in(12) { dice.number() as u32 } else { length };
        let digest = sha256_hex(&text);
        [&HEAD_MAGIC.to_le_bytes()[..], &length.to_le_bytes(), &text, b"\n", digest.as_bytes(), &payload].concat()
    }

    fn read(&mut self, input: &[u8]) {
        let head = ChunkHead::read(&mut Cursor::new(input), "here");
        let key = head.as_ref().map_or_else(|_| self.some_key.clone(), |head| layout::chunk(&head.facts, head.form()));
        let _ = Repository::place_of_chunk(&key);
        self.shelf.keep_only("");
        self.shelf.replace(&key, input);
        let object = StoredObject { key: key.clone(), bytes: input.len() as u64 };
        let found = self.reader.chunk_from_head(&object);
        if let (Ok(head), Ok(found)) = (&head, &found) {
            assert_eq!(head.facts, found.facts);
        }
        let Ok(Chunk { facts, .. }) = found else { return };
        let _ = self.reader.check_chunk_opens(&key);
        let Ok((_, reader)) = self.reader.read_chunk(&key, &facts.sha256) else { return };
        let mut raw = Vec::new();
        // Whoever reads a chunk passes its bytes on: here only small ones are kept.
        let is_small = facts.end - facts.begin <= 1 << 20;
        let mut reader = reader.take(READ_BYTES_MAX);
        let read = match is_small {
            true => reader.read_to_end(&mut raw).map(|_| ()),
            false => std::io::copy(&mut reader, &mut std::io::sink()).map(|_| ()),
        };
        if read.is_ok() && is_small {
            assert_eq!(raw.len() as u64, facts.end - facts.begin);
            assert_eq!(sha256_hex(&raw), facts.sha256, "other bytes were read for good");
        }
        if facts.end - facts.begin <= READ_BYTES_MAX {
            let chunk = Chunk { stored_bytes: input.len() as u64, key, facts };
            assert!(self.reader.verify_chunk(&chunk).is_err() || read.is_ok());
        }
    }

    /// The largest head, the buffers, and a state of many GTIDs.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (24 << 20) + 64 * input_bytes
    }
}

/// What the chunk of this head is called, if its facts can still be read.
fn chunk_name(head: &Value) -> Option<String> {
    let facts: ChunkFacts = serde_json::from_value(head.get("facts")?.clone()).ok()?;
    Some(layout::chunk_name(&facts))
}
