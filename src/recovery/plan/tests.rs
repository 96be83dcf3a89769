//! Facts about plans, as tables: a catalog, a target, and the plan or the refusal as people read it.

use crate::error::{Error, ErrorKind};
use crate::recovery::plan::testing::Catalog;

fn check(catalog: &str, target: &str, expected: &str) {
    let catalog = Catalog::parse(catalog);
    let told = match catalog.plan(&catalog.target(target)) {
        Ok(plan) => catalog.render(&plan),
        Err(refusal) => format!("refused: {}", catalog.render_refusal(refusal)),
    };
    assert_eq!(told, expected, "{target}");
}

const PLAIN: &str = "
    timeline 1
    file b.000001: 1@10 2@11 | 3@12 4@12 5@14
    backup full-1 after 2
    file b.000002: 6@15! | 7@20";

#[test]
fn every_kind_of_target_is_resolved_to_the_exact_transaction() {
    check(PLAIN, "time 12", "full-1 + 3 4; stop T1 b.000001:656 +12; last 4, next 5; gives up 3");
    check(PLAIN, "time 12.9", "full-1 + 3 4; stop T1 b.000001:656 +12; last 4, next 5; gives up 3");
    check(PLAIN, "time 13", "full-1 + 3 4; stop T1 b.000001:656 +12; last 4, next 5; gives up 3");
    check(PLAIN, "time 14", "full-1 + 3 4 5; stop T1 b.000002:256 +14; last 5, next 6; gives up 2");
    check(PLAIN, "gtid 3", "full-1 + 3; stop T1 b.000001:556 +12; last 3, next 4; gives up 4");
    check(PLAIN, "before-gtid 6", "full-1 + 3 4 5; stop T1 b.000002:256 +14; last 5, next 6; gives up 2");
    check(PLAIN, "position b.000001:457", "full-1 + 3; stop T1 b.000001:556 +12; last 3, next 4; gives up 4");
    check(PLAIN, "position b.000001:456", "full-1 + nothing; stop T1 b.000001:456 +11; last none, next 3; gives up 5");
    check(PLAIN, "before-position b.000001:556", "full-1 + 3; stop T1 b.000001:556 +12; last 3, next 4; gives up 4");
    check(PLAIN, "before-position b.000001:655", "full-1 + 3; stop T1 b.000001:556 +12; last 3, next 4; gives up 4");
    check(PLAIN, "before-position b.000002:0", "full-1 + 3 4 5; stop T1 b.000002:256 +14; last 5, next 6; gives up 2");
    check(PLAIN, "position b.000002:356", "full-1 + 3 4 5 6; stop T1 b.000002:356 +15; last 6, next 7; gives up 1");
    check(PLAIN, "latest", "full-1 + 3 4 5 6 7; stop T1 b.000002:456 +20; last 7, next none; gives up 0");
    check(PLAIN, "backup full-1", "full-1 + nothing; stop T1 b.000001:456 +11; last none, next 3; gives up 5");
}

#[test]
fn a_target_before_the_first_backup_names_the_oldest() {
    let refusal = "leads to 2026-07-01T12:00:10Z: the oldest, full-1, holds everything up to 2026-07-01T12:00:11Z";
    check(PLAIN, "time 10", &format!("refused: no completed backup {refusal}"));
    check(
        PLAIN,
        "before-gtid 2",
        "refused: no completed backup leads to just before transaction 0-1-2: the oldest, full-1, holds everything up \
         to 2026-07-01T12:00:11Z",
    );
    check(
        "timeline 1\n file b.000001: 1@10",
        "latest",
        "refused: no completed backup leads to the latest transaction: there is none in its past",
    );
}

#[test]
fn the_newest_backup_that_leads_there_is_taken_and_failed_ones_are_not() {
    let catalog = "
        timeline 1
        file b.000001: 1@10 2@11 3@12 4@13
        backup full-1 after 1
        backup full-2 after 2
        backup full-3 after 3 FAILED
        backup full-4 after 4";
    check(catalog, "gtid 3", "full-2 + 3; stop T1 b.000001:556 +12; last 3, next 4; gives up 1");
    check(catalog, "gtid 3 base full-1", "full-1 + 2 3; stop T1 b.000001:556 +12; last 3, next 4; gives up 1");
    check(catalog, "gtid 3 base full-3", "refused: backup full-3 is FAILED, not COMPLETED");
    check(
        catalog,
        "gtid 3 base full-4",
        "refused: backup full-4 does not lead to the target: it ends at b.000001:656, the target is b.000001:556",
    );
}

