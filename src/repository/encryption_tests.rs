//! Encrypted repositories as a whole: what a host without the identity can do and prove, what it cannot, and what a
//! stranger who has the bucket sees.

use jiff::Timestamp;

use super::backup_tests::{flag, read, store};
use super::bench::{Bench, Key, every_form, sample};
use super::chunk::ChunkBody;
use super::manifest::{Manifest, PART_BYTES};
use super::verify::Proof;
use super::{Repository, Settings, layout, sealed, sha256_hex};
use crate::domain::chunk::{Chunk, ChunkFacts};
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind};
use crate::storage::faulty::Fault;

const SECRET: &str = "shop.secret_customers";

fn facts(raw: &[u8], begin: u64) -> ChunkFacts {
    ChunkFacts {
        instance: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
        timeline: "00000000-0000-4000-8000-000000000002".parse().unwrap(),
        ordinal: 7,
        file: "binlog.000007".to_owned(),
        begin,
        end: begin + raw.len() as u64,
        sha256: sha256_hex(raw),
        follows: None,
        gap_before: None,
        transactions: 0,
        first_gtid: None,
        last_gtid: None,
        ranges: Vec::new(),
        position_after: "0-11-2".parse().unwrap(),
        state_after: "0-11-2".parse().unwrap(),
        clock_before: 0,
        first_commit: None,
        last_commit: None,
        observed_at: Timestamp::from_second(1_700_000_002).unwrap(),
    }
}

fn put(repository: &Repository, raw: &[u8], begin: u64) -> Chunk {
    repository.put_chunk(&facts(raw, begin), b"description", ChunkBody::Bytes(raw)).unwrap()
}

fn read_chunk(repository: &Repository, chunk: &Chunk) -> Result<Vec<u8>, Error> {
    repository.read_chunk_verified(&chunk.key, &chunk.facts.sha256, u64::MAX).map(|(_, raw)| raw)
}

/// Where the head of an object ends.
fn head_end(object: &[u8]) -> usize {
    8 + u32::from_le_bytes(object[4..8].try_into().unwrap()) as usize
}

#[track_caller]
fn assert_corrupt<T>(read: Result<T, Error>, key: &str, what: &str) {
    let Err(err) = read else { panic!("{what}: it is taken for whole") };
    assert_eq!(err.kind(), ErrorKind::Corrupt, "{what}: {err}");
    assert!(err.message().contains(key), "{what}: {err}");
}

#[test]
fn names_say_how_an_object_is_made() {
    for (settings, end) in every_form().iter().zip(["zst", "zst.age", "gz", "gz.age"]) {
        let bench = Bench::with(settings);
        let stored = store(&bench.repository, &sample(1000, 1)).unwrap();
        assert!(stored.parts[0].key.ends_with(&format!("-{}.{end}", &stored.parts[0].sha256[..16])));
        let chunk = put(&bench.repository, b"raw", 0);
        assert!(chunk.key.ends_with(&format!("-{}.binlog.{end}", &sha256_hex(b"raw")[..16])));
        assert_eq!(read_chunk(&bench.repository, &chunk).unwrap(), b"raw");
        assert_eq!(stored.encrypted_to, settings.encrypt_to);
    }
}

#[test]
fn a_host_without_the_identity_writes_and_proves_and_says_what_it_lacks() {
    let key = Key::new();
    let bench = Bench::with(&key.settings());
    let raw = sample(PART_BYTES + 99, 1);
    let stored = store(&bench.repository, &raw).unwrap();
    let chunk = put(&bench.repository, b"raw bytes", 4);
    for part in &stored.parts {
        assert_eq!(bench.repository.verify_part(part).unwrap(), Proof::Stored);
    }
    assert_eq!(bench.repository.verify_chunk(&chunk).unwrap(), Proof::Stored);
    bench.repository.verify_manifest(stored.instance, stored.backup, None).unwrap();
    let found = bench.repository.chunk_objects(chunk.facts.instance, chunk.facts.timeline, None).unwrap();
    let head = bench.repository.chunk_from_head(&found[0]).unwrap();
    assert_eq!(head, chunk, "the catalog is rebuilt without the identity");

    let refusals = [
        bench.repository.check_opens(&stored).unwrap_err(),
        bench.repository.check_chunk_opens(&chunk.key).unwrap_err(),
        read_chunk(&bench.repository, &chunk).unwrap_err(),
    ];
    for err in &refusals {
        assert_eq!(err.kind(), ErrorKind::Refused);
        assert!(err.message().contains(&key.public), "{err}");
        assert!(err.hint_text().unwrap().contains("repository.identity_file"), "{err}");
    }
    let err = read(&bench.repository, &stored).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Refused);
    assert!(err.message().contains(&stored.parts[0].key), "{err}");

    let with_identity = bench.reopened(&Settings { identity: key.source(), ..Settings::default() });
    with_identity.check_opens(&stored).unwrap();
    with_identity.check_chunk_opens(&chunk.key).unwrap();
    assert!(read(&with_identity, &stored).unwrap() == raw);
    assert_eq!(read_chunk(&with_identity, &chunk).unwrap(), b"raw bytes");
    assert_eq!(with_identity.verify_part(&stored.parts[0]).unwrap(), Proof::Contents);
    assert_eq!(with_identity.verify_chunk(&chunk).unwrap(), Proof::Contents);
    with_identity.verify_backup(stored.instance, stored.backup, flag()).unwrap();

    let other = bench.reopened(&Settings { identity: Key::new().source(), ..Settings::default() });
    assert!(other.check_opens(&stored).unwrap_err().message().contains("the identity here is that of age1"));
    assert_eq!(read_chunk(&other, &chunk).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(other.verify_chunk(&chunk).unwrap(), Proof::Stored);
}

