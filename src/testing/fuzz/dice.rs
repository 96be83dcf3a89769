//! Chance that can be repeated.

use std::ops::Range;

/// A small generator of our own (SplitMix64), so that a seed makes the same input with any version of anything.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `end`; 0 when that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    /// Less than `usual`; once in so many `chances` less than `rare`, which is more.
    pub(crate) fn below_or(&mut self, usual: usize, chances: usize, rare: usize) -> usize {
        let end = if self.one_in(chances) { rare } else { usual };
        self.below(end)
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn byte(&mut self) -> u8 {
        const TELLING: [u8; 10] = [0, 1, 2, 0x7e, 0x7f, 0x80, 0x81, 0xfb, 0xfe, 0xff];
        if self.one_in(2) { *self.pick(&TELLING) } else { self.next() as u8 }
    }

    /// A number at or near a power of two or another border, or any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(300) as u64,
            1 => u64::MAX - self.below(3) as u64,
            2 => self.next(),
            _ => {
                let power = 1_u64 << self.below(64);
                power.wrapping_add(self.below(5) as u64).wrapping_sub(2)
            }
        }
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A part of something `length` long, mostly a short one.
    pub(crate) fn range(&mut self, length: usize) -> Range<usize> {
        let begin = self.below(length + 1);
        let longest = length - begin;
        let bits = 1 + self.below(20);
        let bytes = self.below(1 << bits).min(longest);
        begin..begin + bytes
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        if self.one_in(2) {
            return vec![self.byte(); length];
        }
        (0..length).map(|_| self.byte()).collect()
    }
}
