//! Chunks found again without a catalog, from their heads alone.

use std::io::{Cursor, Read};

use super::chunk::ChunkHead;
use super::{Repository, layout};
use crate::domain::chunk::Chunk;
use crate::domain::id::{InstanceId, TimelineId};
use crate::error::{Error, error_of};
use crate::storage::StoredObject;

/// Read at once of each object. Heads are far smaller unless very many servers have written.
const HEAD_BYTES: u64 = 16 * 1024;
/// No head is longer; see `chunk`.
const HEAD_BYTES_MAX: u64 = 5 * 1024 * 1024;
/// A folder is read and sorted anew for each page.
const LIST_PAGE: usize = 10_000;

impl Repository {
    /// Objects in the place of a timeline's chunks, in the order of its history, those behind the key `after`. None at
    /// the end.
    pub(crate) fn chunk_objects(
        &self,
        instance: InstanceId,
        timeline: TimelineId,
        after: Option<&str>,
    ) -> Result<Vec<StoredObject>, Error> {
        self.store.list(&layout::binlog_prefix(instance, timeline), after, LIST_PAGE)
    }

    /// Where a chunk lies by its key: ordinal and first byte. `None` for what is no chunk's.
    pub(crate) fn place_of_chunk(key: &str) -> Option<(u32, u64)> {
        layout::place_of_chunk(key)
    }

    /// What the chunk's head says of it.
    pub(crate) fn chunk_from_head(&self, object: &StoredObject) -> Result<Chunk, Error> {
        let (key, location) = (object.key.as_str(), self.location(&object.key));
        let mut bytes = self.read_range(key, 0, HEAD_BYTES)?;
        // Magic and length; what is wrong with them is told by `ChunkHead::read`.
        let length = bytes.get(4..8).and_then(|length| length.try_into().ok()).map_or(0, u32::from_le_bytes);
        let whole = 8 + u64::from(length);
        if whole > bytes.len() as u64 && whole <= HEAD_BYTES_MAX {
            let from = bytes.len() as u64;
            bytes.extend(self.read_range(key, from, whole - from)?);
        }
        let head = ChunkHead::read(&mut Cursor::new(bytes), &location)?;
        if layout::chunk(&head.facts, head.form()) != key || head.facts.end <= head.facts.begin {
            return Err(self.corrupt(key, "its head belongs to another name"));
        }
        Ok(Chunk { facts: head.facts, key: object.key.clone(), stored_bytes: object.bytes })
    }

    fn read_range(&self, key: &str, from: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        let mut found = Vec::new();
        let reader = self.store.get_range(key, from, Some(bytes))?;
        reader
            .take(bytes)
            .read_to_end(&mut found)
            .map_err(|err| error_of(err, &format!("unable to read `{}`", self.location(key))))?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::chunk::GtidRange;
    use crate::domain::gtid::GtidStream;
    use crate::error::ErrorKind;
    use crate::repository::bench::{Bench, sample};
    use crate::repository::chunk::ChunkBody;
    use crate::repository::chunk::tests::facts;
    use crate::storage::faulty::Fault;

    fn put(bench: &Bench, raw: &[u8], begin: u64, ranges: u32) -> Chunk {
        let range =
            |server_id| GtidRange { stream: GtidStream::Mariadb { domain: 0, server_id }, first: 1, last: u64::MAX };
        let facts = crate::domain::chunk::ChunkFacts { ranges: (0..ranges).map(range).collect(), ..facts(raw, begin) };
        bench.repository.put_chunk(&facts, b"\x01description", ChunkBody::Bytes(raw)).unwrap()
    }

    #[test]
    fn chunks_are_found_in_order_and_a_bad_one_does_not_hide_the_rest() {
        let bench = Bench::new();
        let chunks: Vec<Chunk> = (0..5_u64).map(|n| put(&bench, &sample(2_000, n), n * 2_000, 0)).collect();
        let (instance, timeline) = (chunks[0].facts.instance, chunks[0].facts.timeline);
        assert_eq!(bench.repository.binlog_timelines(instance).unwrap(), [timeline]);
        let objects = bench.repository.chunk_objects(instance, timeline, None).unwrap();
        let head = |object| bench.repository.chunk_from_head(object);
        assert_eq!(objects.iter().map(|object| head(object).unwrap()).collect::<Vec<_>>(), chunks);
        let place = |chunk: &Chunk| Repository::place_of_chunk(&chunk.key).unwrap();
        assert!(chunks.iter().all(|chunk| place(chunk) == (chunk.facts.ordinal, chunk.facts.begin)));
        assert_eq!(Repository::place_of_chunk("instances/x/binlog/y/00000001-9"), None);
        let rest = bench.repository.chunk_objects(instance, timeline, Some(&objects[3].key)).unwrap();
        assert_eq!(rest, objects[4..]);
        bench.flip_bit(&chunks[2].key, 900);
        let found: Vec<_> = objects.iter().map(head).collect();
        assert_eq!(found[2].as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(found.iter().flatten().count(), 4);
        bench.overwrite(&chunks[3].key, &bench.bytes(&chunks[4].key));
        assert!(head(&objects[3]).unwrap_err().message().contains(&objects[3].key));
        bench.overwrite(&chunks[4].key, b"short");
        assert_eq!(head(&objects[4]).unwrap_err().kind(), ErrorKind::Corrupt);
        let (repository, _) = bench.with_fault(Fault::FailFrom(0));
        assert_eq!(repository.chunk_from_head(&objects[0]).unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_head_longer_than_what_is_read_first_is_read_to_its_end() {
        let bench = Bench::new();
        for ranges in [100, 250, 5_000, 20_000] {
            let chunk = put(&bench, &sample(100, 7), u64::from(ranges) * 1000, ranges);
            let object = StoredObject { key: chunk.key.clone(), bytes: chunk.stored_bytes };
            assert_eq!(bench.repository.chunk_from_head(&object).unwrap(), chunk, "{ranges} ranges");
            let whole = bench.bytes(&chunk.key);
            bench.overwrite(&chunk.key, &whole[..whole.len() / 3]);
            assert_eq!(bench.repository.chunk_from_head(&object).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
