//! An unpacking that is cut off anywhere goes on from its last checkpoint and makes the same files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::tests::{chunk, end, file, piece, tree};
use super::*;
use crate::error::ErrorKind;
use crate::testing::TempDir;

/// Files that are interleaved, in directories, empty, and long open.
fn stream() -> Vec<u8> {
    let mut stream = Vec::new();
    for round in 0..12_u8 {
        stream.extend(piece("ibdata1", u64::from(round) * 700, &[round + 1; 700]));
        stream.extend(file(&format!("db{}/t{round}.ibd", round % 3), &vec![round; 300 * usize::from(round)]));
        if round == 3 {
            stream.extend(piece("ib_logfile0", 0, b"long open"));
            stream.extend(end("db1/empty"));
        }
        if (2..5).contains(&round) {
            let bytes = if round == 3 { [7; 5000] } else { [0; 5000] };
            stream.extend(chunk(FLAG_HOLES, b'P', b"db0/holes", Some((u64::from(round - 2) * 5000, &bytes))));
        }
        if round == 8 {
            stream.extend(end("db0/holes"));
            stream.extend(chunk(1, b'X', b"future", Some((0, b"skipped"))));
            stream.extend(piece("ib_logfile0", 9, b" and longer"));
        }
    }
    [stream, end("ibdata1"), end("ib_logfile0"), file("info", b"the last")].concat()
}

struct Place {
    scratch: TempDir,
    dir: PathBuf,
    ledger: PathBuf,
}

impl Place {
    fn new() -> Place {
        let scratch = TempDir::new();
        let (dir, ledger) = (scratch.join("new"), scratch.join("ledger"));
        fs::create_dir(&dir).unwrap();
        Place { scratch, dir, ledger }
    }

    fn target(&self, checkpoint_bytes: u64) -> Target<'_> {
        Target { dir: &self.dir, ledger: &self.ledger, stream: "this stream", checkpoint_bytes }
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        last_checkpoint(&self.dir, &self.ledger, "this stream").unwrap()
    }

    fn unpack(&self, stream: impl Read, from: &Checkpoint, every: u64) -> Result<Unpacked, Error> {
        unpack(stream, &self.target(every), from, &AtomicU64::new(0), &AtomicBool::new(false))
    }

    /// Unpacks up to this byte, where the reader fails.
    fn cut_off(&self, stream: &[u8], from: &Checkpoint, every: u64) {
        let err = self.unpack(stream.chain(Gone), from, every).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unavailable);
    }
}

struct Gone;

impl Read for Gone {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other(Error::new(ErrorKind::Unavailable, "gone")))
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

fn expected(stream: &[u8]) -> (BTreeMap<String, Vec<u8>>, Unpacked) {
    let place = Place::new();
    let made = place.unpack(stream, &Checkpoint::default(), u64::MAX).unwrap();
    (tree(&place.dir), made)
}

#[test]
fn cut_off_anywhere_it_goes_on_and_makes_the_same() {
    let stream = stream();
    let (files, made) = expected(&stream);
    let mut went_on = 0;
    for cut in (0..stream.len()).step_by(797).chain([stream.len() - 1]) {
        for every in [1, 1500, 20_000] {
            let place = Place::new();
            place.cut_off(&stream[..cut], &Checkpoint::default(), every);
            let from = place.checkpoint().unwrap_or_default();
            assert!(from.offset <= cut as u64);
            if from.offset == 0 {
                continue;
            }
            went_on += 1;
            let progress = AtomicU64::new(from.offset);
            let rest = &stream[at(from.offset)..];
            let again = unpack(rest, &place.target(every), &from, &progress, &AtomicBool::new(false)).unwrap();
            assert_eq!(again, made, "cut at {cut}, from {}", from.offset);
            assert!(tree(&place.dir) == files, "cut at {cut}, from {}", from.offset);
            assert_eq!(progress.load(Ordering::SeqCst), stream.len() as u64);
        }
    }
    assert!(went_on > 40, "{went_on}");
}

#[test]
fn cut_off_again_and_again_it_comes_to_its_end() {
    let stream = stream();
    let (files, made) = expected(&stream);
    let place = Place::new();
    let mut from = Checkpoint::default();
    for cut in (2000..stream.len()).step_by(1111) {
        place.cut_off(&stream[at(from.offset)..cut], &from, 500);
        from = place.checkpoint().unwrap();
    }
    assert!(stream.len() - at(from.offset) < 5000, "{}", from.offset);
    assert_eq!(place.unpack(&stream[at(from.offset)..], &from, 500).unwrap(), made);
    assert!(tree(&place.dir) == files);
}

