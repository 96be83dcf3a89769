//! Where each transaction stands in the binlog files, as MariaDB's own `mariadb-binlog` tells it: the judge of positions
//! and commit times, independent of the reader under test.

use std::fs;
use std::path::{Path, PathBuf};

use super::server;

/// A transaction's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) gtid: String,
    pub(crate) file: String,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// Seconds since 1970 in its GTID event.
    pub(crate) stamp: i64,
    /// The greatest stamp up to here: the commit time by which targets are resolved.
    pub(crate) committed_at: i64,
}

impl Placed {
    pub(crate) fn sequence(&self) -> u64 {
        super::sql::sequence(&self.gtid)
    }
}

/// Reads binlog files, which follow each other, through `mariadb-binlog`.
pub(crate) fn place_transactions(files: &[PathBuf], scratch: &Path) -> Vec<Placed> {
    let mut placed: Vec<Placed> = Vec::new();
    let mut clock = 0;
    for file in files {
        let text = scratch.join("binlog.txt");
        server::dump_binlogs(std::slice::from_ref(file), &["--base64-output=decode-rows"], &text);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        read(&String::from_utf8_lossy(&fs::read(&text).unwrap()), &name, &mut clock, &mut placed);
    }
    placed
}

fn read(text: &str, file: &str, clock: &mut i64, placed: &mut Vec<Placed>) {
    let mut at = 0;
    let mut end = 0;
    let mut open = false;
    for line in text.lines() {
        if let Some(place) = line.strip_prefix("# at ").and_then(|place| place.parse().ok()) {
            at = place;
            continue;
        }
        let Some((stamp, event_end, what)) = header(line) else { continue };
        if ["Rotate", "Stop", "Binlog checkpoint", "Gtid list", "Start:"].iter().any(|word| what.starts_with(word)) {
            close(&mut open, placed, at);
        } else if let Some(gtid) = what.strip_prefix("GTID ").and_then(|rest| rest.split_whitespace().next()) {
            close(&mut open, placed, at);
            *clock = stamp.max(*clock);
            let gtid = gtid.to_owned();
            placed.push(Placed { gtid, file: file.to_owned(), begin: at, end: 0, stamp, committed_at: *clock });
            open = true;
        }
        end = event_end;
    }
    close(&mut open, placed, end);
}

fn close(open: &mut bool, placed: &mut [Placed], end: u64) {
    if std::mem::take(open) {
        placed.last_mut().unwrap().end = end;
    }
}

/// Stamp, end and description of a line such as `#261121 10:16:28 server id 7  end_log_pos 285 CRC32 0x8c9e2900 TAB Gtid list []`.
fn header(line: &str) -> Option<(i64, u64, &str)> {
    let (date, rest) = line.strip_prefix('#')?.split_at_checked(6)?;
    let (time, rest) = rest.strip_prefix(' ')?.split_once(" server id ")?;
    let (_, rest) = rest.split_once("end_log_pos ")?;
    let (end, rest) = rest.split_once(' ')?;
    let (_, what) = rest.split_once('\t')?;
    let text = format!("20{}-{}-{}T{}Z", &date[..2], &date[2..4], &date[4..6], time.trim().replace(' ', "0"));
    let text = if text.len() == 20 { text } else { text.replace('T', "T0") };
    let stamp: jiff::Timestamp = text.parse().ok()?;
    Some((stamp.as_second(), end.parse().ok()?, what))
}
