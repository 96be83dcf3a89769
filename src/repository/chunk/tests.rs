use std::process::{Command, Stdio};

use jiff::Timestamp;

use super::*;
use crate::domain::compression::Compression;
use crate::domain::gtid::{BinlogState, GtidPosition};
use crate::repository::bench::{Bench, sample};
use crate::repository::{Settings, hex, sha256_hex};
use crate::storage::faulty::Fault;

pub(in crate::repository) fn facts(raw: &[u8], begin: u64) -> ChunkFacts {
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
        transactions: 2,
        first_gtid: Some("0-11-1".parse().unwrap()),
        last_gtid: Some("0-11-2".parse().unwrap()),
        ranges: Vec::new(),
        position_after: "0-11-2".parse::<GtidPosition>().unwrap(),
        state_after: "0-11-2".parse::<BinlogState>().unwrap(),
        clock_before: 0,
        first_commit: Some(1_700_000_000),
        last_commit: Some(1_700_000_001),
        observed_at: Timestamp::from_second(1_700_000_002).unwrap(),
    }
}

fn put(bench: &Bench, raw: &[u8], begin: u64) -> Chunk {
    bench.repository.put_chunk(&facts(raw, begin), b"\x01description", ChunkBody::Bytes(raw)).unwrap()
}

fn read(repository: &Repository, chunk: &Chunk) -> Result<Vec<u8>, Error> {
    repository.read_chunk_verified(&chunk.key, &chunk.facts.sha256, u64::MAX).map(|(_, raw)| raw)
}

/// Where the head of an object ends.
fn head_end(object: &[u8]) -> usize {
    8 + u32::from_le_bytes(object[4..8].try_into().unwrap()) as usize
}

#[test]
fn a_chunk_comes_back_with_its_head() {
    let bench = Bench::new();
    let raw = sample(300_000, 1);
    let chunk = put(&bench, &raw, 256);
    assert_eq!(
        chunk.key,
        format!(
            "instances/00000000-0000-4000-8000-000000000001/binlog/00000000-0000-4000-8000-000000000002/\
             00000007-000000000256-000000300256-{}.binlog.zst",
            &sha256_hex(&raw)[..16]
        )
    );
    assert_eq!(chunk.stored_bytes, bench.bytes(&chunk.key).len() as u64);
    let (head, mut reader) = bench.repository.read_chunk(&chunk.key, &chunk.facts.sha256).unwrap();
    assert_eq!((head.facts, head.description), (facts(&raw, 256), hex(b"\x01description")));
    let mut read_back = Vec::new();
    reader.read_to_end(&mut read_back).unwrap();
    assert_eq!(read_back, raw);
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    let refused = bench.repository.read_chunk_verified(&chunk.key, &chunk.facts.sha256, 299_999).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_range_of_a_file_is_stored_as_its_bytes_are_in_memory_or_spilled() {
    let bench = Bench::new();
    for length in [1_000_000, usize::try_from(MEMORY_BYTES_MAX).unwrap() + 4242] {
        let raw = sample(length, 2);
        let path = bench.scratch.join(format!("binlog-{length}"));
        crate::durable::write(&path, &raw, 0o600).unwrap();
        let file = File::open(&path).unwrap();
        let (begin, end) = (4000_u64, length as u64 - 17);
        let piece = &raw[4000..length - 17];
        let facts = facts(piece, begin);
        let chunk = bench.repository.put_chunk(&facts, b"", ChunkBody::Range { file: &file, begin, end }).unwrap();
        assert!(read(&bench.repository, &chunk).unwrap() == piece);
        let again = bench.repository.put_chunk(&facts, b"", ChunkBody::Bytes(piece)).unwrap();
        assert_eq!(again, chunk);
    }
    let left: Vec<_> = std::fs::read_dir(&*bench.scratch).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".tmp")), "{left:?}");
}

