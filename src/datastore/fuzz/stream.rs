//! Streams, changed chunk by chunk.

use std::collections::{BTreeMap, HashMap};

use super::{Scratch, tree};
use crate::datastore::xbstream::{Checkpoint, StreamTap, last_checkpoint};
use crate::error::{Error, ErrorKind};
use crate::testing::fuzz::{Dice, Target, golden, mutate};

const MAGIC: &[u8; 8] = b"XBSTCK01";
const PAYLOAD_HEAD_BYTES: usize = 20;

/// A chunk taken apart.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    flags: u8,
    kind: u8,
    path: Vec<u8>,
    payload: Option<Payload>,
}

#[derive(Debug, Clone, Default)]
struct Payload {
    offset: u64,
    /// Bytes of gap and bytes behind it, in a piece with gaps.
    map: Vec<(u32, u32)>,
    bytes: Vec<u8>,
}

impl Chunk {
    pub(super) fn all_of(mut stream: &[u8]) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        while let Some(rest) = stream.strip_prefix(MAGIC) {
            let (flags, kind) = (rest[0], rest[1]);
            let path_bytes = u32::from_le_bytes(rest[2..6].try_into().unwrap()) as usize;
            let (path, rest) = rest[6..].split_at(path_bytes);
            let mut chunk = Chunk { flags, kind, path: path.to_vec(), payload: None };
            stream = rest;
            if kind == b'P' {
                let number = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
                let (bytes, behind) = rest[PAYLOAD_HEAD_BYTES..].split_at(number(0) as usize);
                chunk.payload = Some(Payload { offset: number(8), map: Vec::new(), bytes: bytes.to_vec() });
                stream = behind;
            }
            chunks.push(chunk);
        }
        assert!(stream.is_empty(), "a golden stream is whole");
        chunks
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        out.extend([self.flags, self.kind]);
        out.extend((self.path.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.path);
        if let Some(Payload { offset, map, bytes }) = &self.payload {
            let mut summed: Vec<u8> =
                map.iter().flat_map(|(skip, length)| [skip.to_le_bytes(), length.to_le_bytes()].concat()).collect();
            summed.extend_from_slice(bytes);
            if self.kind == b'S' {
                out.extend((map.len() as u32).to_le_bytes());
            }
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(offset.to_le_bytes());
            out.extend(crc32fast::hash(&summed).to_le_bytes());
            out.extend_from_slice(&summed);
        }
    }

    /// Makes it a piece with gaps, around bytes of these lengths.
    fn with_gaps(&mut self, dice: &mut Dice) {
        let Some(payload) = &mut self.payload else { return };
        self.kind = b'S';
        payload.map.clear();
        let mut left = payload.bytes.len();
        let entries = dice.below_or(6, 60, 4_000);
        for _ in 0..entries {
            let length = dice.range(left).len();
            let skip = if dice.one_in(20) { dice.number() as u32 } else { 512 * dice.below(10) as u32 };
            payload.map.push((skip, length as u32));
            left -= length;
        }
        if !dice.one_in(10) {
            payload.map.push((dice.below(3) as u32, left as u32));
        }
    }
}

pub(super) fn corpus() -> Vec<Vec<Chunk>> {
    golden("xbstream", ".xbstream").iter().map(|stream| Chunk::all_of(stream)).collect()
}

fn path(dice: &mut Dice) -> Vec<u8> {
    const PATHS: [&str; 20] = [
        "../beside",
        "/coffer-fuzz-absolute",
        "shop/../../beside",
        "shop/./t",
        "shop//t",
        "shop",
        "shop/t.frm",
        "shop/t.frm/x",
        ".",
        "..",
        "a",
        "A",
        "xtrabackup_binlog_info",
        "../../above",
        "a\\b",
        "\u{202e}gnp",
        "a\0b",
        "a\nb",
        "~",
        "ledger",
    ];
    match dice.below(8) {
        0 => b"d/".repeat(1 + dice.below_or(16, 8, 254)).into_iter().chain(*b"x").collect(),
        1 => vec![b'n'; 200 + dice.below(320)],
        2 => b"coffer_empty_directories".to_vec(),
        3 => format!("d{}/f{}", dice.below(20), dice.below(2000)).into_bytes(),
        _ => dice.pick(&PATHS).as_bytes().to_vec(),
    }
}

