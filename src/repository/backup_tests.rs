//! Backups as a whole: written, read back, damaged, deleted.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::bench::{Bench, sample};
use super::layout;
use super::manifest::{Manifest, PART_BYTES, Part};
use super::reader::BackupReader;
use super::writer::BackupWriter;
use super::{FORMAT, Repository, hex, sealed};
use crate::domain::backup::BackupEnd;
use crate::domain::backup::Strategy;
use crate::domain::coordinate::Coordinate;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::GtidPosition;
use crate::domain::id::{BackupId, InstanceId, TimelineId};
use crate::error::error_of;
use crate::error::{Error, ErrorKind};
use crate::storage::faulty::Fault;

pub(super) fn flag() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

pub(super) fn manifest(
    repository: &Repository,
    instance: InstanceId,
    backup: BackupId,
    parts: Vec<Part>,
    writer: &BackupWriter,
) -> Manifest {
    let timeline = TimelineId::random();
    let at = Coordinate { timeline, ordinal: 1, file: "binlog.000001".to_owned(), position: 4711 };
    Manifest {
        format: FORMAT,
        backup,
        instance,
        timeline,
        description: "a description".to_owned(),
        name: "nightly".to_owned(),
        datastore: Datastore::Mariadb,
        strategy: Strategy::Mariabackup,
        server_version: "10.11.8-MariaDB-log".to_owned(),
        tool: "mariadb-backup".to_owned(),
        tool_version: "10.11.8-MariaDB".to_owned(),
        compression: repository.compression().name().to_owned(),
        encrypted_to: repository.recipients().to_vec(),
        raw_bytes: writer.raw_bytes(),
        sha256: writer.sha256().to_owned(),
        parts,
        begin: None,
        end: BackupEnd { at, position: GtidPosition::default(), clock: 0 },
        created_at: Timestamp::from_second(1_700_000_000).unwrap(),
        completed_at: Timestamp::from_second(1_700_000_100).unwrap(),
    }
}

pub(super) fn store(repository: &Repository, raw: &[u8]) -> Result<Manifest, Error> {
    let (instance, backup) = (InstanceId::random(), BackupId::random());
    let mut writer = BackupWriter::begin(repository, instance, backup, None, flag())?;
    // Uneven pieces, as a pipe gives them.
    for piece in raw.chunks(70_001) {
        writer.write_all(piece).map_err(|err| error_of(err, "writing"))?;
    }
    let parts = writer.finish()?;
    let manifest = manifest(repository, instance, backup, parts, &writer);
    repository.put_manifest(&manifest)?;
    Ok(manifest)
}

pub(super) fn read(repository: &Repository, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    let mut raw = Vec::new();
    let mut reader = BackupReader::begin(repository, manifest, flag())?;
    reader.read_to_end(&mut raw).map_err(|err| error_of(err, "reading"))?;
    Ok(raw)
}

#[test]
fn a_backup_of_any_length_comes_back() {
    let bench = Bench::new();
    for length in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES + 12_345] {
        let raw = sample(length, length as u64);
        let stored = store(&bench.repository, &raw).unwrap();
        assert_eq!(stored.parts.len(), length.div_ceil(PART_BYTES));
        assert_eq!(stored.sha256, hex(&Sha256::digest(&raw)));
        assert_eq!(bench.repository.read_manifest(stored.instance, stored.backup).unwrap(), stored);
        assert!(read(&bench.repository, &stored).unwrap() == raw);
        let proven = bench.repository.verify_backup(stored.instance, stored.backup, flag()).unwrap();
        assert_eq!(proven.stored_bytes(), stored.parts.iter().map(|p| bench.bytes(&p.key).len() as u64).sum::<u64>());
    }
}

#[test]
fn bytes_that_do_not_compress_fit_too() {
    let mut raw = vec![0; PART_BYTES + 100];
    getrandom::fill(&mut raw).unwrap();
    for settings in crate::repository::bench::every_form() {
        let bench = Bench::with(&settings);
        let stored = store(&bench.repository, &raw).unwrap();
        assert!(stored.stored_bytes() > raw.len() as u64);
        assert!(read(&bench.repository, &stored).unwrap() == raw);
    }
}

#[test]
fn a_part_flipped_cut_grown_missing_or_swapped_is_corrupt_and_named() {
    let bench = Bench::new();
    let raw = sample(4 * PART_BYTES, 1);
    let stored = store(&bench.repository, &raw).unwrap();
    for (nth, part) in stored.parts.iter().enumerate() {
        let good = bench.bytes(&part.key);
        let other = bench.bytes(&stored.parts[(nth + 1) % 4].key);
        let check = |what: &str| {
            let read = read(&bench.repository, &stored).unwrap_err();
            let verified = bench.repository.verify_backup(stored.instance, stored.backup, flag()).unwrap_err();
            for err in [read, verified] {
                assert_eq!(err.kind(), ErrorKind::Corrupt, "{what}: {err}");
                assert!(err.message().contains(&part.key), "{what}: {err}");
                assert!(err.hint_text().is_some());
            }
        };
        bench.flip_bit(&part.key, good.len() * 8 / 5 * (nth + 1));
        check("flipped");
        bench.overwrite(&part.key, &good[..good.len() - 1]);
        check("cut");
        bench.overwrite(&part.key, b"");
        check("emptied");
        bench.overwrite(&part.key, &[&good[..], b"x"].concat());
        check("grown");
        bench.overwrite(&part.key, &other);
        check("swapped");
        bench.remove(&part.key);
        check("missing");
        bench.overwrite(&part.key, &good);
    }
    assert!(read(&bench.repository, &stored).unwrap() == raw);
}