#[test]
fn a_backup_behind_a_rotation_leads_to_the_last_transaction_before_it() {
    let catalog = "
        timeline 1
        file b.000001: 1@10 2@11
        file b.000002: 3@15";
    let mut catalog = Catalog::parse(catalog);
    let mut other = Catalog::parse("timeline 1\n file b.000001: 1@10 2@11\n backup full-1 after 2");
    let mut backup = other.backups.remove(0);
    if let Some(end) = &mut backup.end {
        (end.at.ordinal, end.at.file, end.at.position) = (2, "b.000002".to_owned(), 256);
    }
    catalog.backups.push(backup);
    let plan = catalog.plan(&catalog.target("gtid 2")).unwrap();
    assert_eq!((plan.stop.to_string(), plan.chunks.len()), ("b.000002:256".to_owned(), 0));
    assert!(catalog.plan(&catalog.target("gtid 1")).is_err());
}

#[test]
fn a_gap_is_reported_with_what_is_missing_and_the_last_reachable_point() {
    let catalog = "
        timeline 1
        file b.000001: 1@10 2@11
        backup full-1 after 1
        file b.000002: (3@12 4@13)
        file b.000003: 5@20 6@21
        backup full-2 after 5
        file b.000004: 7@30";
    let refusal = "refused: the binlog has a gap after b.000001:500 (purged before it was shipped): missing 0-1-3..4; \
                   last reachable is 2026-07-01T12:00:11Z (b.000001:500)";
    check(catalog, "time 19", refusal);
    check(catalog, "gtid 6 base full-1", refusal);
    check(catalog, "before-gtid 5", refusal);
    check(catalog, "time 11", "full-1 + 2; stop T1 b.000001:500 +11; last 2, next none; gives up 3");
    check(catalog, "gtid 6", "full-2 + 6; stop T1 b.000003:456 +21; last 6, next 7; gives up 1");
    check(catalog, "latest", "full-2 + 6 7; stop T1 b.000004:356 +30; last 7, next none; gives up 0");
}

#[test]
fn a_chunk_that_does_not_follow_is_a_gap_though_its_name_fits() {
    let mut catalog = Catalog::parse(PLAIN);
    catalog.chunks[2].facts.follows = Some("another".to_owned());
    let told = catalog.render_refusal(catalog.plan(&catalog.target("latest")).unwrap_err());
    assert!(told.contains("b.000002:0 does not follow what lies before it"), "{told}");
    let mut catalog = Catalog::parse(PLAIN);
    catalog.chunks.remove(1);
    let told = catalog.render_refusal(catalog.plan(&catalog.target("latest")).unwrap_err());
    assert!(told.contains("after b.000001:456") && told.contains("missing 0-1-3..5"), "{told}");
}

#[test]
fn a_time_that_is_not_there_yet_is_refused() {
    let now = |text: &str| format!("{PLAIN}\n{text}");
    check(&now("now 25"), "time 26", "refused: 2026-07-01T12:00:26Z is in the future: it is 2026-07-01T12:00:25Z now");
    let not_yet = "refused: 2026-07-01T12:00:24Z is not in the repository yet: shipped is up to \
                   2026-07-01T12:00:20Z (b.000002:456)";
    check(&now("now 25\nshipped as of 24"), "time 24", not_yet);
    check(&now("now 25\nshipped as of never"), "time 24", not_yet);
    let all = "full-1 + 3 4 5 6 7; stop T1 b.000002:456 +20; last 7, next none; gives up 0";
    check(&now("now 26\nshipped as of 25"), "time 24", all);
    check(&now("now 26\nshipped as of 20"), "time 20", all);
}

#[test]
fn positions_that_are_not_there_are_told_apart() {
    check(PLAIN, "position b.000009:4", "refused: there is no position b.000009:4 in the timeline and its past");
    check(PLAIN, "position b.000001:9999", "refused: there is no position b.000001:9999: b.000001 ends at 800");
    check(
        PLAIN,
        "position b.000002:9999",
        "refused: binlog position b.000002:9999 is not in the repository yet: shipped is up to 2026-07-01T12:00:20Z \
         (b.000002:456)",
    );
}