/// A stream with some of its chunks changed; checksums and places are right again, mostly.
pub(super) fn changed(dice: &mut Dice, corpus: &[Vec<Chunk>]) -> Vec<u8> {
    let mut chunks = dice.pick(corpus).clone();
    let other = dice.pick(corpus).clone();
    for _ in 0..=dice.below(5) {
        if dice.one_in(3) || chunks.is_empty() {
            mutate::shuffle(dice, &mut chunks, &other);
            continue;
        }
        let at = dice.below(chunks.len());
        let chunk = &mut chunks[at];
        match dice.below(10) {
            0 => chunk.path = path(dice),
            1 => mutate::change(dice, &mut chunk.path, b"/../x"),
            2 => chunk.flags = dice.byte(),
            3 => chunk.kind = if dice.one_in(2) { b'X' } else { dice.byte() },
            4 => {
                let made = Chunk { flags: 0, kind: b'E', path: path(dice), payload: None };
                let times = dice.below_or(2, 200, 3_000);
                let many = (0..times).map(|nth| {
                    let mut one = made.clone();
                    // Each in directories of its own.
                    one.path.splice(0..0, format!("d{nth}/").into_bytes());
                    one
                });
                let many: Vec<Chunk> = many.chain([made.clone()]).collect();
                chunks.splice(at..at, many);
            }
            5 => {
                // Files that are begun and never end.
                let times = dice.below_or(4, 40, 700);
                let begun = |nth| Chunk {
                    flags: 0,
                    kind: b'P',
                    path: format!("o{nth}").into_bytes(),
                    payload: Some(Payload { bytes: vec![1], ..Payload::default() }),
                };
                let begun: Vec<Chunk> = (0..times).map(begun).collect();
                chunks.splice(at..at, begun);
            }
            6 | 7 => chunk.with_gaps(dice),
            8 => {
                let lines: String =
                    (0..dice.below_or(9, 9, 3_000)).map(|nth| format!("e{}/{nth}\n", nth % 7)).collect();
                let path = b"coffer_empty_directories".to_vec();
                let bytes = if dice.one_in(3) { dice.bytes(50) } else { lines.into_bytes() };
                let payload = Some(Payload { bytes, ..Payload::default() });
                let end = Chunk { flags: 0, kind: b'E', path: path.clone(), payload: None };
                chunks.splice(at..at, [Chunk { flags: 0, kind: b'P', path, payload }, end]);
            }
            _ => {
                if let Some(Payload { offset, bytes, .. }) = &mut chunk.payload {
                    match dice.below(4) {
                        0 => *offset = dice.number(),
                        1 => bytes.clear(),
                        _ => mutate::change(dice, bytes, MAGIC),
                    }
                }
            }
        }
    }
    if !dice.one_in(6) {
        place(&mut chunks);
    }
    let mut stream = Vec::new();
    chunks.iter().for_each(|chunk| chunk.write(&mut stream));
    if dice.one_in(5) {
        mutate::change(dice, &mut stream, MAGIC);
    }
    stream
}

/// Lets each piece begin where the one before it ends.
fn place(chunks: &mut [Chunk]) {
    let mut ends: HashMap<Vec<u8>, u64> = HashMap::new();
    for chunk in chunks {
        if let (Some(Payload { offset, map, bytes }), b'P' | b'S') = (&mut chunk.payload, chunk.kind) {
            let end = ends.entry(chunk.path.clone()).or_default();
            *offset = *end;
            *end += bytes.len() as u64 + map.iter().map(|(skip, _)| u64::from(*skip)).sum::<u64>();
        }
    }
}

type Kept = Result<BTreeMap<String, Vec<u8>>, String>;

