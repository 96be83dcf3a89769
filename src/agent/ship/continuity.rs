//! Whether a binlog file goes on where the one before it ended. Neither server notices when one is missing.

use std::collections::BTreeMap;

use crate::domain::gtid::BinlogState;

/// How a file's head continues what was shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// Nothing lies between.
    Unbroken,
    /// Transactions lie between that were never shipped.
    Hole,
    /// It is another history: the server's binlog began anew.
    Anew,
}

/// What is known of the two files beside their GTIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// The server's index lists the second right behind the first.
    pub(crate) listed: bool,
    /// The first was read to its end.
    pub(crate) read: bool,
    /// The number in the second's name, less the number in the first's.
    pub(crate) numbers: Option<i64>,
}

impl Link {
    pub(crate) fn between(first: &str, second: &str, listed: bool, read: bool) -> Link {
        let number = |name: &str| name.rsplit_once('.').and_then(|(_, digits)| digits.parse::<i64>().ok());
        let numbers = number(second).zip(number(first)).map(|(second, first)| second.saturating_sub(first));
        Link { listed, read, numbers }
    }
}

/// Compares what was shipped with the Gtid_list of the MariaDB file that shall follow.
///
/// Domains may vanish from the list (`FLUSH BINARY LOGS DELETE_DOMAIN_ID`) without anything being lost.
pub(crate) fn of_mariadb(shipped: &BinlogState, head: &BinlogState) -> Continuity {
    if shipped == head {
        return Continuity::Unbroken;
    }
    let by_server = |state: &BinlogState| -> BTreeMap<(u32, u32), u64> {
        state.iter().map(|gtid| ((gtid.domain, gtid.server_id), gtid.sequence)).collect()
    };
    let (known, listed) = (by_server(shipped), by_server(head));
    let went_back = known.iter().any(|(key, sequence)| match listed.get(key) {
        Some(now) => now < sequence,
        None => listed.keys().any(|(domain, _)| *domain == key.0) || listed.is_empty(),
    });
    if went_back {
        return Continuity::Anew;
    }
    let went_on = listed.iter().any(|(key, sequence)| known.get(key).is_none_or(|before| sequence > before));
    if went_on { Continuity::Hole } else { Continuity::Unbroken }
}

/// Compares what was shipped with the Previous_gtids of the MySQL file that shall follow.
///
/// The list holds what ever stood in a binlog file of this data directory, since its binlog began (measured on 9.7, over
/// restarts, crashes and purges): never what came into `gtid_executed` in another way, by `gtid_purged` or with a clone.
/// `before` is what the server had when the timeline began, of which it may therefore leave out any part. The list may
/// also lack what was committed while files were changed (MySQL bug 118797); a file that the index has
/// right behind is believed all the same. Transactions without a GTID (`gtid_mode` off, or on its way) stand in no
/// list: only the numbers of the files' names can show that none of those is missing.
pub(crate) fn of_mysql(shipped: &BinlogState, before: &BinlogState, head: &BinlogState, link: Link) -> Continuity {
    let (shipped, before, head) = (shipped.executed(), before.executed(), head.executed());
    let is_new = !head.without(shipped).is_empty();
    if link.listed && link.read {
        return if is_new { Continuity::Hole } else { Continuity::Unbroken };
    }
    let forgotten = !shipped.without(before).without(head).is_empty();
    let went_back = link.numbers.is_none_or(|numbers| numbers <= 0);
    if forgotten || went_back {
        return Continuity::Anew;
    }
    // Within one file either all transactions have a GTID or none: a change of the mode begins another file.
    let rest_is_known = link.read || !head.is_empty();
    if is_new || link.numbers != Some(1) || !rest_is_known { Continuity::Hole } else { Continuity::Unbroken }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_lists_more_hides_a_hole_and_one_that_lists_less_is_another_history() {
        let check = |shipped: &str, head: &str| of_mariadb(&shipped.parse().unwrap(), &head.parse().unwrap());
        assert_eq!(check("0-1-5", "0-1-5"), Continuity::Unbroken);
        assert_eq!(check("", ""), Continuity::Unbroken);
        assert_eq!(check("0-1-5,7-1-3", "0-1-5"), Continuity::Unbroken);
        assert_eq!(check("0-1-5", "0-1-9"), Continuity::Hole);
        assert_eq!(check("0-1-5", "0-1-5,0-2-6"), Continuity::Hole);
        assert_eq!(check("", "0-1-9"), Continuity::Hole);
        assert_eq!(check("0-1-5", ""), Continuity::Anew);
        assert_eq!(check("0-1-5", "0-1-2"), Continuity::Anew);
        assert_eq!(check("0-1-5", "0-2-7"), Continuity::Anew);
    }

    fn mysql(shipped: &str, before: &str, head: &str, link: Link) -> Continuity {
        const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let state = |runs: &str| -> BinlogState {
            if runs.is_empty() { BinlogState::default() } else { format!("{UUID}:{runs}").parse().unwrap() }
        };
        of_mysql(&state(shipped), &state(before), &state(head), link)
    }

    #[test]
    fn mysql_a_set_that_lists_more_hides_a_hole_and_one_that_lists_less_is_another_history() {
        let purged = Link::between("b.000004", "b.000005", false, true);
        assert_eq!(mysql("1-5", "", "1-5", purged), Continuity::Unbroken);
        assert_eq!(mysql("1-5", "", "1-7", purged), Continuity::Hole);
        assert_eq!(mysql("1-5", "", "1-4", purged), Continuity::Anew);
        assert_eq!(mysql("1-5", "1-5", "", purged), Continuity::Unbroken, "never in a binlog of this server");
        assert_eq!(mysql("1-7", "1-5", "6-7", purged), Continuity::Unbroken);
        let further = Link::between("b.000004", "b.000006", false, true);
        assert_eq!(mysql("1-5", "", "1-5", further), Continuity::Hole, "a file is missing");
        let anew = Link::between("b.000004", "b.000001", false, true);
        assert_eq!(mysql("", "", "", anew), Continuity::Anew);
        assert_eq!(mysql("1-5", "", "1-5", anew), Continuity::Anew);
    }

    #[test]
    fn mysql_a_list_that_lacks_what_was_under_way_breaks_nothing_in_files_of_the_index() {
        let next = Link::between("b.000004", "b.000005", true, true);
        assert_eq!(mysql("1-5", "", "1-4", next), Continuity::Unbroken);
        assert_eq!(mysql("1-5", "", "1-9", next), Continuity::Hole);
    }

    #[test]
    fn mysql_without_gtids_only_a_file_read_to_its_end_has_a_neighbour() {
        let lost = Link::between("b.000004", "b.000005", false, false);
        assert_eq!(mysql("", "", "", lost), Continuity::Hole);
        assert_eq!(mysql("", "", "", Link { read: true, ..lost }), Continuity::Unbroken);
        assert_eq!(mysql("1-5", "", "1-5", lost), Continuity::Unbroken, "the rest of the file would be listed");
    }
}
