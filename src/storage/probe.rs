//! What a store really does, tried on objects of the probe's own: `coffer check` tells each in a sentence.
//!
//! Everything tried lies under `check/` and is deleted again, also when something fails. The first thing that does not
//! work ends the probe: what comes behind it would only repeat the same fault in other words.

use std::io::Read;
use std::time::Duration;

use jiff::SignedDuration;
use uuid::Uuid;

use super::{Body, ObjectStore};
use crate::clock::{self, Stopwatch};
use crate::error::{Error, ErrorKind, error_of};

/// Keys below this are the probe's own; a killed one may leave some, and a repository pays no heed to them.
pub(crate) const PREFIX: &str = "check/";

const LARGE_BYTES: usize = 8 << 20;
const SMALL_BYTES: usize = 1000;
const SMALL_PUTS: u32 = 5;
/// Signatures fail beyond five to fifteen minutes, and certificates and tokens age by the host's clock.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(60);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What works, a sentence each.
    pub(crate) fine: Vec<String>,
    /// What does not.
    pub(crate) faults: Vec<Error>,
}

/// Tries on `store` all that a repository needs, and measures it.
pub(crate) fn probe(store: &dyn ObjectStore) -> Findings {
    let mut findings = Findings::default();
    let trial = Trial { store, prefix: format!("{PREFIX}{}/", Uuid::new_v4().simple()), large: noise(LARGE_BYTES) };
    if let Err(err) = trial.run(&mut findings) {
        findings.faults.push(err);
    }
    // Also what a step that failed has left. A store that cannot delete has said so above.
    let _ = trial.clean_up();
    findings
}

struct Trial<'a> {
    store: &'a dyn ObjectStore,
    prefix: String,
    large: Vec<u8>,
}

/// What is wrong with this host's clock, if it and the store's differ so much that the store may refuse what is asked.
pub(crate) fn clock_fault(store: &dyn ObjectStore) -> Result<Option<Error>, Error> {
    Ok(skew(store)?.and_then(fault_of))
}

/// How far the store's clock is ahead of this host's; `None` for a store that has none of its own.
fn skew(store: &dyn ObjectStore) -> Result<Option<SignedDuration>, Error> {
    let before = clock::now();
    let Some(told) = store.clock()? else { return Ok(None) };
    // The answer was written somewhere between asking and receiving it, in whole seconds.
    Ok(Some(told.duration_since(before + clock::now().duration_since(before) / 2)))
}

fn fault_of(skew: SignedDuration) -> Option<Error> {
    let seconds = skew.as_secs();
    let side = if seconds > 0 { "behind" } else { "ahead of" };
    let what =
        format!("this host's clock is {} s {side} the store's; the store may refuse its signatures", seconds.abs());
    let hint = "Set this host's clock, and keep it right by NTP (timedatectl set-ntp true).";
    (skew.abs() > SKEW_MAX).then(|| Error::new(ErrorKind::Refused, what).hint(hint))
}

