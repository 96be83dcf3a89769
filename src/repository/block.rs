//! Memory for one part, straight from the system and given back to it at once.
//!
//! An allocator keeps what it is given back, each thread's share for itself: behind a backup that would be more than
//! everything else coffer has.

use std::io::{self, Read, Write};
use std::ops::Deref;

use memmap2::MmapMut;

use super::manifest::{PART_BYTES, PART_OVERHEAD_MAX};
use crate::error::{Error, ErrorKind};

/// Bytes, up to the length of a part in any form. Pages that were never touched cost nothing.
pub(super) struct Block {
    map: MmapMut,
    length: usize,
}

impl Block {
    pub(super) fn new() -> Result<Block, Error> {
        // One byte more than there may be, so that an object that is too long is seen.
        let map = MmapMut::map_anon(PART_BYTES + PART_OVERHEAD_MAX + 1);
        let map = map.map_err(|err| Error::new(ErrorKind::Io, "unable to get memory for a part").with_source(err))?;
        Ok(Block { map, length: 0 })
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// So many bytes of whatever was there before, to be written over; fewer if there is less room.
    pub(super) fn reset(&mut self, length: usize) -> &mut [u8] {
        self.length = length.min(self.map.len());
        self.map.get_mut(..self.length).unwrap_or_default()
    }

    /// What is behind the end, to be written into; `extend` then says how much it was.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.map.get_mut(self.length..).unwrap_or_default()
    }

    pub(super) fn extend(&mut self, bytes: usize) {
        self.length = self.length.saturating_add(bytes).min(self.map.len());
    }

    /// Replaces what is there by all of `reader`, as far as there is room.
    pub(super) fn fill(&mut self, mut reader: impl Read) -> io::Result<()> {
        self.clear();
        loop {
            match reader.read(self.room()) {
                Ok(0) => return Ok(()),
                Ok(read) => self.length += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.get(..self.length).unwrap_or_default()
    }
}

/// Appends; takes less than it is given once there is no room.
impl Write for Block {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.room().write(bytes)?;
        self.extend(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_what_there_is_room_for_and_no_more() {
        let mut block = Block::new().unwrap();
        block.write_all(b"one").unwrap();
        block.write_all(b"two").unwrap();
        assert_eq!(&block[..], b"onetwo");
        block.fill(&b"three"[..]).unwrap();
        assert_eq!(&block[..], b"three");
        block.reset(2).copy_from_slice(b"44");
        assert_eq!(&block[..], b"44");
        let most = PART_BYTES + PART_OVERHEAD_MAX + 1;
        block.fill(io::repeat(7).take(most as u64 + 10)).unwrap();
        assert_eq!(block.len(), most);
        assert_eq!(block.write(b"more").unwrap(), 0);
        assert_eq!(block.reset(most + 10).len(), most);
        block.clear();
        assert!(block.is_empty());
    }
}