#[test]
fn directories_without_number_are_synced_as_they_come() {
    let stream: Vec<u8> = (0..75).flat_map(|nth| end(&format!("{nth}/2/3/4/5/6/7/8/9/10/11/12/13/14/15/x"))).collect();
    let place = Place::new();
    place.cut_off(&stream, &Checkpoint::default(), u64::MAX);
    let from = place.checkpoint().unwrap();
    assert!(from.offset > 0 && from.open.is_empty(), "their names are kept until the end of the stream");
}

#[test]
fn what_is_not_as_noted_is_not_gone_on_with() {
    let stream = stream();
    let cut = stream.len() - 100;
    let begun = || {
        let place = Place::new();
        place.cut_off(&stream[..cut], &Checkpoint::default(), 1);
        place
    };
    let refused = |what: &str, change: &dyn Fn(&Place)| {
        let place = begun();
        change(&place);
        assert_eq!(place.checkpoint(), None, "{what}");
    };
    refused("no ledger", &|place| fs::remove_file(&place.ledger).unwrap());
    refused("a file is missing", &|place| fs::remove_file(place.dir.join("db0/t3.ibd")).unwrap());
    refused("a file is shorter", &|place| shorten(&place.dir.join("db0/t3.ibd")));
    refused("an open file is shorter", &|place| shorten(&place.dir.join("ibdata1")));
    refused("an open file is missing", &|place| fs::remove_file(place.dir.join("ib_logfile0")).unwrap());
    refused("a link in the place of a file", &|place| {
        let path = place.dir.join("db0/t3.ibd");
        fs::rename(&path, place.scratch.join("t3")).unwrap();
        std::os::unix::fs::symlink(place.scratch.join("t3"), &path).unwrap();
    });
    refused("an empty ledger", &|place| write(&place.ledger, b""));
    refused("no JSON", &|place| write(&place.ledger, b"\0\0\0\n"));
    for (member, number) in [("files", u64::MAX), ("bytes", u64::MAX), ("bytes", 1), ("offset", 0)] {
        refused("numbers that do not add up", &|place| {
            let text = fs::read_to_string(&place.ledger).unwrap();
            let (before, last) = text.trim_end().rsplit_once('\n').unwrap();
            let mut last: serde_json::Value = serde_json::from_str(last).unwrap();
            last["checkpoint"][member] = number.into();
            write(&place.ledger, format!("{before}\n{last}\n").as_bytes());
        });
    }
    refused("a newer format", &|place| {
        let text = fs::read_to_string(&place.ledger).unwrap();
        write(&place.ledger, text.replacen("\"format\":1", "\"format\":2", 1).as_bytes());
    });
    let place = begun();
    assert_eq!(last_checkpoint(&place.dir, &place.ledger, "another stream").unwrap(), None);
    assert!(place.checkpoint().is_some());
}

fn write(path: &Path, bytes: &[u8]) {
    crate::durable::write(path, bytes, 0o600).unwrap();
}

fn shorten(path: &Path) {
    let length = fs::metadata(path).unwrap().len();
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
}

#[test]
fn a_ledger_that_ends_anywhere_leads_to_an_earlier_checkpoint() {
    let stream = stream();
    let (files, made) = expected(&stream);
    let place = Place::new();
    place.cut_off(&stream[..stream.len() - 10], &Checkpoint::default(), 1000);
    let whole = fs::read(&place.ledger).unwrap();
    let kept = tree(&place.dir);
    for cut in (0..whole.len()).step_by(41) {
        let place = Place::new();
        for (path, bytes) in &kept {
            match path.strip_suffix('/') {
                Some(dir) => fs::create_dir_all(place.dir.join(dir)).unwrap(),
                None => write(&place.dir.join(path), bytes),
            }
        }
        write(&place.ledger, &whole[..cut]);
        let Some(from) = place.checkpoint() else { continue };
        assert_eq!(place.unpack(&stream[at(from.offset)..], &from, 1000).unwrap(), made, "ledger of {cut} bytes");
        let modes = tree(&place.dir);
        assert!(modes == files, "ledger of {cut} bytes");
    }
}
