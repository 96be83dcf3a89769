//! What a verification of one backup reaches.

use jiff::Timestamp;

use super::*;
use crate::domain::backup::BackupEnd;
use crate::domain::coordinate::Coordinate;
use crate::domain::gtid::GtidPosition;
use crate::domain::id::TimelineId;
use crate::domain::timeline::{Branch, Origin};

fn place(timeline: TimelineId, ordinal: u32, position: u64) -> Coordinate {
    Coordinate { timeline, ordinal, file: format!("b.{ordinal:06}"), position }
}

#[test]
fn a_recovery_from_a_backup_can_need_its_timeline_behind_it_and_whatever_branches_off_there() {
    let instance = InstanceId::random();
    let ids: Vec<TimelineId> = (0..5).map(|_| TimelineId::random()).collect();
    // 2 leaves 1 before the backup's end, 3 behind it, 4 leaves 3 and 5 leaves 2.
    let branches = [None, Some((0, 1, 100)), Some((0, 2, 50)), Some((2, 1, 1)), Some((1, 9, 9))];
    let timelines: Vec<Timeline> = ids
        .iter()
        .zip(branches)
        .zip(1..)
        .map(|((id, branch), number)| Timeline {
            id: *id,
            instance,
            number,
            origin: Origin::Initial,
            branch: branch.map(|(parent, ordinal, position): (usize, u32, u64)| Branch {
                at: place(ids[parent], ordinal, position),
                position: GtidPosition::default(),
                clock: 0,
                skipped: Vec::new(),
            }),
            state_at_begin: Default::default(),
            begun_at: Timestamp::UNIX_EPOCH,
        })
        .collect();
    let end = BackupEnd { at: place(ids[0], 1, 200), position: GtidPosition::default(), clock: 0 };
    let backup = Backup {
        id: BackupId::random(),
        instance,
        name: String::new(),
        description: String::new(),
        status: BackupStatus::Completed,
        fault: None,
        datastore: String::new(),
        server_version: String::new(),
        raw_bytes: 0,
        stored_bytes: 0,
        location: None,
        checksum: None,
        end: Some(end),
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    let found: Vec<(u32, (u32, u64))> =
        histories_behind(&backup, &timelines).iter().map(|it| (it.timeline.number, it.from)).collect();
    assert_eq!(found, [(1, (1, 200)), (3, (0, 0)), (4, (0, 0))]);
}
