//! Transfers that go on where they stopped, counted at the store.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::backup_tests::manifest;
use super::bench::{Bench, sample};
use super::manifest::{Manifest, PART_BYTES, Part};
use super::reader::BackupReader;
use super::resume::PartJournal;
use super::writer::BackupWriter;
use super::{Repository, Transfers, layout};
use crate::domain::id::{BackupId, InstanceId};
use crate::error::{Error, ErrorKind, error_of};
use crate::storage::faulty::{Fault, FaultyStore};

fn flag() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

/// A backup that is tried again and again under one id.
struct Tries {
    bench: Bench,
    instance: InstanceId,
    backup: BackupId,
}

impl Tries {
    fn new() -> Tries {
        Tries { bench: Bench::new(), instance: InstanceId::random(), backup: BackupId::random() }
    }

    fn path(&self) -> PathBuf {
        self.bench.scratch.join("journal")
    }

    fn store(&self, repository: &Repository, raw: &[u8]) -> Result<(Vec<Part>, BackupWriter), Error> {
        let journal = PartJournal::open(&self.path(), repository, self.backup)?;
        let mut writer = BackupWriter::begin(repository, self.instance, self.backup, Some(journal), flag())?;
        writer.write_all(raw).map_err(|err| error_of(err, "writing"))?;
        let parts = writer.finish()?;
        Ok((parts, writer))
    }

    /// Tries through a store that only counts.
    fn count(&self, raw: &[u8]) -> (Manifest, Arc<FaultyStore>) {
        let (repository, store) = self.bench.with_fault(Fault::None);
        let (parts, writer) = self.store(&repository, raw).unwrap();
        (manifest(&repository, self.instance, self.backup, parts, &writer), store)
    }

    fn assert_holds(&self, manifest: &Manifest, raw: &[u8]) {
        self.bench.repository.put_manifest(manifest).unwrap();
        let mut read = Vec::new();
        BackupReader::begin(&self.bench.repository, manifest, flag()).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == raw);
    }
}

fn puts(store: &FaultyStore) -> u64 {
    store.passed().puts.load(Ordering::SeqCst)
}

#[test]
fn a_backup_that_goes_on_stores_only_what_is_missing() {
    let tries = Tries::new();
    let raw = sample(6 * PART_BYTES + 100, 1);
    // The store goes away in the middle.
    let (repository, faulty) = tries.bench.with_fault(Fault::FailFrom(7));
    assert_eq!(tries.store(&repository, &raw).err().unwrap().kind(), ErrorKind::Unavailable);
    let noted = PartJournal::open(&tries.path(), &repository, tries.backup).unwrap().known();
    assert!(noted > 0 && noted as u64 <= puts(&faulty), "{noted} of {} puts", puts(&faulty));
    let (manifest, store) = tries.count(&raw);
    assert_eq!(puts(&store), 7 - noted as u64);
    tries.assert_holds(&manifest, &raw);
    // Everything is there now.
    let (again, store) = tries.count(&raw);
    assert_eq!(puts(&store), 0);
    assert!(again.parts == manifest.parts);
}

#[test]
fn an_outage_that_ends_costs_a_try_and_no_part() {
    let tries = Tries::new();
    let raw = sample(6 * PART_BYTES, 9);
    for from in [0, 3, 8, 11] {
        let (repository, store) = tries.bench.with_fault(Fault::Outage { from, operations: 3 });
        let mut failures = 0;
        let (parts, writer) = loop {
            match tries.store(&repository, &raw) {
                Ok(stored) => break stored,
                Err(err) => assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}"),
            }
            failures += 1;
            assert!(failures <= 3, "it ends after three operations");
        };
        assert!(failures > 0);
        // Those that were stored and could not be confirmed any more are put once more, and found there.
        assert!(puts(&store) <= 6 + 4, "{} puts", puts(&store));
        let manifest = manifest(&repository, tries.instance, tries.backup, parts, &writer);
        tries.bench.repository.delete_backup(tries.instance, tries.backup).unwrap();
        assert_eq!(manifest.raw_bytes, raw.len() as u64);
        std::fs::remove_file(tries.path()).unwrap();
    }
    // A reader fails, and one that begins where it failed has the rest.
    let (stored, _) = tries.count(&raw);
    let (repository, store) = tries.bench.with_fault(Fault::Outage { from: 2, operations: 3 });
    let repository = Repository { transfers: Transfers::new(1), ..repository };
    let (mut read, mut failures) = (Vec::new(), 0);
    while read.len() < raw.len() {
        let mut reader = BackupReader::begin_at(&repository, &stored, read.len() as u64, flag()).unwrap();
        if let Err(err) = reader.read_to_end(&mut read) {
            assert_eq!(error_of(err, "reading").kind(), ErrorKind::Unavailable);
            failures += 1;
        }
        assert!(read.len() >= 2 * PART_BYTES);
    }
    assert!(read == raw);
    assert_eq!((failures, store.passed().gets.load(Ordering::SeqCst)), (3, 6), "no part was fetched twice");
}