const BRANCHED: &str = "
    timeline 1
    file b.000001: 1@10 2@11 | 3@12 4@13
    backup full-1 after 1
    file b.000002: 5@14! 6@16
    timeline 2 from 1 after 4
    file b.000001: 7@30 8@31
    file c.000002: 9@32";

#[test]
fn a_recovered_lineage_leaves_out_what_was_given_up() {
    check(BRANCHED, "latest", "full-1 + 2 3 4 7 8 9; stop T2 c.000002:356 +32; last 9, next none; gives up 0");
    check(BRANCHED, "gtid 8", "full-1 + 2 3 4 7 8; stop T2 b.000001:456 +31; last 8, next 9; gives up 1");
    check(BRANCHED, "time 12", "full-1 + 2 3; stop T1 b.000001:556 +12; last 3, next 4; gives up 4");
}

#[test]
fn a_time_between_a_branch_and_its_first_commit_is_the_branch_point() {
    let stop = "full-1 + 2 3 4; stop T1 b.000001:656 +13; last 4, next 7; gives up 3";
    check(BRANCHED, "time 13", stop);
    check(BRANCHED, "time 15", stop);
    check(BRANCHED, "time 29", stop);
    let catalog = Catalog::parse(BRANCHED);
    let warnings = |target: &str| catalog.plan(&catalog.target(target)).unwrap().warnings.join("; ");
    assert!(warnings("time 15").contains("at that time timeline 1"), "{}", warnings("time 15"));
    assert!(!warnings("time 13").contains("at that time"), "{}", warnings("time 13"));
}

#[test]
fn a_point_that_was_given_up_is_reachable_by_its_gtid_or_its_timeline() {
    check(BRANCHED, "gtid 6", "full-1 + 2 3 4 5 6; stop T1 b.000002:456 +16; last 6, next none; gives up 3");
    check(BRANCHED, "before-gtid 6", "full-1 + 2 3 4 5; stop T1 b.000002:356 +14; last 5, next 6; gives up 3");
    check(BRANCHED, "time 15 timeline 1", "full-1 + 2 3 4 5; stop T1 b.000002:356 +14; last 5, next 6; gives up 3");
    check(BRANCHED, "latest timeline 1", "full-1 + 2 3 4 5 6; stop T1 b.000002:456 +16; last 6, next none; gives up 3");
    check(BRANCHED, "gtid 6 timeline 2", "refused: no transaction 0-1-6 is in timeline 2 (T2) or its past");
    check(BRANCHED, "gtid 77", "refused: no transaction 0-1-77 is in the repository, in any timeline of the instance");
    check(BRANCHED, "latest timeline 7", "refused: timeline 20000000-0000-4000-8000-000000000007 cannot be found");
    let catalog = Catalog::parse(BRANCHED);
    let plan = catalog.plan(&catalog.target("gtid 6")).unwrap();
    assert!(plan.warnings.iter().any(|warning| warning.contains("given up earlier")), "{:?}", plan.warnings);
}

#[test]
fn a_file_name_of_two_timelines_asks_for_one_of_them() {
    check(
        BRANCHED,
        "position b.000001:456",
        "refused: more than one binlog file is named b.000001: timeline 1 (T1), timeline 2 (T2)",
    );
    check(
        BRANCHED,
        "position b.000001:456 timeline 1",
        "full-1 + 2; stop T1 b.000001:456 +11; last 2, next 3; gives up 5",
    );
    check(
        BRANCHED,
        "position b.000001:356 timeline 2",
        "full-1 + 2 3 4 7; stop T2 b.000001:356 +30; last 7, next 8; gives up 2",
    );
    check(
        BRANCHED,
        "position c.000002:300",
        "full-1 + 2 3 4 7 8 9; stop T2 c.000002:356 +32; last 9, next none; gives up 0",
    );
    check(BRANCHED, "position b.000002:300", "refused: there is no position b.000002:300 in the timeline and its past");
    let catalog = Catalog::parse(BRANCHED);
    let error: Error = catalog.plan(&catalog.target("position b.000002:300")).unwrap_err().into();
    assert!(error.hint_text().unwrap().contains("A file of that name is in timeline 1"), "{error}");
}

