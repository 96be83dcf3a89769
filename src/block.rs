//! Memory for large pieces of data, straight from the system and given back to it at once.
//!
//! An allocator keeps what it is given back, each thread's share for itself: behind a backup that would be more than
//! everything else coffer has.

use std::io::{self, Read, Write};
use std::ops::Deref;

use memmap2::MmapMut;

use crate::error::{Error, ErrorKind};

/// Bytes, up to the room there is. They begin where a page of memory does; pages that were never touched cost nothing.
pub(crate) struct Block {
    map: MmapMut,
    length: usize,
}

impl Block {
    /// Empty, with room for so many bytes.
    pub(crate) fn new(room: usize) -> Result<Block, Error> {
        let map = MmapMut::map_anon(room.max(1));
        let map = map.map_err(|err| Error::new(ErrorKind::Io, "unable to get memory").with_source(err))?;
        Ok(Block { map, length: 0 })
    }

    /// A copy of these bytes, without further room.
    pub(crate) fn of(bytes: &[u8]) -> Result<Block, Error> {
        let mut block = Block::new(bytes.len())?;
        block.reset(bytes.len()).copy_from_slice(bytes);
        Ok(block)
    }

    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    /// So many bytes of whatever was there before, to be written over; fewer if there is less room.
    pub(crate) fn reset(&mut self, length: usize) -> &mut [u8] {
        self.length = length.min(self.map.len());
        self.map.get_mut(..self.length).unwrap_or_default()
    }

    /// What is behind the end, to be written into; `extend` then says how much it was.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.map.get_mut(self.length..).unwrap_or_default()
    }

    pub(crate) fn extend(&mut self, bytes: usize) {
        self.length = self.length.saturating_add(bytes).min(self.map.len());
    }

    /// Replaces what is there by all of `reader`, as far as there is room.
    pub(crate) fn fill(&mut self, mut reader: impl Read) -> io::Result<()> {
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
        const ROOM: usize = 1000;
        let mut block = Block::new(ROOM).unwrap();
        block.write_all(b"one").unwrap();
        block.write_all(b"two").unwrap();
        assert_eq!(&block[..], b"onetwo");
        block.fill(&b"three"[..]).unwrap();
        assert_eq!(&block[..], b"three");
        block.reset(2).copy_from_slice(b"44");
        assert_eq!(&block[..], b"44");
        let most = block.room().len() + block.len();
        assert!(most >= ROOM);
        block.fill(io::repeat(7).take(most as u64 + 10)).unwrap();
        assert_eq!(block.len(), most);
        assert_eq!(block.write(b"more").unwrap(), 0);
        assert_eq!(block.reset(most + 10).len(), most);
        block.clear();
        assert!(block.is_empty());
        assert_eq!(&Block::of(b"four").unwrap()[..], b"four");
        assert!(Block::of(b"").unwrap().is_empty());
    }
}