#[test]
fn a_part_that_has_changed_is_stored_anew_and_the_old_one_is_an_orphan() {
    let tries = Tries::new();
    let mut raw = sample(4 * PART_BYTES, 2);
    let (first, _) = tries.count(&raw);
    raw[PART_BYTES + 1000] ^= 1;
    let (second, store) = tries.count(&raw);
    assert_eq!(puts(&store), 1);
    tries.assert_holds(&second, &raw);
    let changed: Vec<bool> = first.parts.iter().zip(&second.parts).map(|(one, two)| one != two).collect();
    assert_eq!(changed, [false, true, false, false]);
    assert_eq!(tries.bench.repository.delete_orphans(&second).unwrap(), 1);
    let left = tries.bench.repository.keys(&layout::backup_prefix(tries.instance, tries.backup)).unwrap();
    assert_eq!(left.len(), 5, "{left:?}");
    tries.bench.repository.verify_backup(tries.instance, tries.backup, flag()).unwrap();
    assert_eq!(tries.bench.repository.delete_orphans(&second).unwrap(), 0);
}

#[test]
fn a_stream_that_begins_otherwise_finds_again_what_is_behind_its_cuts() {
    let data = sample(5 * PART_BYTES + 1_500_000, 8);
    let (one, two) = data.split_at(3 * PART_BYTES - 700_000);
    let store = |tries: &Tries, pieces: &[&[u8]]| {
        let (repository, store) = tries.bench.with_fault(Fault::None);
        let journal = PartJournal::open(&tries.path(), &repository, tries.backup).unwrap();
        let mut writer = BackupWriter::begin(&repository, tries.instance, tries.backup, Some(journal), flag()).unwrap();
        for piece in pieces {
            writer.write_all(piece).unwrap();
            writer.cut().unwrap();
        }
        let parts = writer.finish().unwrap();
        (manifest(&repository, tries.instance, tries.backup, parts, &writer), puts(&store))
    };
    let tries = Tries::new();
    // What stands in front and between is what the server has logged meanwhile, and it is never the same.
    let (first, put) = store(&tries, &[&sample(2 << 20, 1), one, two]);
    assert_eq!((put, first.parts.len()), (7, 7));
    let between = sample(PART_BYTES + (2 << 20), 2);
    let (second, put) = store(&tries, &[&sample(3 * PART_BYTES, 3), one, &between, two]);
    assert_eq!((put, second.parts.len()), (5, 11));
    let (third, put) = store(&tries, &[one, two]);
    assert_eq!((put, third.parts.len()), (0, 6));
    tries.assert_holds(&third, &[one, two].concat());
    // Longer in front than there is room for numbers: it is stored all the same.
    let many: Vec<Vec<u8>> = (0..110).map(|seed| sample(1 << 20, 100 + seed)).collect();
    let tries = Tries::new();
    assert_eq!(store(&tries, &[one, two]).1, 6);
    let pieces: Vec<&[u8]> = many.iter().map(Vec::as_slice).chain([one, two]).collect();
    let (fourth, put) = store(&tries, &pieces);
    assert_eq!((put, fourth.parts.len()), (111, 116));
    tries.assert_holds(&fourth, &[&many.concat()[..], one, two].concat());
}