impl Trial<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn run(&self, findings: &mut Findings) -> Result<(), Error> {
        self.clocks(findings)?;
        self.write(findings)?;
        self.read_back(findings)?;
        self.keep(findings)?;
        self.list(findings)?;
        self.delete(findings)
    }

    fn clocks(&self, findings: &mut Findings) -> Result<(), Error> {
        let Some(skew) = skew(self.store)? else { return Ok(()) };
        match fault_of(skew) {
            Some(fault) => findings.faults.push(fault),
            None => {
                let seconds = skew.as_secs().abs();
                findings.fine.push(format!("The clocks of the store and of this host are {seconds} s apart."));
            }
        }
        Ok(())
    }

    fn write(&self, findings: &mut Findings) -> Result<(), Error> {
        let large = Stopwatch::start();
        self.store.put(&self.key("large"), Body::Bytes(&self.large)).map_err(|err| err.context("writing failed"))?;
        let large = large.elapsed();
        let small = Stopwatch::start();
        for nth in 0..SMALL_PUTS {
            let bytes = self.large.get(..SMALL_BYTES).unwrap_or_default();
            self.store.put(&self.key(&format!("small-{nth}")), Body::Bytes(bytes))?;
        }
        let each = small.elapsed() / SMALL_PUTS;
        findings.fine.push(format!("Writing works: {}, a small object takes {}.", rate(large), milliseconds(each)));
        Ok(())
    }

    fn read_back(&self, findings: &mut Findings) -> Result<(), Error> {
        let watch = Stopwatch::start();
        let read = self.read("large", 0, None)?;
        let elapsed = watch.elapsed();
        let (from, length) = (LARGE_BYTES / 3, 1000);
        let range = self.read("large", from as u64, Some(length as u64))?;
        if read != self.large || self.large.get(from..from + length) != Some(range.as_slice()) {
            return Err(Error::new(ErrorKind::Corrupt, "what was written reads back different")
                .hint("Do not keep backups in this store before that is understood."));
        }
        let watch = Stopwatch::start();
        self.store.size(&self.key("small-0"))?;
        let asked = milliseconds(watch.elapsed());
        findings
            .fine
            .push(format!("What was written reads back the same: {}; a question takes {asked}.", rate(elapsed)));
        Ok(())
    }

    fn keep(&self, findings: &mut Findings) -> Result<(), Error> {
        let key = self.key("small-0");
        match self.store.put(&key, Body::Bytes(b"other content")) {
            Err(err) if err.kind() == ErrorKind::Conflict => {}
            Err(err) => return Err(err),
            Ok(()) => {
                return Err(Error::new(ErrorKind::Corrupt, "the store replaced an object that existed")
                    .hint("Keep the repository in another store."));
            }
        }
        findings.fine.push(match self.store.creates_conditionally(&self.key("conditional"))? {
            None => "What exists is not replaced.".to_owned(),
            Some(true) => {
                "What exists is not replaced, and the store guards that too: it honours a conditional create."
                    .to_owned()
            }
            Some(false) => "What exists is not replaced: coffer looks first and gives every object a name of its own; \
                            the store does not honour a conditional create."
                .to_owned(),
        });
        Ok(())
    }

    fn list(&self, findings: &mut Findings) -> Result<(), Error> {
        let wanted: Vec<String> = (0..SMALL_PUTS).map(|nth| self.key(&format!("small-{nth}"))).collect();
        let first = self.store.list(&self.key("small-"), None, 2)?;
        let after = first.last().map(|object| object.key.clone());
        let rest = self.store.list(&self.key("small-"), after.as_deref(), 100)?;
        let listed: Vec<String> = first.into_iter().chain(rest).map(|object| object.key).collect();
        if listed != wanted {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("a listing does not show what was written: {} of {} objects", listed.len(), wanted.len()),
            )
            .hint(
                "A store whose listings lag or lie can't hold a repository; see what stands between it and coffer.",
            ));
        }
        findings.fine.push("Listing shows what was written, in pages and in order.".to_owned());
        Ok(())
    }

    fn delete(&self, findings: &mut Findings) -> Result<(), Error> {
        self.clean_up().map_err(|err| err.context("deleting failed"))?;
        if self.store.size(&self.key("large"))?.is_some() || !self.store.list(&self.prefix, None, 1)?.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "what was deleted is still there")
                .hint("See whether the bucket keeps versions or forbids deleting; backups would never be freed."));
        }
        findings.fine.push("Deleting works; nothing of this check is left.".to_owned());
        Ok(())
    }

    fn clean_up(&self) -> Result<(), Error> {
        let listed = self.store.list(&self.prefix, None, 100)?;
        let keys: Vec<String> = listed.into_iter().map(|object| object.key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.store.delete_many(&keys)
    }

    fn read(&self, name: &str, from: u64, bytes: Option<u64>) -> Result<Vec<u8>, Error> {
        let mut read = Vec::new();
        let object = self.store.get_range(&self.key(name), from, bytes)?;
        object
            .take(LARGE_BYTES as u64 + 1)
            .read_to_end(&mut read)
            .map_err(|err| error_of(err, "unable to read what was written"))?;
        Ok(read)
    }
}

/// Bytes that nothing on the way can compress; their values do not matter.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = Vec::with_capacity(bytes);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

fn rate(elapsed: Duration) -> String {
    let mebibytes = (LARGE_BYTES >> 20) as f64;
    format!("{mebibytes:.0} MiB at {:.0} MiB/s", mebibytes / elapsed.as_secs_f64().max(1e-6))
}

fn milliseconds(elapsed: Duration) -> String {
    match elapsed.as_millis() {
        0 => "less than 1 ms".to_owned(),
        milliseconds => format!("{milliseconds} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::faulty::{Fault, FaultyStore};
    use crate::storage::local::LocalStore;
    use crate::testing::TempDir;

    #[test]
    fn a_folder_does_all_that_is_needed_and_is_left_clean() {
        let scratch = TempDir::new();
        let store = LocalStore::create(&scratch).unwrap();
        let findings = probe(&store);
        assert!(findings.faults.is_empty(), "{:?}", findings.faults);
        assert!(findings.fine.len() >= 5, "{:?}", findings.fine);
        assert!(store.list("", None, 10).unwrap().is_empty());
    }

    #[test]
    fn a_store_that_fails_is_told_once_by_its_first_failure() {
        let scratch = TempDir::new();
        let inner = || std::sync::Arc::new(LocalStore::create(&scratch).unwrap());
        for (fault, kind) in [(Fault::FailFrom(0), ErrorKind::Unavailable), (Fault::EndAfter(100), ErrorKind::Corrupt)]
        {
            let findings = probe(FaultyStore::new(inner(), fault).as_ref());
            assert_eq!(findings.faults.len(), 1);
            assert_eq!(findings.faults[0].kind(), kind);
        }
    }
}