#[test]
fn skipped_transactions_are_left_out_and_no_base_holds_them() {
    let catalog = "
        timeline 1
        file b.000001: 1@10 2@11 | 3@12 | 4@13
        backup full-1 after 1
        backup full-2 after 3
        timeline 2 from 1 after 4 skipping 3
        file b.000001: 7@30
        backup full-3 after 7
        file c.000002: 8@31";
    // The branch left 3 out: full-2 holds it, full-3 does not.
    check(catalog, "before-gtid 7", "full-1 + 2 4; stop T2 b.000001:256 +13; last 4, next 7; gives up 2");
    check(catalog, "time 20", "full-1 + 2 4; stop T1 b.000001:656 +13; last 4, next 7; gives up 2");
    check(catalog, "latest", "full-3 + 8; stop T2 c.000002:356 +31; last 8, next none; gives up 0");
    check(catalog, "gtid 4", "full-2 + 4; stop T1 b.000001:656 +13; last 4, next 7; gives up 2");
    check(catalog, "latest skip 7", "full-1 + 2 4 8; stop T2 c.000002:356 +31; last 8, next none; gives up 0");
    check(catalog, "latest skip 3", "full-3 + 8; stop T2 c.000002:356 +31; last 8, next none; gives up 0");
    check(catalog, "latest skip 8", "full-3 + nothing; stop T2 c.000002:356 +31; last none, next none; gives up 0");
    check(
        catalog,
        "latest skip 1",
        "refused: 0-1-1 cannot be left out: every backup that leads to the target holds it",
    );
    check(catalog, "gtid 2 skip 4", "refused: 0-1-4 cannot be left out: it is not before the target");
    check(
        catalog,
        "gtid 4 skip 2 base full-2",
        "refused: backup full-2 does not lead to the target: it holds 0-1-2, which shall be left out",
    );
}

#[test]
fn a_recovery_right_after_a_recovery_needs_no_write_between() {
    let catalog = "
        timeline 1
        file b.000001: 1@10 2@11 3@12
        backup full-1 after 1
        timeline 2 from 1 after 2
        backup full-2 begin
        file b.000001: |";
    check(catalog, "latest", "full-2 + nothing; stop T2 b.000001:256 +11; last none, next none; gives up 0");
    check(catalog, "backup full-2", "full-2 + nothing; stop T2 b.000001:256 +11; last none, next none; gives up 0");
    check(catalog, "time 500", "full-2 + nothing; stop T2 b.000001:256 +11; last none, next none; gives up 0");
    check(catalog, "backup full-1", "full-1 + nothing; stop T1 b.000001:356 +10; last none, next 2; gives up 1");
    let nothing_shipped = "
        timeline 1
        file b.000001: 1@10 2@11 3@12
        backup full-1 after 1
        timeline 2 from 1 after 2";
    check(nothing_shipped, "latest", "full-1 + 2; stop T1 b.000001:456 +11; last 2, next none; gives up 0");
}

#[test]
fn a_branch_whose_past_was_not_shipped_is_a_gap() {
    let mut catalog = Catalog::parse(BRANCHED);
    catalog.chunks.remove(1);
    let told = catalog.render_refusal(catalog.plan(&catalog.target("latest")).unwrap_err());
    assert!(told.contains("binlog up to the branch is not in the repository"), "{told}");
    let mut catalog = Catalog::parse(BRANCHED);
    let first = catalog.chunks.iter().position(|chunk| chunk.facts.timeline == catalog.timelines[1].id).unwrap();
    catalog.chunks.remove(first);
    let told = catalog.render_refusal(catalog.plan(&catalog.target("latest")).unwrap_err());
    assert!(told.contains("nothing is known of what lies before c.000002:0"), "{told}");
}

#[test]
fn a_gtid_that_was_used_twice_is_refused_with_both_places() {
    let catalog = "
        timeline 1
        file b.000001: 1@10 2@11
        backup full-1 after 1
        file b.000002: 2@12";
    check(
        catalog,
        "gtid 2",
        "refused: 0-1-2 names more than one transaction: b.000001:356 of timeline 1 (T1), b.000002:256 of timeline 1 (T1)",
    );
}