#[test]
fn bytes_that_are_not_those_examined_are_not_stored() {
    let bench = Bench::new();
    let raw = sample(10_000, 3);
    let facts_of_raw = facts(&raw, 0);
    let mut other = raw.clone();
    other[5000] ^= 1;
    let path = bench.scratch.join("short");
    crate::durable::write(&path, &raw[..9_000], 0o600).unwrap();
    let short = File::open(&path).unwrap();
    for body in [
        ChunkBody::Bytes(&other),
        ChunkBody::Bytes(&raw[..9_999]),
        ChunkBody::Range { file: &short, begin: 0, end: 10_000 },
        ChunkBody::Range { file: &short, begin: 0, end: 9_000 },
    ] {
        assert_eq!(bench.repository.put_chunk(&facts_of_raw, b"", body).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let empty = facts(b"", 0);
    assert_eq!(bench.repository.put_chunk(&empty, b"", ChunkBody::Bytes(b"")).unwrap_err().kind(), ErrorKind::Internal);
    assert!(bench.repository.instances().unwrap().is_empty());
}

#[test]
fn a_chunk_stored_by_an_attempt_that_was_cut_off_is_found_and_another_is_a_conflict() {
    let bench = Bench::new();
    let raw = sample(10_000, 4);
    let first = put(&bench, &raw, 0);
    let later = ChunkFacts { observed_at: Timestamp::from_second(1_800_000_000).unwrap(), ..facts(&raw, 0) };
    let again = bench.repository.put_chunk(&later, b"\x01description", ChunkBody::Bytes(&raw)).unwrap();
    assert_eq!(again, first);
    let other = ChunkFacts { follows: Some("f".repeat(64)), ..facts(&raw, 0) };
    let err = bench.repository.put_chunk(&other, b"", ChunkBody::Bytes(&raw)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Conflict);
    assert!(read(&bench.repository, &first).unwrap() == raw);
}

#[test]
fn any_flipped_bit_is_corrupt_and_names_the_object() {
    let bench = Bench::new();
    let raw = sample(600, 5);
    let chunk = put(&bench, &raw, 0);
    let good = bench.bytes(&chunk.key);
    let mut without_meaning = 0;
    for bit in 0..good.len() * 8 {
        // All of the frame headers, and a sample of the rest.
        if (128..good.len() * 8 - 256).contains(&bit) && bit % 13 != 0 {
            continue;
        }
        bench.flip_bit(&chunk.key, bit);
        match read(&bench.repository, &chunk) {
            // A zstd frame header has one bit that decoders must ignore.
            Ok(read_back) => {
                assert!(read_back == raw, "bit {bit} went unseen");
                without_meaning += 1;
            }
            Err(err) => {
                let newer = err.kind() == ErrorKind::Unsupported && err.message().contains("format");
                assert!(err.kind() == ErrorKind::Corrupt || newer, "bit {bit}: {err}");
                assert!(err.message().contains(&chunk.key), "bit {bit}: {err}");
            }
        }
        bench.overwrite(&chunk.key, &good);
    }
    assert!(without_meaning <= 1, "{without_meaning} bits");
}

#[test]
fn a_cut_chunk_is_corrupt_wherever_it_is_cut() {
    let bench = Bench::new();
    let chunk = put(&bench, &sample(3_000, 6), 0);
    let good = bench.bytes(&chunk.key);
    for cut in 0..good.len() {
        bench.overwrite(&chunk.key, &good[..cut]);
        assert_eq!(read(&bench.repository, &chunk).unwrap_err().kind(), ErrorKind::Corrupt, "cut at {cut}");
    }
    bench.overwrite(&chunk.key, &[&good[..], b"tail"].concat());
    assert_eq!(read(&bench.repository, &chunk).unwrap_err().kind(), ErrorKind::Corrupt);
    bench.remove(&chunk.key);
    assert_eq!(read(&bench.repository, &chunk).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_swapped_chunk_is_seen_by_name_by_digest_and_by_content() {
    let bench = Bench::new();
    let (one, two) = (put(&bench, &sample(5_000, 7), 0), put(&bench, &sample(5_000, 8), 5_000));
    let by_digest = bench.repository.read_chunk(&one.key, &two.facts.sha256).err().unwrap();
    assert_eq!(by_digest.kind(), ErrorKind::Corrupt);
    let (first, second) = (bench.bytes(&one.key), bench.bytes(&two.key));
    bench.overwrite(&one.key, &second);
    assert_eq!(read(&bench.repository, &one).unwrap_err().kind(), ErrorKind::Corrupt);
    bench.overwrite(&one.key, &[&first[..head_end(&first)], &second[head_end(&second)..]].concat());
    assert_eq!(read(&bench.repository, &one).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_chunk_that_unpacks_to_more_than_it_says_is_stopped() {
    let bench = Bench::new();
    let chunk = put(&bench, &[0; 1000], 0);
    let object = bench.bytes(&chunk.key);
    let mut bomb = Vec::new();
    let mut packer = bench.repository.codec.packer().unwrap();
    packer.pack(&layout::chunk_name(&chunk.facts), &vec![0; 50_000_000], &mut bomb).unwrap();
    bench.overwrite(&chunk.key, &[&object[..head_end(&object)], &bomb].concat());
    let (_, mut reader) = bench.repository.read_chunk(&chunk.key, &chunk.facts.sha256).unwrap();
    let read = io::copy(&mut reader, &mut io::sink()).unwrap_err();
    assert_eq!(error_of(read, "").kind(), ErrorKind::Corrupt);
}

#[test]
fn a_newer_chunk_is_refused_by_its_number() {
    let bench = Bench::new();
    let chunk = put(&bench, b"raw", 0);
    let (head, _) = bench.repository.read_chunk(&chunk.key, &chunk.facts.sha256).unwrap();
    let newer = ChunkHead { format: 2, ..head };
    bench.overwrite(&chunk.key, &newer.frame(newer.frame_bytes().unwrap()).unwrap());
    let err = read(&bench.repository, &chunk).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert!(err.message().contains("format 2"));
}

#[test]
fn a_store_that_fails_is_not_taken_for_damage_but_a_short_read_is() {
    let bench = Bench::new();
    let chunk = put(&bench, &sample(500_000, 9), 0);
    for bytes in [0, 5, 100, 100_000] {
        let (repository, _) = bench.with_fault(Fault::ResetAfter(bytes));
        assert_eq!(read(&repository, &chunk).unwrap_err().kind(), ErrorKind::Unavailable, "after {bytes}");
        let (repository, _) = bench.with_fault(Fault::EndAfter(bytes));
        assert_eq!(read(&repository, &chunk).unwrap_err().kind(), ErrorKind::Corrupt, "after {bytes}");
    }
    // The store fails at each operation of a put in turn; a repeat always mends it.
    let raw = sample(20_000, 10);
    let facts = facts(&raw, 600_000);
    for nth in 0..10 {
        let (repository, store) = bench.with_fault(Fault::FailFrom(nth));
        let put = repository.put_chunk(&facts, b"", ChunkBody::Bytes(&raw));
        if store.operations() <= nth {
            assert!(put.is_ok() && nth > 1);
            return;
        }
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Unavailable);
        let chunk = bench.repository.put_chunk(&facts, b"", ChunkBody::Bytes(&raw)).unwrap();
        assert!(read(&bench.repository, &chunk).unwrap() == raw);
        bench.remove(&chunk.key);
    }
    panic!("more operations than a put should need");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the tool an operator would use by hand")]
fn the_zstd_tool_makes_the_binlog_file_of_its_chunks() {
    for compression in Compression::ALL {
        let bench = Bench::with(&Settings { compression, ..Settings::default() });
        let raw = sample(70_000, 11);
        let mut keys: Vec<String> = Vec::new();
        for (n, piece) in raw.chunks(20_000).enumerate() {
            keys.push(put(&bench, piece, n as u64 * 20_000).key);
        }
        keys.sort();
        let script = format!("cat {} | zstd -dc", keys.join(" "));
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(bench.scratch.join("repository"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "is the zstd tool installed?");
        assert!(output.stdout == raw, "{compression:?}");
    }
}
