//! Changes to bytes of any format.

use super::Dice;

/// Inputs are not made longer than this, so that many of them are read.
const INPUT_BYTES_MAX: usize = 256 << 10;
/// But now and then this long, so that what takes time or memory by the square of the length shows.
const LONG_INPUT_BYTES_MAX: usize = 4 << 20;

/// Changes `bytes` in one to four places; `other` is another input to take bytes from.
pub(crate) fn change(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.below(4) {
        change_once(dice, bytes, other);
    }
}

fn change_once(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = dice.below(bytes.len());
    match dice.below(12) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        2 | 3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.byte();
            }
        }
        4 | 5 => change_integer(dice, bytes, at),
        6 => bytes.truncate(at),
        7 => {
            let range = dice.range(bytes.len());
            bytes.drain(range);
        }
        8 => {
            let copy = bytes[dice.range(bytes.len())].to_vec();
            insert(bytes, at, &copy);
        }
        9 => repeat(dice, bytes, at),
        10 => insert(bytes, at, &other[dice.range(other.len())]),
        _ => {
            let length = dice.range(1 << 12).len();
            let made = dice.bytes(length);
            if dice.one_in(2) {
                insert(bytes, at, &made);
            } else {
                let end = bytes.len().min(at + made.len());
                bytes.splice(at..end, made);
            }
        }
    }
}

/// Treats what stands at `at` as an integer of one to eight bytes.
fn change_integer(dice: &mut Dice, bytes: &mut [u8], at: usize) {
    let width = *dice.pick(&[1, 2, 3, 4, 6, 8]);
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    let is_big_endian = dice.one_in(4);
    let mut padded = [0; 8];
    padded[..width].copy_from_slice(place);
    if is_big_endian {
        padded[..width].reverse();
    }
    let value = u64::from_le_bytes(padded);
    let changed = match dice.below(4) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => value.wrapping_add(dice.below(64) as u64).wrapping_sub(32),
        _ => dice.number(),
    };
    place.copy_from_slice(&changed.to_le_bytes()[..width]);
    if is_big_endian {
        place.reverse();
    }
}

/// Puts a part in again and again.
fn repeat(dice: &mut Dice, bytes: &mut Vec<u8>, at: usize) {
    let part = bytes[dice.range(bytes.len().min(1 << 10))].to_vec();
    if !part.is_empty() {
        let most = if dice.one_in(1000) { LONG_INPUT_BYTES_MAX } else { INPUT_BYTES_MAX >> dice.below(16) };
        let times = 1 + dice.below(most / part.len());
        insert(bytes, at, &part.repeat(times));
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, made: &[u8]) {
    if bytes.len() + made.len() <= LONG_INPUT_BYTES_MAX + INPUT_BYTES_MAX {
        bytes.splice(at..at, made.iter().copied());
    }
}

/// Changes the order of pieces, leaves some out, brings in `others`.
pub(crate) fn shuffle<T: Clone>(dice: &mut Dice, pieces: &mut Vec<T>, others: &[T]) {
    let at = dice.below(pieces.len());
    match dice.below(6) {
        0 if !pieces.is_empty() => drop(pieces.remove(at)),
        1 if !pieces.is_empty() => {
            let with = dice.below(pieces.len());
            pieces.swap(at, with);
        }
        2 => {
            let copy = pieces[dice.range(pieces.len())].to_vec();
            pieces.splice(at..at, copy);
        }
        3 => {
            let range = dice.range(pieces.len());
            pieces.drain(range);
        }
        4 if !pieces.is_empty() => {
            let times = dice.below_or(20, 400, 20_000);
            let piece = pieces[at].clone();
            pieces.splice(at..at, std::iter::repeat_n(piece, times));
        }
        _ => {
            let from = others[dice.range(others.len())].to_vec();
            pieces.splice(at..at, from);
        }
    }
}