#[test]
fn a_part_that_is_gone_from_the_store_is_stored_again_whatever_the_journal_says() {
    let tries = Tries::new();
    let raw = sample(3 * PART_BYTES, 3);
    let (first, _) = tries.count(&raw);
    tries.bench.remove(&first.parts[1].key);
    tries.bench.remove(&first.parts[2].key);
    let (second, store) = tries.count(&raw);
    assert_eq!(puts(&store), 2);
    assert!(second.parts == first.parts);
    tries.assert_holds(&second, &raw);
}

#[test]
fn a_torn_or_foreign_journal_is_no_obstacle() {
    let tries = Tries::new();
    let raw = sample(3 * PART_BYTES, 4);
    tries.count(&raw);
    let whole = std::fs::read(tries.path()).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    assert_eq!(ends.len(), 4);
    for (cut, missing) in [(ends[3], 1), (ends[2] + 1, 1), (ends[1] + 20, 2), (ends[0] + 1, 3), (ends[0], 3), (0, 3)] {
        crate::durable::write(&tries.path(), &whole[..cut], 0o600).unwrap();
        let (_, store) = tries.count(&raw);
        // A part is put once more under its name and found there: nothing is stored twice.
        assert_eq!(puts(&store), missing, "cut at {cut}");
        let lines = std::fs::read_to_string(tries.path()).unwrap().lines().count();
        assert_eq!(lines, 4, "cut at {cut}");
    }
    let other = PartJournal::open(&tries.path(), &tries.bench.repository, BackupId::random()).unwrap();
    assert_eq!((other.known(), other.has_predecessor()), (0, true));
}

#[test]
fn a_reader_that_begins_within_the_stream_fetches_nothing_before_it() {
    let tries = Tries::new();
    let raw = sample(5 * PART_BYTES + 77, 5);
    let (stored, _) = tries.count(&raw);
    for offset in [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES - 1, 5 * PART_BYTES, raw.len() - 1, raw.len()] {
        let (repository, store) = tries.bench.with_fault(Fault::None);
        let mut reader = BackupReader::begin_at(&repository, &stored, offset as u64, flag()).unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == raw[offset..], "from {offset}");
        let parts = 6 - (offset / PART_BYTES).min(5) - usize::from(offset == raw.len());
        let expected: u64 = stored.parts.iter().rev().take(parts).map(|part| part.stored_bytes).sum();
        assert_eq!(store.passed().bytes_got.load(Ordering::SeqCst), expected, "from {offset}");
        assert_eq!(store.passed().gets.load(Ordering::SeqCst), parts as u64);
    }
    assert!(BackupReader::begin_at(&tries.bench.repository, &stored, raw.len() as u64 + 1, flag()).is_err());
}

#[test]
fn any_number_of_transfers_gives_the_same() {
    let tries = Tries::new();
    let raw = sample(7 * PART_BYTES + 5, 6);
    let (expected, _) = tries.count(&raw);
    tries.bench.repository.put_manifest(&expected).unwrap();
    for transfers in [1, 2, 3, 16] {
        let repository = Repository { transfers: Transfers::new(transfers), ..tries.bench.repository.clone() };
        let mut writer = BackupWriter::begin(&repository, tries.instance, tries.backup, None, flag()).unwrap();
        writer.write_all(&raw).unwrap();
        assert_eq!(writer.finish().unwrap(), expected.parts, "{transfers}");
        let mut reader = BackupReader::begin(&repository, &expected, flag()).unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == raw, "{transfers}");
    }
}

#[test]
fn a_reader_that_waits_notices_that_it_is_cancelled() {
    let tries = Tries::new();
    let (stored, _) = tries.count(&sample(3 * PART_BYTES, 7));
    let cancelled = flag();
    let mut reader = BackupReader::begin(&tries.bench.repository, &stored, Arc::clone(&cancelled)).unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    cancelled.store(true, Ordering::SeqCst);
    // What was fetched by then may still be read.
    let err = io::copy(&mut reader, &mut io::sink()).map_err(|err| error_of(err, "reading"));
    assert!(err.map_or_else(|err| err.kind() == ErrorKind::Interrupted, |_| true));
}