#[test]
fn the_position_is_folded_over_all_domains_and_ends_where_the_applier_ends() {
    let catalog = Catalog::parse(
        "timeline 1
         file b.000001: 1@10 1-1-1@11 0-2-2@12 | 0-1-3@13 1-2-2@14
         backup full-1 after 1
         timeline 2 from 1 after 0-2-2
         file b.000001: 0-1-4@30",
    );
    let position = |target: &str| catalog.plan(&catalog.target(target)).unwrap().position.to_string();
    assert_eq!(position("latest"), "0-1-4,1-1-1");
    assert_eq!(position("gtid 1-2-2"), "0-1-3,1-2-2");
    assert_eq!(position("gtid 0-2-2"), "0-2-2,1-1-1");
    assert_eq!(position("gtid 1-2-2 skip 1-1-1,1-2-2"), "0-1-3");
}

#[test]
fn backups_of_others_and_unknown_ones_are_named() {
    let catalog = format!("{PLAIN}\nbackup theirs after 7 foreign\nbackup half after 7 SAVING");
    check(&catalog, "backup theirs", "refused: backup theirs is of another instance");
    check(&catalog, "backup half", "refused: backup half is SAVING, not COMPLETED");
    check(&catalog, "backup none", "refused: backup 39999999-0000-4000-8000-000000000000 cannot be found");
    check(&catalog, "latest base theirs", "refused: backup theirs is of another instance");
    let catalog = Catalog::parse(&catalog);
    let kind = |target: &str| Error::from(catalog.plan(&catalog.target(target)).unwrap_err()).kind();
    assert_eq!(kind("backup theirs"), ErrorKind::InvalidInput);
    assert_eq!(kind("backup half"), ErrorKind::Conflict);
    assert_eq!(kind("backup none"), ErrorKind::NotFound);
    assert_eq!(kind("gtid 99"), ErrorKind::Refused);
}

#[test]
fn a_server_of_another_series_a_short_disk_and_a_busy_instance_are_refused() {
    check(
        &format!("{PLAIN}\nserver 11.4.2-MariaDB"),
        "latest",
        "refused: backup full-1 was taken from version 10.11.19-MariaDB, the server is 11.4.2-MariaDB",
    );
    check(
        &format!("{PLAIN}\nprogram 11.8.6"),
        "latest",
        "refused: backup full-1 was taken from version 10.11.19-MariaDB, the server program that coffer is configured with is 11.8.6",
    );
    let needed = 1000 + 100 + 2 * (800 - 456 + 456) + 64 * 1024 * 1024;
    check(
        &format!("{PLAIN}\nfree {}", needed - 1),
        "latest",
        &format!(
            "refused: the recovery needs {needed} bytes free beside the data directory, {} are free: 1 bytes short",
            needed - 1
        ),
    );
    check(
        &format!("{PLAIN}\nfree {needed}"),
        "time 12",
        "full-1 + 3 4; stop T1 b.000001:656 +12; last 4, next 5; gives up 3",
    );
    check(&format!("{PLAIN}\nbusy backup"), "latest", "refused: the instance is busy: backup");
}

