//! GTIDs, sets of them and places as text: see `crate::fuzz`.

use std::fmt::Display;
use std::str::{self, FromStr};

use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid::{BinlogState, Gtid, GtidPosition};
use crate::domain::gtid_set::{GtidSet, MysqlGtid};
use crate::domain::id::BackupId;
use crate::testing::fuzz::{Dice, Target, mutate};

const CORPUS: [&str; 12] = [
    "0-11-4711",
    "0-11-200,0-12-300,1-11-5",
    "4294967295-4294967295-18446744073709551615",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:4711",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:8:11-18",
    "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-3:tag_1:5-9,\n 3e11fa4771ca11e19e33c80aa9429563:9223372036854775806",
    "{3e11fa47-71ca-11e1-9e33-c80aa9429562}:1-9223372036854775806:a:1:2:b:3",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag:7",
    "binlog.000012:4711",
    "/var/log/mysql/binlog.000009:18446744073709551615",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562",
    "",
];
/// What such texts are made of.
const PIECES: [&str; 14] = [
    ":",
    "-",
    ",",
    " ",
    "0",
    "1",
    "9223372036854775806",
    "18446744073709551615",
    "4294967295",
    "tag",
    "_",
    ".",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562",
    "\u{661}",
];

pub(crate) fn targets() -> Vec<Box<dyn Target>> {
    vec![Box::new(GtidTexts)]
}

/// Every text of this kind that comes from outside.
struct GtidTexts;

impl Target for GtidTexts {
    fn name(&self) -> &'static str {
        "gtid-text"
    }

    fn input(&mut self, dice: &mut Dice) -> Vec<u8> {
        let other = *dice.pick(&CORPUS);
        let mut text = dice.pick(&CORPUS).as_bytes().to_vec();
        if dice.one_in(3) {
            text.clear();
            for _ in 0..dice.below_or(30, 200, 20_000) {
                text.extend_from_slice(dice.pick(&PIECES).as_bytes());
            }
        }
        if dice.one_in(200) {
            // Intervals that do not touch, in an order that no server writes.
            let count = dice.below(40_000);
            text = CORPUS[3].as_bytes().to_vec();
            text.extend((0..count).rev().flat_map(|nth| format!(":{}", 2 * nth + 1).into_bytes()));
        } else if !dice.one_in(4) {
            mutate::change(dice, &mut text, other.as_bytes());
        }
        text
    }

    fn read(&mut self, input: &[u8]) {
        let Ok(text) = str::from_utf8(input) else { return };
        comes_back::<Gtid>(text);
        comes_back::<GtidPosition>(text);
        comes_back::<MysqlGtid>(text);
        comes_back::<BinlogPosition>(text);
        comes_back::<BackupId>(text);
        if let Some(state) = comes_back::<BinlogState>(text) {
            let _ = (state.position(), state.iter().count());
        }
        let Some(set) = comes_back::<GtidSet>(text) else { return };
        assert!(set.without(&set).is_empty() && set.is_subset_of(&set));
        let half: GtidSet = text.get(..text.len() / 2).unwrap_or("").parse().unwrap_or_default();
        let rest = set.without(&half);
        let mut whole = rest.clone();
        whole.unite(&half);
        assert!(rest.is_subset_of(&set) && set.is_subset_of(&whole) && half.is_subset_of(&whole));
        assert_eq!(whole.count(), rest.count() + half.count(), "the rest and what was taken have something in common");
    }

    /// A GTID of six bytes becomes two entries of maps, which are printed again.
    fn memory_max(&self, input_bytes: usize) -> usize {
        (64 << 10) + 96 * input_bytes
    }
}

/// What can be read can be printed, and reads back as the same.
fn comes_back<T: FromStr + Display + PartialEq>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let printed = value.to_string();
    let again: Option<T> = printed.parse().ok();
    assert!(again.as_ref() == Some(&value), "`{printed}` does not read back as it was printed");
    Some(value)
}
