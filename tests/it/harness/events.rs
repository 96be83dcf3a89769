//! Where each transaction stands in the binlog files, as the server's own `mariadb-binlog` or `mysqlbinlog` tells it: the
//! judge of positions and commit times, independent of the reader under test.

use std::fs;
use std::path::PathBuf;

use super::bed::Bed;
use super::server;

/// A transaction's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// `FILE:END` on a server without GTIDs.
    pub(crate) gtid: String,
    pub(crate) file: String,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// The commit time in its GTID event, microseconds since 1970; MariaDB's are whole seconds.
    pub(crate) stamp: i64,
    /// The greatest stamp up to here: the commit time by which targets are resolved.
    pub(crate) committed_at: i64,
}

impl Placed {
    pub(crate) fn sequence(&self) -> u64 {
        super::sql::sequence(&self.gtid)
    }
}

/// Reads binlog files of a server on `bed`, which follow each other.
pub(crate) fn place_transactions(files: &[PathBuf], bed: &Bed) -> Vec<Placed> {
    let mut placed: Vec<Placed> = Vec::new();
    let mut clock = 0;
    for file in files {
        let text = bed.path("binlog.txt");
        server::dump_binlogs(bed.datastore(), std::slice::from_ref(file), &["--base64-output=decode-rows"], &text);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        read(&String::from_utf8_lossy(&fs::read(&text).unwrap()), &name, &mut clock, &mut placed);
    }
    placed
}

fn read(text: &str, file: &str, clock: &mut i64, placed: &mut Vec<Placed>) {
    const OUTSIDE: [&str; 6] = ["Rotate", "Stop", "Binlog checkpoint", "Gtid list", "Start:", "Previous-GTIDs"];
    let mut at = 0;
    let mut end = 0;
    let mut open = false;
    for line in text.lines() {
        if let Some(place) = line.strip_prefix("# at ").and_then(|place| place.parse().ok()) {
            at = place;
            continue;
        }
        // MySQL's GTID comes in a statement behind the event's line.
        if let Some(gtid) = line.strip_prefix("SET @@SESSION.GTID_NEXT= '").and_then(|rest| rest.split('\'').next())
            && open
            && gtid.contains(':')
        {
            placed.last_mut().unwrap().gtid = gtid.to_owned();
            continue;
        }
        let Some((stamp, event_end, what)) = header(line) else { continue };
        if OUTSIDE.iter().any(|word| what.starts_with(word)) {
            close(&mut open, placed, at);
        } else if let Some((gtid, stamp)) = begin_of_transaction(what, stamp) {
            close(&mut open, placed, at);
            *clock = stamp.max(*clock);
            let (gtid, file) = (gtid.to_owned(), file.to_owned());
            placed.push(Placed { gtid, file, begin: at, end: 0, stamp, committed_at: *clock });
            open = true;
        }
        end = event_end;
    }
    close(&mut open, placed, end);
}

/// GTID (empty where it stands elsewhere or nowhere) and commit time of a transaction whose first event this is.
fn begin_of_transaction(what: &str, stamp: i64) -> Option<(&str, i64)> {
    if let Some(rest) = what.strip_prefix("GTID ") {
        return Some((rest.split_whitespace().next()?, stamp * 1_000_000));
    }
    let rest = what.strip_prefix("GTID\t").or_else(|| what.strip_prefix("Anonymous_GTID\t"))?;
    let field = |name: &str| rest.split('\t').find_map(|field| field.strip_prefix(name)?.trim().parse::<i64>().ok());
    Some(("", field("immediate_commit_timestamp=")?))
}

fn close(open: &mut bool, placed: &mut [Placed], end: u64) {
    if std::mem::take(open) {
        let last = placed.last_mut().unwrap();
        last.end = end;
        if last.gtid.is_empty() {
            last.gtid = format!("{}:{end}", last.file);
        }
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