#[test]
fn warnings_say_what_is_true_of_the_plan() {
    let told = |catalog: &str, target: &str| {
        let catalog = Catalog::parse(catalog);
        catalog.plan(&catalog.target(target)).unwrap().warnings.join("; ")
    };
    assert_eq!(told(PLAIN, "gtid 3"), "");
    assert_eq!(told(PLAIN, "time 13"), "");
    assert_eq!(
        told(PLAIN, "time 15"),
        "commit times are whole seconds: all transactions of 2026-07-01T12:00:15Z come back, the last is 0-1-6 \
         (DROP TABLE orders); to cut within the second, name a transaction"
    );
    assert!(told(&format!("{PLAIN}\nshipped as of 20"), "time 20").contains("may have committed more at"));
    assert!(told(&format!("{PLAIN}\nserver 10.11.20"), "latest").contains("10.11.19-MariaDB, the server is 10.11.20"));
    assert!(told(PLAIN, "latest skip 4").starts_with("transactions left out: 1;"));
    let long = "timeline 1\n file b.000001: 1@10 2@100000x\n backup full-1 after 1";
    let warnings = told(long, "latest");
    assert!(!warnings.contains("logged as statements"), "{warnings}");
    let format = "timeline 1\n file b.000001: 1@10 2@20s 3@30\n backup full-1 after 1";
    assert!(told(format, "latest").contains("logged as statements"), "{}", told(format, "latest"));
    // Wherever in the window it is, and only there: the base's end, the stop and what is left out cut within chunks.
    let window = "timeline 1
        file b.000001: 1@10s 2@20 | 3@30 | 4@40s 5@50 | 6@60
        file b.000002: 7@70 | 8@80 9@90s | 10@100
        backup full-1 after 1
        backup full-2 after 5";
    for (target, is_told) in [
        ("gtid 3 base full-1", false),
        ("gtid 4 base full-1", true),
        ("gtid 7 base full-1", true),
        ("latest base full-1", true),
        ("gtid 7 base full-1 skip 4", false),
        ("gtid 8 base full-2", false),
        ("gtid 9 base full-2", true),
        ("gtid 10 base full-2", true),
        ("gtid 10 base full-2 skip 9", false),
        ("before-gtid 9 base full-2", false),
    ] {
        let warnings = told(window, target);
        assert_eq!(warnings.contains("logged as statements"), is_told, "{target}: {warnings}");
    }
    assert!(warnings.contains("ends 27 hours before") && warnings.contains("XA RECOVER"), "{warnings}");
}

#[test]
fn a_plan_holds_what_the_recovery_reads_and_costs() {
    let catalog = Catalog::parse(PLAIN);
    let plan = catalog.plan(&catalog.target("before-gtid 7")).unwrap();
    let pieces: Vec<String> = plan
        .chunks
        .iter()
        .map(|chunk| format!("{}:{}..{} of {}..{}", chunk.file, chunk.from, chunk.to, chunk.begin, chunk.end))
        .collect();
    assert_eq!(pieces, ["b.000001:456..800 of 456..800", "b.000002:0..356 of 0..356"]);
    assert_eq!((plan.transactions, plan.replay_bytes, plan.download_bytes), (4, 344 + 356, 500 + 172 + 178));
    assert_eq!(plan.last_included.unwrap().what, "DROP TABLE orders");
    let next = plan.first_excluded.unwrap();
    assert_eq!((next.what.as_str(), next.begins_at.to_string().as_str()), ("shop.items", "b.000002:356"));
}

#[test]
fn every_refusal_has_a_remedy() {
    let catalog = Catalog::parse(&format!("{BRANCHED}\nshipped as of 32\nnow 40"));
    for target in
        ["time 5", "time 36", "time 99", "gtid 99", "position b.000001:300", "position x.1:1", "latest base no"]
    {
        let error: Error = catalog.plan(&catalog.target(target)).unwrap_err().into();
        assert!(error.hint_text().is_some_and(|hint| hint.ends_with('.')), "{target}: {error}");
        assert!(!error.message().ends_with('.'), "{target}: {error}");
    }
}

#[test]
fn only_the_chunks_around_the_decisions_are_read() {
    let mut text = "timeline 1\nfile b.000001:".to_owned();
    for number in 1..=200 {
        text.push_str(&format!(" {number}@{number} |"));
    }
    let catalog = Catalog::parse(&format!("{text}\nbackup full-1 after 1"));
    for target in ["time 150", "gtid 150", "before-gtid 151", "latest", "position b.000001:15200 skip 70"] {
        let before = catalog.reads.get();
        let plan = catalog.plan(&catalog.target(target)).unwrap();
        assert!(plan.transactions >= 148, "{target}");
        assert!(catalog.reads.get() - before <= 5, "{target}: {} chunks read", catalog.reads.get() - before);
    }
}

#[test]
fn with_a_timeline_the_newest_file_of_a_name_is_meant_and_said() {
    let catalog = "
        timeline 1
        file b.000001: 1@10 2@11
        backup full-1 after 1
        file b.000001: 3@12 4@13";
    check(catalog, "position b.000001:300", "refused: more than one binlog file is named b.000001: timeline 1 (T1)");
    check(
        catalog,
        "position b.000001:300 timeline 1",
        "full-1 + 2 3; stop T1 b.000001:356 +12; last 3, next 4; gives up 1",
    );
    let catalog = Catalog::parse(catalog);
    let plan = catalog.plan(&catalog.target("position b.000001:300 timeline 1")).unwrap();
    assert!(plan.warnings.concat().contains("the newest of them is meant"), "{:?}", plan.warnings);
}