#[test]
fn a_chunk_stored_by_a_life_that_was_cut_off_is_settled_without_the_identity() {
    let key = Key::new();
    let bench = Bench::with(&key.settings());
    let raw = sample(10_000, 4);
    let first = put(&bench.repository, &raw, 0);
    let later = ChunkFacts { observed_at: Timestamp::from_second(1_800_000_000).unwrap(), ..facts(&raw, 0) };
    let again = bench.repository.put_chunk(&later, b"description", ChunkBody::Bytes(&raw)).unwrap();
    assert_eq!(again, first);
    let other = ChunkFacts { follows: Some("f".repeat(64)), ..facts(&raw, 0) };
    let err = bench.repository.put_chunk(&other, b"description", ChunkBody::Bytes(&raw)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    bench.flip_bit(&first.key, bench.bytes(&first.key).len() * 8 - 9);
    let put = bench.repository.put_chunk(&later, b"description", ChunkBody::Bytes(&raw));
    assert_corrupt(put, &first.key, "what was stored has gone bad meanwhile");
}

#[test]
fn two_valid_parts_that_change_places_are_told_though_the_manifest_was_forged_to_fit() {
    for settings in every_form() {
        let bench = Bench::with(&settings);
        let good = store(&bench.repository, &sample(3 * PART_BYTES, 2)).unwrap();
        let mut forged = good.clone();
        let (first, second) = (&good.parts[0], &good.parts[1]);
        let form = bench.repository.codec.form();
        for (at, other) in [(0, second), (1, first)] {
            let name = layout::name_of_part(&good.parts[at].key);
            let key = layout::part(name, &other.sha256, form);
            bench.overwrite(&key, &bench.bytes(&other.key));
            forged.parts[at] = super::manifest::Part { key, ..other.clone() };
        }
        // Even the digest of the whole stream is made to fit.
        let raw = sample(3 * PART_BYTES, 2);
        forged.sha256 =
            sha256_hex(&[&raw[PART_BYTES..2 * PART_BYTES], &raw[..PART_BYTES], &raw[2 * PART_BYTES..]].concat());
        bench.overwrite(&layout::manifest(forged.instance, forged.backup), &sealed::render(&forged).unwrap());
        let forged: Manifest = bench.repository.read_manifest(forged.instance, forged.backup).unwrap();
        assert_corrupt(read(&bench.repository, &forged), &forged.parts[0].key, "read");
        for part in &forged.parts[..2] {
            assert_corrupt(bench.repository.verify_part(part), &part.key, "verified");
        }
        bench.repository.verify_part(&forged.parts[2]).unwrap();
    }
}

#[test]
fn two_valid_chunks_that_change_places_are_told_though_their_heads_were_forged_to_fit() {
    for settings in every_form() {
        let bench = Bench::with(&settings);
        let (one, two) =
            (put(&bench.repository, &sample(5_000, 7), 0), put(&bench.repository, &sample(5_000, 8), 5_000));
        let second = bench.bytes(&two.key);
        let (mut head, _) = bench.repository.read_chunk(&two.key, &two.facts.sha256).unwrap();
        // The second's bytes with a head that puts them into the first's place.
        (head.facts.begin, head.facts.end) = (one.facts.begin, one.facts.end);
        let frame = head.frame(head.frame_bytes().unwrap()).unwrap();
        let key = layout::chunk(&head.facts, head.form());
        bench.overwrite(&key, &[&frame[..], &second[head_end(&second)..]].concat());
        let forged = Chunk { facts: head.facts, key: key.clone(), stored_bytes: 0 };
        assert_corrupt(read_chunk(&bench.repository, &forged), &key, "read");
        assert_corrupt(bench.repository.verify_chunk(&forged), &key, "verified");
        let err = read_chunk(&bench.repository, &forged).unwrap_err();
        assert!(err.message().contains(&layout::chunk_name(&two.facts)), "it says whose bytes they are: {err}");
    }
}

#[test]
fn any_flipped_bit_of_a_chunk_is_seen_with_and_without_the_identity() {
    let key = Key::new();
    for compression in Compression::ALL {
        let bench = Bench::with(&Settings { compression, ..key.settings() });
        let opened = bench.reopened(&Settings { compression, ..key.settings_with_identity() });
        let raw = sample(600, 5);
        let chunk = put(&bench.repository, &raw, 0);
        let good = bench.bytes(&chunk.key);
        let head_bits = head_end(&good) * 8;
        for bit in (0..good.len() * 8).filter(|bit| bit % 11 == 0 || (head_bits..head_bits + 400).contains(bit)) {
            bench.flip_bit(&chunk.key, bit);
            let what = format!("bit {bit} of {head_bits} and more");
            let outcomes = [
                bench.repository.verify_chunk(&chunk).map(|_| ()),
                opened.verify_chunk(&chunk).map(|_| ()),
                opened.read_chunk_verified(&chunk.key, &chunk.facts.sha256, u64::MAX).map(|_| ()),
            ];
            for outcome in outcomes {
                match outcome {
                    Err(err) if err.kind() == ErrorKind::Unsupported => assert!(err.message().contains("format")),
                    outcome => assert_corrupt(outcome, &chunk.key, &what),
                }
            }
            bench.overwrite(&chunk.key, &good);
        }
        for cut in (0..good.len()).step_by(7) {
            bench.overwrite(&chunk.key, &good[..cut]);
            assert_corrupt(bench.repository.verify_chunk(&chunk), &chunk.key, "cut");
            assert_corrupt(read_chunk(&opened, &chunk), &chunk.key, "cut");
        }
        bench.overwrite(&chunk.key, &[&good[..], b"t"].concat());
        assert_corrupt(bench.repository.verify_chunk(&chunk), &chunk.key, "grown");
        assert_corrupt(read_chunk(&opened, &chunk), &chunk.key, "grown");
    }
}

#[test]
fn a_store_that_fails_while_something_is_decrypted_is_not_taken_for_damage() {
    let key = Key::new();
    let bench = Bench::with(&key.settings_with_identity());
    let chunk = put(&bench.repository, &sample(500_000, 9), 0);
    let head_bytes = head_end(&bench.bytes(&chunk.key)) as u64;
    for bytes in [0, 5, head_bytes, head_bytes + 2, head_bytes + 100, head_bytes + 250, 300_000] {
        let (repository, _) = bench.with_fault(Fault::ResetAfter(bytes));
        let err = read_chunk(&repository, &chunk).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable, "after {bytes}: {err}");
        assert_eq!(repository.verify_chunk(&chunk).unwrap_err().kind(), ErrorKind::Unavailable, "after {bytes}");
        let (repository, _) = bench.with_fault(Fault::EndAfter(bytes));
        assert_corrupt(read_chunk(&repository, &chunk), &chunk.key, "ended early");
        assert_corrupt(repository.verify_chunk(&chunk), &chunk.key, "ended early");
    }
}

#[test]
fn whoever_has_the_bucket_sees_no_table_and_no_row() {
    let key = Key::new();
    for compression in Compression::ALL {
        let bench = Bench::with(&Settings { compression, ..key.settings() });
        let raw = format!("INSERT INTO {SECRET} VALUES ('Eve')").repeat(10);
        let stored = store(&bench.repository, raw.as_bytes()).unwrap();
        let chunk = put(&bench.repository, raw.as_bytes(), 0);
        let mut keys: Vec<String> = stored.parts.iter().map(|part| part.key.clone()).collect();
        keys.extend([chunk.key, layout::manifest(stored.instance, stored.backup)]);
        for key in keys {
            let bytes = bench.bytes(&key);
            let shown = String::from_utf8_lossy(&bytes);
            for word in [SECRET, "secret_customers", "Eve", "INSERT"] {
                assert!(!shown.contains(word), "`{key}` shows {word}");
            }
        }
    }
}
