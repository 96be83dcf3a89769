//! Writes the files of a dump as one stream in the format of `datastore::xbstream`, each in pieces as it grows.

use std::collections::BTreeMap;

/// A piece is not longer, so that neither writer nor reader holds more of a file.
const PIECE_BYTES: usize = 256 * 1024;

/// The stream so far, until somebody takes it, and the files that have not ended.
#[derive(Default)]
pub(super) struct Members {
    stream: Vec<u8>,
    open: BTreeMap<String, Open>,
}

#[derive(Default)]
struct Open {
    offset: u64,
    piece: Vec<u8>,
}

impl Members {
    /// Appends to a file, which begins with that.
    pub(super) fn write(&mut self, path: &str, mut bytes: &[u8]) {
        if !self.open.contains_key(path) {
            self.open.insert(path.to_owned(), Open::default());
        }
        let Some(open) = self.open.get_mut(path) else { return };
        while open.piece.len() + bytes.len() >= PIECE_BYTES {
            let (head, rest) = bytes.split_at(PIECE_BYTES - open.piece.len());
            open.piece.extend_from_slice(head);
            open.flush(path, &mut self.stream);
            bytes = rest;
        }
        open.piece.extend_from_slice(bytes);
    }

    /// Ends a file. One that was never written to is none.
    pub(super) fn end(&mut self, path: &str) {
        let Some(mut open) = self.open.remove(path) else { return };
        if !open.piece.is_empty() {
            open.flush(path, &mut self.stream);
        }
        chunk_head(b'E', path, &mut self.stream);
    }

    /// Ends all files.
    pub(super) fn finish(&mut self) {
        for path in self.open.keys().cloned().collect::<Vec<_>>() {
            self.end(&path);
        }
    }

    /// What has become of the stream since the last time.
    pub(super) fn take(&mut self, into: &mut Vec<u8>) {
        into.clear();
        std::mem::swap(into, &mut self.stream);
    }
}

impl Open {
    fn flush(&mut self, path: &str, stream: &mut Vec<u8>) {
        chunk_head(b'P', path, stream);
        stream.extend((self.piece.len() as u64).to_le_bytes());
        stream.extend(self.offset.to_le_bytes());
        stream.extend(crc32fast::hash(&self.piece).to_le_bytes());
        stream.extend_from_slice(&self.piece);
        self.offset += self.piece.len() as u64;
        self.piece.clear();
    }
}

fn chunk_head(kind: u8, path: &str, stream: &mut Vec<u8>) {
    stream.extend_from_slice(b"XBSTCK01");
    stream.extend([0, kind]);
    // Paths are made here and short.
    stream.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
    stream.extend_from_slice(path.as_bytes());
}

/// A name as part of a file's name: letters, digits and a few signs stay. Others, which a shell or an archive could
/// take for more than a name, become `_`. A number before it makes it unique.
pub(super) fn file_name(number: u64, schema: &str, name: &str) -> String {
    const CHARS_MAX: usize = 80;
    let plain = |text: &str| {
        let chars = text.chars().take(CHARS_MAX);
        chars.map(|c| if c.is_ascii_alphanumeric() || "_-$".contains(c) { c } else { '_' }).collect::<String>()
    };
    format!("{number:06}-{}.{}.sql", plain(schema), plain(name))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use super::*;
    use crate::datastore::xbstream::{Checkpoint, Target, unpack};
    use crate::testing::TempDir;

    #[test]
    fn the_stream_unpacks_to_what_was_written() {
        let mut members = Members::default();
        let big: Vec<u8> = (0..1_000_003_u32).map(|n| n.to_le_bytes()[0]).collect();
        members.write("long", b"a");
        for piece in big.chunks(99_991) {
            members.write("data/big", piece);
            members.write("long", b"b");
        }
        members.end("data/big");
        members.write("exact", &big[..PIECE_BYTES]);
        members.write("empty", b"");
        members.finish();
        let (mut stream, dir) = (Vec::new(), TempDir::new());
        members.take(&mut stream);
        let ledger = dir.join("ledger");
        let target = Target { dir: &dir, ledger: &ledger, stream: "s", checkpoint_bytes: u64::MAX };
        unpack(&stream[..], &target, &Checkpoint::default(), &AtomicU64::new(0), &AtomicBool::new(false)).unwrap();
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
        assert!(read("data/big") == big && read("exact") == big[..PIECE_BYTES]);
        assert_eq!((read("long"), read("empty")), (b"abbbbbbbbbbb".to_vec(), b"".to_vec()));
    }

    #[test]
    fn file_names_are_harmless_and_unique() {
        assert_eq!(file_name(7, "a/../b", "x\n'`\\é$"), "000007-a____b.x_____$.sql");
        assert!(file_name(1, &"x".repeat(300), &"é".repeat(300)).len() < 200);
    }
}