#[test]
fn a_base_that_ends_inside_a_transaction_is_passed_over() {
    let mut catalog = Catalog::parse(
        "timeline 1
         file b.000001: 1@10 2@11 3@12
         backup full-1 after 1
         backup full-2 after 2",
    );
    if let Some(end) = &mut catalog.backups[1].end {
        end.at.position -= 50;
    }
    let plan = catalog.plan(&catalog.target("latest")).unwrap();
    assert_eq!(catalog.render(&plan), "full-1 + 2 3; stop T1 b.000001:556 +12; last 3, next none; gives up 0");
    let told = catalog.render_refusal(catalog.plan(&catalog.target("latest base full-2")).unwrap_err());
    assert!(told.contains("the catalog has its end inside a transaction"), "{told}");
}

#[test]
fn a_second_that_a_gap_divides_is_refused_and_one_that_ends_at_the_gap_is_warned_of() {
    let catalog = |behind: u32| {
        format!(
            "timeline 1
             file b.000001: 1@10 2@11
             backup full-1 after 1
             file b.000002: (3@11)
             file b.000003: 4@{behind}"
        )
    };
    let plan = "full-1 + 2; stop T1 b.000001:500 +11; last 2, next none; gives up 1";
    check(&catalog(12), "time 11", plan);
    let told = Catalog::parse(&catalog(12));
    let warnings = told.plan(&told.target("time 11")).unwrap().warnings.concat();
    assert!(warnings.contains("never shipped; it may hold more transactions of 2026-07-01T12:00:11Z"), "{warnings}");
    let told = Catalog::parse(&catalog(11));
    assert!(matches!(told.plan(&told.target("time 11")), Err(crate::recovery::plan::PlanError::BinlogGap(_))));
}

#[test]
fn a_damaged_backup_is_no_base_and_one_that_is_asked_for_is_refused_by_name() {
    let damaged = "
        timeline 1
        file b.000001: 1@10 2@11 | 3@12
        backup full-1 after 1
        backup full-2 after 2
        bad backup full-2";
    check(damaged, "latest", "full-1 + 2 3; stop T1 b.000001:556 +12; last 3, next none; gives up 0");
    check(damaged, "time 11", "full-1 + 2; stop T1 b.000001:456 +11; last 2, next 3; gives up 1");
    let refusal = "refused: backup full-2 does not lead to the target: it is damaged, a bit flipped";
    check(damaged, "backup full-2", refusal);
    check(damaged, "latest base full-2", refusal);
    check(&format!("{damaged} \n bad backup full-1"), "latest", refusal);
    check(&format!("{damaged} \n bad backup full-1"), "time 10", &refusal.replace("full-2", "full-1"));
    let plan = Catalog::parse(damaged);
    let warnings = plan.plan(&plan.target("latest")).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("nearer to the target but damaged")), "{warnings:?}");
    assert!(plan.plan(&plan.target("time 10")).unwrap().warnings.is_empty());
}

#[test]
fn a_damaged_chunk_ends_what_can_be_reached_and_what_lies_before_it_is_still_there() {
    let damaged = "
        timeline 1
        file b.000001: 1@10 | 2@11 | 3@12 | 4@13
        backup full-1 after 1
        bad chunk with 3";
    let refusal = "refused: the target needs binlog chunk `T1/00000001-000000000456-000000000556`, and that is damaged, \
                   a bit flipped; last reachable is 2026-07-01T12:00:11Z (b.000001:456)";
    for target in ["latest", "time 13", "gtid 4", "gtid 3", "before-gtid 4", "position b.000001:500"] {
        check(damaged, target, refusal);
    }
    let before = "full-1 + 2; stop T1 b.000001:456 +11; last 2, next none; gives up 2";
    for target in ["time 11", "gtid 2", "position b.000001:456"] {
        check(damaged, target, before);
    }
    // A backup behind it makes up for it.
    let behind = format!("{damaged} \n backup full-2 after 3");
    check(&behind, "latest", "full-2 + 4; stop T1 b.000001:656 +13; last 4, next none; gives up 0");
}