const KEPT: [&str; 3] = ["xtrabackup_binlog_info", "xtrabackup_info", "shop/db.opt"];

fn tap(stream: &[u8], names: &[&str], piece_bytes: usize) -> Kept {
    let mut tap = StreamTap::new(names);
    let mut push = |mut bytes: &[u8]| -> Result<(), Error> {
        while !bytes.is_empty() {
            let passed = tap.push(bytes)?;
            assert!(passed.bytes > 0 && passed.bytes <= bytes.len(), "a tap that takes nothing");
            bytes = &bytes[passed.bytes..];
        }
        Ok(())
    };
    let pushed = stream.chunks(piece_bytes).try_for_each(&mut push);
    if let Err(err) = &pushed {
        assert!(push(b"more").is_err(), "a stream that was found damaged goes on: {err}");
    }
    pushed.and_then(|()| tap.finish()).map_err(|err| err.to_string())
}

/// The look into a stream while a backup is made.
pub(super) struct Tap {
    corpus: Vec<Vec<Chunk>>,
}

impl Tap {
    pub(super) fn new() -> Tap {
        Tap { corpus: corpus() }
    }
}

impl Target for Tap {
    fn name(&self) -> &'static str {
        "xbstream-tap"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        changed(dice, &self.corpus)
    }

    fn read(&mut self, input: &[u8]) {
        let whole = tap(input, &KEPT, usize::MAX);
        let in_pieces = tap(input, &KEPT, 1 + input.len() % 97);
        assert_eq!(whole, in_pieces, "it depends on how the stream is cut");
        if let Ok(kept) = whole {
            assert!(kept.values().all(|file| file.len() <= 1 << 20), "a captured file is larger than it may be");
        }
    }

    fn memory_max(&self, input_bytes: usize) -> usize {
        (8 << 20) + 8 * input_bytes
    }
}

/// The unpacking of a stream, also one that is cut off and goes on.
pub(super) struct Unpack {
    corpus: Vec<Vec<Chunk>>,
    scratch: Scratch,
}

impl Unpack {
    pub(super) fn new() -> Unpack {
        Unpack { corpus: corpus(), scratch: Scratch::new() }
    }
}

impl Target for Unpack {
    fn name(&self) -> &'static str {
        "xbstream-unpack"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        changed(dice, &self.corpus)
    }

    fn read(&mut self, input: &[u8]) {
        const OFTEN: u64 = 700;
        let scratch = &self.scratch;
        let dir = scratch.fresh();
        let unpacked = scratch.unpack(input, &dir, &Checkpoint::default(), u64::MAX);
        scratch.check_beside(&dir);
        assert!(!std::path::Path::new("/coffer-fuzz-absolute").exists());
        let files = tree(&dir);
        let Ok(unpacked) = unpacked else { return };
        assert!(tap(input, &[], usize::MAX).is_ok(), "a tap finds fault with what can be unpacked");
        let bytes = files.values().map(|file| file.length).sum::<u64>();
        assert_eq!((unpacked.files, unpacked.bytes), (files.len() as u64, bytes));
        let cut = input.len() * (1 + input.len() % 7) / 9;
        let dir = scratch.fresh();
        let half = scratch.unpack(&input[..cut], &dir, &Checkpoint::default(), OFTEN);
        if let Err(err) = &half {
            assert_eq!(err.kind(), ErrorKind::Corrupt, "{err}");
        }
        let from = last_checkpoint(&dir, &scratch.ledger(), "fuzz").unwrap();
        let (from, dir) = from.map_or_else(|| (Checkpoint::default(), scratch.fresh()), |from| (from, dir));
        let rest = &input[usize::try_from(from.offset).unwrap()..];
        let made = scratch.unpack(rest, &dir, &from, OFTEN).unwrap();
        assert!(made == unpacked && tree(&dir) == files, "an unpacking that was cut off at {cut} made other files");
    }

    /// Its buffer, the target's own copies of what was unpacked, and names.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (16 << 20) + 24 * input_bytes
    }
}