#[test]
fn a_manifest_that_lies_is_seen() {
    let bench = Bench::new();
    let stored = store(&bench.repository, &sample(3 * PART_BYTES, 2)).unwrap();
    let other = store(&bench.repository, &sample(100, 3)).unwrap();
    let key = layout::manifest(stored.instance, stored.backup);
    let good = bench.bytes(&key);
    let check = |text: &[u8], kind: ErrorKind, word: &str| {
        bench.overwrite(&key, text);
        let err = bench.repository.read_manifest(stored.instance, stored.backup).unwrap_err();
        assert_eq!(err.kind(), kind, "{err}");
        assert!(err.message().contains(&key) && err.message().contains(word), "{err}");
        assert!(bench.repository.backups(stored.instance).is_err());
        assert_eq!(bench.repository.backup_ids(stored.instance).unwrap(), [stored.backup]);
    };
    let sealed = |change: &dyn Fn(&mut Manifest)| {
        let mut changed = stored.clone();
        change(&mut changed);
        sealed::render(&changed).unwrap()
    };
    check(&good[..good.len() / 2], ErrorKind::Corrupt, "damaged");
    check(&bench.bytes(&layout::manifest(other.instance, other.backup)), ErrorKind::Corrupt, "another backup");
    check(&sealed(&|m| m.parts.swap(0, 1)), ErrorKind::Corrupt, "part 2");
    check(&sealed(&|m| drop(m.parts.pop())), ErrorKind::Corrupt, "parts hold");
    check(&sealed(&|m| m.parts[1].key = "../../x".to_owned()), ErrorKind::Corrupt, "part 2");
    check(&sealed(&|m| m.parts[1].raw_bytes = u64::MAX), ErrorKind::Corrupt, "part 2");
    check(&sealed(&|m| m.parts[2].stored_bytes = 1 << 40), ErrorKind::Corrupt, "part 3");
    check(&sealed(&|m| m.compression = "lzma".to_owned()), ErrorKind::Unsupported, "lzma");
    check(&sealed(&|m| m.format = 2), ErrorKind::Unsupported, "format 2");
    let newer = String::from_utf8(good.clone()).unwrap().replace("\"backup\"", "\"more\": true,\n  \"backup\"");
    check(newer.as_bytes(), ErrorKind::Corrupt, "seal");
    for bit in (0..good.len() * 8).step_by(7) {
        bench.overwrite(&key, &good);
        bench.flip_bit(&key, bit);
        let err = bench.repository.read_manifest(stored.instance, stored.backup).unwrap_err();
        assert!(matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "bit {bit}: {err}");
    }
    bench.overwrite(&key, &good);
    assert_eq!(bench.repository.read_manifest(stored.instance, stored.backup).unwrap(), stored);
    let again = bench.repository.put_manifest(&stored).unwrap();
    assert_eq!(again, (bench.repository.location(&key), hex(&Sha256::digest(&good))));
    bench.repository.read_manifest_verified(stored.instance, stored.backup, &again.1).unwrap();
    let err = bench.repository.read_manifest_verified(stored.instance, stored.backup, &other.sha256).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt);
    let renamed = Manifest { name: "other".to_owned(), ..stored };
    assert_eq!(bench.repository.put_manifest(&renamed).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn parts_in_the_wrong_order_do_not_pass_even_when_each_is_right() {
    let bench = Bench::new();
    let mut stored = store(&bench.repository, &sample(2 * PART_BYTES, 4)).unwrap();
    stored.parts.swap(0, 1);
    let err = read(&bench.repository, &stored).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt);
    assert_eq!(bench.repository.put_manifest(&stored).unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn a_store_that_fails_at_any_moment_fails_the_backup_and_leaves_none() {
    let bench = Bench::new();
    let raw = sample(2 * PART_BYTES + 5, 5);
    for nth in 0..100 {
        let (repository, faulty) = bench.with_fault(Fault::FailFrom(nth));
        match store(&repository, &raw) {
            Ok(stored) => {
                assert!(faulty.operations() <= nth);
                assert!(read(&bench.repository, &stored).unwrap() == raw);
                return;
            }
            Err(err) => assert_eq!(err.kind(), ErrorKind::Unavailable, "operation {nth}: {err}"),
        }
        let all = bench.repository.instances().unwrap();
        let whole: usize = all.iter().map(|i| bench.repository.backups(*i).unwrap().len()).sum();
        // The last operation is the reading back of the manifest: then there is one, and it is whole.
        assert!(whole == 0 || nth == 7, "operation {nth}");
    }
    panic!("more operations than a backup should need");
}

#[test]
fn a_reader_that_is_cut_off_tells_the_store_from_the_object() {
    let bench = Bench::new();
    let stored = store(&bench.repository, &sample(3 * PART_BYTES, 6)).unwrap();
    for bytes in [0, 1000, 2_000_000] {
        let (repository, _) = bench.with_fault(Fault::ResetAfter(bytes));
        assert_eq!(read(&repository, &stored).unwrap_err().kind(), ErrorKind::Unavailable);
        let (repository, _) = bench.with_fault(Fault::EndAfter(bytes));
        assert_eq!(read(&repository, &stored).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let (repository, _) = bench.with_fault(Fault::FailFrom(2));
    assert_eq!(read(&repository, &stored).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn a_failed_reader_stays_failed() {
    let bench = Bench::new();
    let stored = store(&bench.repository, &sample(2 * PART_BYTES, 7)).unwrap();
    bench.remove(&stored.parts[0].key);
    let mut reader = BackupReader::begin(&bench.repository, &stored, flag()).unwrap();
    for _ in 0..3 {
        assert!(reader.read(&mut [0; 10]).is_err());
    }
}

#[test]
fn a_cancelled_transfer_ends_and_a_dropped_one_leaves_no_thread() {
    let bench = Bench::new();
    let raw = sample(4 * PART_BYTES, 8);
    let stored = store(&bench.repository, &raw).unwrap();
    let cancelled = flag();
    let mut writer =
        BackupWriter::begin(&bench.repository, InstanceId::random(), BackupId::random(), None, Arc::clone(&cancelled))
            .unwrap();
    writer.write_all(&raw[..PART_BYTES + 5]).unwrap();
    cancelled.store(true, Ordering::SeqCst);
    let err = error_of(writer.write_all(&raw).unwrap_err(), "");
    assert_eq!(err.kind(), ErrorKind::Interrupted);
    assert_eq!(writer.finish().unwrap_err().kind(), ErrorKind::Interrupted);
    drop(writer); // Joins; a hang would be the failure.
    let mut reader = BackupReader::begin(&bench.repository, &stored, Arc::clone(&cancelled)).unwrap();
    let err = error_of(io::copy(&mut reader, &mut io::sink()).unwrap_err(), "");
    assert_eq!(err.kind(), ErrorKind::Interrupted);
    let mut reader = BackupReader::begin(&bench.repository, &stored, flag()).unwrap();
    reader.read_exact(&mut [0; 100]).unwrap();
    drop(reader);
    let mut writer =
        BackupWriter::begin(&bench.repository, InstanceId::random(), BackupId::random(), None, flag()).unwrap();
    writer.write_all(&raw).unwrap();
    drop(writer);
}

#[test]
fn a_writer_ends_once() {
    let bench = Bench::new();
    let mut writer =
        BackupWriter::begin(&bench.repository, InstanceId::random(), BackupId::random(), None, flag()).unwrap();
    let progress = writer.progress();
    writer.write_all(b"small").unwrap();
    assert_eq!(writer.finish().unwrap().len(), 1);
    assert_eq!((progress.raw.load(Ordering::SeqCst), writer.raw_bytes()), (5, 5));
    assert!(progress.stored.load(Ordering::SeqCst) > 5);
    assert!(writer.finish().is_err());
}

#[test]
fn a_deleted_backup_is_gone_and_its_neighbour_is_not() {
    let bench = Bench::new();
    let instance = InstanceId::random();
    let mut backups = Vec::new();
    for seed in 0..3 {
        let backup = BackupId::random();
        let mut writer = BackupWriter::begin(&bench.repository, instance, backup, None, flag()).unwrap();
        writer.write_all(&sample(PART_BYTES + 10, seed)).unwrap();
        let parts = writer.finish().unwrap();
        let manifest = manifest(&bench.repository, instance, backup, parts, &writer);
        bench.repository.put_manifest(&manifest).unwrap();
        backups.push(manifest);
    }
    let gone = backups.remove(1);
    // Cut off after the manifest: already no backup, and a repeat cleans up.
    let (repository, _) = bench.with_fault(Fault::FailFrom(2));
    assert!(repository.delete_backup(instance, gone.backup).is_err());
    assert_eq!(bench.repository.read_manifest(instance, gone.backup).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bench.repository.backup_ids(instance).unwrap().len(), 2);
    bench.repository.delete_backup(instance, gone.backup).unwrap();
    bench.repository.delete_backup(instance, gone.backup).unwrap();
    assert!(bench.repository.keys(&layout::backup_prefix(instance, gone.backup)).unwrap().is_empty());
    for manifest in &backups {
        bench.repository.verify_backup(instance, manifest.backup, flag()).unwrap();
    }
    let mut found = bench.repository.backups(instance).unwrap();
    found.sort_by_key(|manifest| manifest.backup);
    backups.sort_by_key(|manifest| manifest.backup);
    assert_eq!(found, backups);
}
