//! The chunks of a timeline, from their heads.

use std::collections::BTreeMap;

use crate::agent::rebuild::overlap::{Chain, Hole};
use crate::agent::rebuild::parallel::{batches, in_parallel};
use crate::agent::rebuild::{Host, Problems, is_damage};
use crate::clock::Stopwatch;
use crate::domain::chunk::Chunk;
use crate::domain::id::{InstanceId, TimelineId};
use crate::error::{Error, ErrorKind};
use crate::repository::Repository;
use crate::storage::StoredObject;

/// A head takes no more than this, see `repository::heads`.
const HEAD_BYTES_MAX: u64 = 5 * 1024 * 1024;
const TELL_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// Brings the chunks of a timeline into the catalog; how many it has then. Those known already are not read again.
pub(super) fn rebuild(
    host: &Host<'_>,
    name: &str,
    instance: InstanceId,
    timeline: TimelineId,
    problems: &mut Problems,
    tell: &mut dyn FnMut(String),
) -> Result<u64, Error> {
    let mut chain = Chain::default();
    let mut after: Option<String> = None;
    let mut told = Stopwatch::start();
    let mut chunks = 0_u64;
    let has_some = host.store.read(|db| db.last_chunk(timeline))?.is_some();
    loop {
        let page = host.repository.chunk_objects(instance, timeline, after.as_deref())?;
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        for batch in batches(&page, |object| object.bytes.min(HEAD_BYTES_MAX)) {
            let known = if has_some { known(host, timeline, batch)? } else { BTreeMap::new() };
            let found = in_parallel(batch, |object| match known.get(&object.key) {
                Some(chunk) => Ok(chunk.clone()),
                None => host.repository.chunk_from_head(object),
            })?;
            let mut settled = Vec::new();
            for (object, found) in batch.iter().zip(found) {
                match found {
                    Ok(chunk) => settled.extend(chain.push(chunk)),
                    Err(err) if is_damage(&err) => {
                        // What is no chunk by its name holds nothing of the history.
                        if let Some((ordinal, begin)) = Repository::place_of_chunk(&object.key) {
                            let affected = format!(
                                "of instance {name}, nothing behind byte {begin} of the {ordinal}. binlog file of timeline \
                                 {timeline} can be recovered from a backup before it"
                            );
                            problems.add(err.message(), affected);
                        }
                    }
                    Err(err) => return Err(err),
                }
            }
            chunks += insert(host, &settled)?;
            if told.elapsed() >= TELL_EVERY {
                told = Stopwatch::start();
                tell(format!("{name}: {chunks} binlog chunks on timeline {timeline} so far"));
            }
        }
    }
    chunks += insert(host, &chain.finish())?;
    for Hole { after, before } in &chain.holes {
        let what = match after {
            Some(after) => {
                format!("the binlog of instance {name} between {after} and {before} is not in the repository")
            }
            None => format!("the binlog of instance {name} before {before} is not in the repository"),
        };
        problems.add(what, format!("no point behind it on timeline {timeline} can be reached from a backup before it"));
    }
    if chain.left_out > 0 {
        tell(format!("{name}: left out {} binlog chunks whose bytes others hold", chain.left_out));
    }
    Ok(chunks)
}

/// Those of the objects that the catalog holds.
fn known(host: &Host<'_>, timeline: TimelineId, objects: &[StoredObject]) -> Result<BTreeMap<String, Chunk>, Error> {
    host.store.read(|db| {
        let mut known = BTreeMap::new();
        for object in objects {
            let Some((ordinal, begin)) = Repository::place_of_chunk(&object.key) else { continue };
            let chunk = db.chunks_from(timeline, ordinal, begin, 1)?.pop();
            if let Some(chunk) = chunk.filter(|chunk| chunk.key == object.key && chunk.stored_bytes == object.bytes) {
                known.insert(object.key.clone(), chunk);
            }
        }
        Ok(known)
    })
}

fn insert(host: &Host<'_>, chunks: &[Chunk]) -> Result<u64, Error> {
    if chunks.is_empty() {
        return Ok(0);
    }
    host.store.write(|tx| {
        for chunk in chunks {
            match tx.insert_chunk(chunk) {
                // A rebuild before this one saw less and took another object for these bytes.
                Err(err) if err.kind() == ErrorKind::Conflict => {}
                inserted => inserted?,
            }
        }
        Ok(chunks.len() as u64)
    })
}
