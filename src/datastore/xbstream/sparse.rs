//! A file that is written from its begin to its end, in which blocks of zeros become holes where they were holes.
//!
//! Not every block of zeros does: tables have many in pages that are half full, and a table full of small holes would be
//! slow, and could run out of disk in mid-write. It was a hole if the stream says so, or if the file's first page says
//! that its pages are compressed, which is what MariaDB's own `mbstream` goes by.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::parser::Zeros;

/// What a file system keeps apart at the least; a hole that is smaller saves nothing.
const BLOCK_BYTES: usize = 4096;
static BLOCK_OF_ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
/// As much of a tablespace tells its kind: up to and with `FSP_SPACE_FLAGS` in its first page.
const FLAGS_END: usize = 58;

/// The file and how far it is. Its length is only right after `settle_length`.
pub(super) struct Growing {
    file: File,
    /// All that has come.
    at: u64,
    /// The end of what was written; what came behind it are zeros.
    written: u64,
    /// The begin of a tablespace, until its flags are known.
    head: Vec<u8>,
    is_tablespace: bool,
    is_page_compressed: bool,
}

impl Growing {
    /// An empty file.
    pub(super) fn new(file: File, path: &str) -> Growing {
        let is_tablespace = path.ends_with(".ibd");
        Growing { file, at: 0, written: 0, head: Vec::new(), is_tablespace, is_page_compressed: false }
    }

    /// Goes on with a file of which so much had come; what is behind is cut off.
    pub(super) fn go_on(file: File, path: &str, at: u64) -> io::Result<Growing> {
        file.set_len(at)?;
        let mut growing = Growing { at, written: at, ..Growing::new(file, path) };
        let known = usize::try_from(at).unwrap_or(usize::MAX).min(FLAGS_END);
        let mut head = vec![0; known];
        growing.file.read_exact_at(&mut head, 0)?;
        growing.look_at(&head);
        Ok(growing)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }

    pub(super) fn write(&mut self, bytes: &[u8], zeros: Zeros) -> io::Result<()> {
        self.look_at(bytes);
        if zeros == Zeros::Written && !self.is_page_compressed {
            return self.put(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (holes, data) = rest.split_at(self.prefix(rest, true));
            self.at += holes.len() as u64;
            let (data, behind) = data.split_at(self.prefix(data, false));
            self.put(data)?;
            rest = behind;
        }
        Ok(())
    }

    /// Goes on behind so many zeros.
    pub(super) fn gap(&mut self, length: u64) {
        self.is_tablespace = false; // What comes is not its begin.
        self.at += length;
    }

    /// Gives the file the length it must have by now.
    pub(super) fn settle_length(&mut self) -> io::Result<()> {
        if self.at > self.written {
            self.file.set_len(self.at)?;
            self.written = self.at;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.written = self.at;
        Ok(())
    }

    /// How many bytes from here on are in blocks of zeros, or in blocks of others. A part of a block counts like one.
    fn prefix(&self, bytes: &[u8], are_zeros: bool) -> usize {
        let in_block = usize::try_from(self.at % BLOCK_BYTES as u64).unwrap_or(0);
        let mut end = 0;
        while end < bytes.len() {
            let length = (BLOCK_BYTES - (in_block + end) % BLOCK_BYTES).min(bytes.len() - end);
            let block = bytes.get(end..end + length).unwrap_or_default();
            if (Some(block) == BLOCK_OF_ZEROS.get(..length)) != are_zeros {
                break;
            }
            end += length;
        }
        end
    }

    /// Looks for the flags of a tablespace in the bytes that come next.
    fn look_at(&mut self, bytes: &[u8]) {
        if !self.is_tablespace {
            return;
        }
        let missing = FLAGS_END.saturating_sub(self.head.len());
        self.head.extend_from_slice(bytes.get(..missing.min(bytes.len())).unwrap_or_default());
        if let Some((_, flags)) = self.head.split_last_chunk::<4>().filter(|_| self.head.len() == FLAGS_END) {
            self.is_page_compressed = is_page_compressed(u32::from_be_bytes(*flags));
            self.is_tablespace = false;
        }
    }
}

/// What MariaDB's flags of a tablespace say. Bit 4 tells the newer layout, in which bits 5 to 7 name the compression;
/// in the older one bit 16 says that there is one. MySQL's flags have neither.
fn is_page_compressed(flags: u32) -> bool {
    if flags & 1 << 4 == 0 { flags & 1 << 16 != 0 } else { flags & 7 << 5 != 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::testing::TempDir;

    fn created(dir: &TempDir, name: &str) -> Growing {
        let options = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(dir.join(name));
        Growing::new(options.unwrap(), name)
    }

    /// A pattern with holes of every kind of place and size.
    fn content() -> Vec<u8> {
        let mut bytes = vec![0_u8; 300_000];
        for (begin, end) in [(0, 10), (8192, 8200), (20_000, 40_000), (100_000, 100_001), (200_703, 200_705)] {
            bytes[begin..end].fill(7);
        }
        bytes
    }

    #[test]
    fn holes_are_the_same_however_the_bytes_are_cut() {
        let (dir, content) = (TempDir::new(), content());
        let mut blocks = Vec::new();
        for size in [1000, 4096, 5000, 300_000] {
            let mut growing = created(&dir, &format!("{size}"));
            for bytes in content.chunks(size) {
                growing.write(bytes, Zeros::Holes).unwrap();
            }
            growing.settle_length().unwrap();
            let file = growing.into_file();
            file.sync_all().unwrap();
            blocks.push(file.metadata().unwrap().blocks());
            assert!(std::fs::read(dir.join(format!("{size}"))).unwrap() == content, "{size}");
        }
        assert!(blocks.iter().all(|count| *count == blocks[0]) && blocks[0] * 512 < 80_000, "{blocks:?}");
    }

    #[test]
    fn zeros_that_were_written_are_written() {
        let (dir, content) = (TempDir::new(), content());
        let mut growing = created(&dir, "t.ibd");
        growing.write(&content, Zeros::Written).unwrap();
        growing.settle_length().unwrap();
        growing.file().sync_all().unwrap();
        assert!(growing.file().metadata().unwrap().blocks() * 512 >= content.len() as u64);
    }

    #[test]
    fn a_file_goes_on_where_it_was() {
        let dir = TempDir::new();
        let mut growing = created(&dir, "x");
        growing.write(b"abc", Zeros::Holes).unwrap();
        growing.gap(5);
        growing.settle_length().unwrap();
        growing.write(b"lost", Zeros::Holes).unwrap();
        let mut growing = Growing::go_on(growing.into_file(), "x", 8).unwrap();
        growing.write(b"d", Zeros::Written).unwrap();
        growing.gap(2);
        growing.settle_length().unwrap();
        assert_eq!(std::fs::read(dir.join("x")).unwrap(), b"abc\0\0\0\0\0d\0\0");
    }

    #[test]
    fn flags_of_both_layouts_tell_compressed_pages() {
        // As MariaDB 10.11 writes them: full_crc32 with zlib and without; then the older layout; then MySQL 9.7.
        for (flags, expected) in
            [(0x35, true), (0x15, false), (0x10021, true), (0x21, false), (0x4021, false), (0, false)]
        {
            assert_eq!(is_page_compressed(flags), expected, "{flags:x}");
        }
    }
}
