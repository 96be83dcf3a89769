use crate::datastore::mysql::testing::TestMysql;

use super::*;

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

fn set(text: &str) -> GtidSet {
    text.replace('A', A).replace('B', B).parse().unwrap_or_else(|err| panic!("{text}: {err}"))
}

fn check(text: &str, expected: &str) {
    assert_eq!(set(text).to_string(), expected.replace('A', A).replace('B', B), "{text}");
}

#[test]
fn a_set_is_read_and_written_as_the_server_does() {
    // Each line was asked of MySQL 9.7: GTID_SUBTRACT(text, '').
    check("", "");
    check("A:7-9:1-3:4:Tag_b:5:3-4:ab:1:12, {B}:1 - 2 ,,", "A:1-4:7-9:ab:1:12:tag_b:3-5,\nB:1-2");
    check("B:tag:5-3:9:_z:1", "B:_z:1:tag:9");
    check("A:5-3", "");
    check("A", "");
    check("A:tag", "");
    check("A:1-9223372036854775806", "A:1-9223372036854775806");
    check("A:1,A:x:1,A:2", "A:1-2:x:1");
    check(" A : 1 - 3 : x : 4 , ", "A:1-3:x:4");
    check(&format!("{}:1", A.replace('-', "").to_lowercase()), "A:1");
    check("A:x2345678901234567890123456789012:1", "A:x2345678901234567890123456789012:1");
}

#[test]
fn runs_in_any_order_take_no_more_time_than_in_theirs() {
    let numbers: Vec<String> = (1..=200_000_u64).rev().map(|nth| format!(":{}", 2 * nth)).collect();
    let odd: GtidSet = set(&format!("3e11fa47-71ca-11e1-9e33-c80aa9429562{}", numbers.concat()));
    assert_eq!(odd.count(), 200_000);
    let mut all = set("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-399999");
    let even = all.without(&odd);
    all.unite(&odd);
    let mut whole = even.clone();
    whole.unite(&odd);
    assert_eq!((even.count(), whole == all, all.count()), (200_000, true, 400_000));
}

#[test]
fn text_that_the_server_refuses_is_refused() {
    for bad in [
        "A:0",
        "A:0-3",
        "A:1-9223372036854775807",
        "A:1::2",
        "A:tag:",
        "A:1tag:1",
        "A:x23456789012345678901234567890123:1",
        "A:x-y:1",
        "A:1-+3",
        "A:1-2-3",
        "A:-1",
        "+A:1",
        "urn:uuid:A:1",
        "nothing",
        "1-2-3",
        "A:99999999999999999999",
        ":1",
    ] {
        let text = bad.replace('A', A);
        assert_eq!(text.parse::<GtidSet>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
    }
}

#[test]
fn a_gtid_reads_back_as_it_was_written() {
    for text in [format!("{A}:4711"), format!("{A}:tag_1:1")] {
        assert_eq!(text.parse::<MysqlGtid>().unwrap().to_string(), text);
    }
    for bad in ["0-11-4711", "A", "A:", "A:0", "A:1-2", "A:tag", "A:tag:", "A:1:2:3", "A:9223372036854775807"] {
        assert!(bad.replace('A', A).parse::<MysqlGtid>().is_err(), "{bad}");
    }
}

#[test]
fn gtids_one_after_the_other_become_runs() {
    let mut built = GtidSet::default();
    for number in [1, 2, 5, 4, 9, 3, 3] {
        let gtid = format!("{A}:{number}").parse().unwrap();
        built.add(&gtid);
        assert!(built.contains(&gtid));
    }
    assert_eq!(built, set("A:1-5:9"));
    assert_eq!(built.count(), 6);
    for (number, is_in) in [(5, true), (6, false), (8, false), (9, true), (10, false)] {
        assert_eq!(built.contains(&format!("{A}:{number}").parse().unwrap()), is_in, "{number}");
    }
    assert!(!built.contains(&format!("{B}:1").parse().unwrap()));
    assert!(!built.contains(&format!("{A}:tag:1").parse().unwrap()));
}

#[test]
fn what_is_taken_away_is_gone_and_nothing_else() {
    for (from, taken, left) in [
        ("A:1-10", "A:4-5", "A:1-3:6-10"),
        ("A:1-10", "A:1-10", ""),
        ("A:1-3:5-7:9", "A:2-6", "A:1:7:9"),
        ("A:1-3:5-7:9", "A:1-9", ""),
        ("A:5-7", "A:1-5:7-9", "A:6"),
        ("A:1-3,B:1", "B:1-5", "A:1-3"),
        ("A:1-3", "A:tag:1-3", "A:1-3"),
        ("A:1-3:tag:1-5", "A:tag:2", "A:1-3:tag:1:3-5"),
        ("", "A:1", ""),
    ] {
        assert_eq!(set(from).without(&set(taken)), set(left), "{from} - {taken}");
    }
}

/// A small generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Text of a set: few sources and small numbers, so that two of them often meet.
    fn set_text(&mut self) -> String {
        let mut parts = Vec::new();
        for _ in 0..self.below(4) {
            let mut part = [A, B][usize::try_from(self.below(2)).unwrap()].to_owned();
            for _ in 0..=self.below(4) {
                match self.below(6) {
                    0 => part.push_str(":one:1"),
                    1 => part.push_str(":_two:3"),
                    _ => {}
                }
                let first = 1 + self.below(30);
                part.push_str(&format!(":{first}-{}", first + self.below(8)));
            }
            parts.push(part);
        }
        parts.join(",")
    }
}

#[test]
fn sets_are_calculated_as_the_server_does() {
    let server = TestMysql::start("");
    let mut sql = server.sql();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..1500 {
        let (a, b) = (dice.set_text(), dice.set_text());
        let question = format!(
            "SELECT GTID_SUBTRACT('{a}', ''), GTID_SUBTRACT('{a}', '{b}'), GTID_SUBSET('{a}', '{b}'), \
             GTID_SUBTRACT('{a},{b}', '')"
        );
        let answer = sql.rows(&question).unwrap().remove(0);
        let (left, right): (GtidSet, GtidSet) = (a.parse().unwrap(), b.parse().unwrap());
        let mut both = left.clone();
        both.unite(&right);
        let rest = left.without(&right);
        let is_subset = u8::from(left.is_subset_of(&right));
        let found = [left.to_string(), rest.to_string(), is_subset.to_string(), both.to_string()];
        assert_eq!(found.as_slice(), answer, "round {round}: {a} and {b}");
        assert_eq!(left.to_string().parse::<GtidSet>().unwrap(), left);
        assert_eq!(both.count(), rest.count() + right.count());
    }
}
