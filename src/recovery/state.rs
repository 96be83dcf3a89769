//! The walk of a recovery through its states: one closed table of arrows, and nothing beside it.
//!
//! Each arrow is one durable write of the journal. Until the fence the server serves, so that an abort or a failure
//! costs nothing; a fenced server is let go again. From the switch on there is only forward, or the undo.

use std::fmt;

use crate::domain::recovery::RecoveryState;
use crate::error::{Error, ErrorKind};

/// What happened to a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The base lies unpacked in the work directory.
    Staged,
    /// The staged data was made consistent.
    Prepared,
    /// The replay has reached exactly the planned position.
    Replayed,
    /// The staged data cannot be relied upon any more (a killed prepare, a killed replay): it is made anew.
    StartedOver,
    /// The server is stopped and guarded, its last binlog kept.
    Fenced,
    /// The data directories are exchanged.
    Switched,
    /// The server answers on the recovered data.
    Promoted,
    /// The old data is put away for an undo.
    Retained,
    /// Given up on request; a fenced server serves again.
    Aborted,
    /// Given up because a step failed for good; a fenced server serves again.
    Failed,
    /// The undo has stopped and guarded the server.
    UndoFenced,
    /// The undo failed before it exchanged anything; the server serves again.
    UndoFailed,
    /// The data directories are exchanged back.
    UndoSwitched,
    /// The server answers on the data it had before.
    Undone,
    /// The old data is freed.
    Released,
}

impl Event {
    #[cfg(test)]
    const ALL: [Event; 15] = [
        Event::Staged,
        Event::Prepared,
        Event::Replayed,
        Event::StartedOver,
        Event::Fenced,
        Event::Switched,
        Event::Promoted,
        Event::Retained,
        Event::Aborted,
        Event::Failed,
        Event::UndoFenced,
        Event::UndoFailed,
        Event::UndoSwitched,
        Event::Undone,
        Event::Released,
    ];

    /// What it means, as the end of "cannot be ...".
    fn words(self) -> &'static str {
        match self {
            Event::Staged => "staged",
            Event::Prepared => "prepared",
            Event::Replayed => "replayed",
            Event::StartedOver => "started over",
            Event::Fenced => "fenced",
            Event::Switched => "switched",
            Event::Promoted => "promoted",
            Event::Retained => "retained",
            Event::Aborted => "aborted",
            Event::Failed => "failed",
            Event::UndoFenced => "undone",
            Event::UndoFailed => "taken back from its undo",
            Event::UndoSwitched => "switched back",
            Event::Undone => "finished undoing",
            Event::Released => "released",
        }
    }
}

/// The arrows that leave a state.
fn arrows(state: RecoveryState) -> &'static [(Event, RecoveryState)] {
    match state {
        RecoveryState::Planned => &[
            (Event::Staged, RecoveryState::Staged),
            (Event::StartedOver, RecoveryState::Planned),
            (Event::Aborted, RecoveryState::Aborted),
            (Event::Failed, RecoveryState::Failed),
        ],
        RecoveryState::Staged => &[
            (Event::Prepared, RecoveryState::Prepared),
            (Event::StartedOver, RecoveryState::Planned),
            (Event::Aborted, RecoveryState::Aborted),
            (Event::Failed, RecoveryState::Failed),
        ],
        RecoveryState::Prepared => &[
            (Event::Replayed, RecoveryState::Replayed),
            (Event::StartedOver, RecoveryState::Planned),
            (Event::Aborted, RecoveryState::Aborted),
            (Event::Failed, RecoveryState::Failed),
        ],
        RecoveryState::Replayed => &[
            (Event::Fenced, RecoveryState::Fenced),
            // A power cut may cost what the scratch server wrote with relaxed durability.
            (Event::StartedOver, RecoveryState::Planned),
            (Event::Aborted, RecoveryState::Aborted),
            (Event::Failed, RecoveryState::Failed),
        ],
        RecoveryState::Fenced => &[
            (Event::Switched, RecoveryState::Switched),
            (Event::Aborted, RecoveryState::Aborted),
            (Event::Failed, RecoveryState::Failed),
        ],
        RecoveryState::Switched => &[
            (Event::Promoted, RecoveryState::Promoted),
            // The server is down and guarded already: the exchange back is all there is to do.
            (Event::UndoSwitched, RecoveryState::UndoSwitched),
        ],
        RecoveryState::Promoted => {
            &[(Event::Retained, RecoveryState::Retained), (Event::UndoFenced, RecoveryState::UndoFenced)]
        }
        RecoveryState::Retained => {
            &[(Event::UndoFenced, RecoveryState::UndoFenced), (Event::Released, RecoveryState::Released)]
        }
        RecoveryState::UndoFenced => {
            &[(Event::UndoSwitched, RecoveryState::UndoSwitched), (Event::UndoFailed, RecoveryState::Retained)]
        }
        RecoveryState::UndoSwitched => &[(Event::Undone, RecoveryState::Undone)],
        RecoveryState::Undone | RecoveryState::Aborted | RecoveryState::Failed | RecoveryState::Released => &[],
    }
}

/// The state after `event`. Fails when the event cannot happen in this state, and never ignores it.
pub(crate) fn next(state: RecoveryState, event: Event) -> Result<RecoveryState, IllegalEvent> {
    let arrow = arrows(state).iter().find(|(on, _)| *on == event);
    arrow.map(|(_, to)| *to).ok_or(IllegalEvent { state, event })
}

/// An event that its state does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IllegalEvent {
    pub(crate) state: RecoveryState,
    pub(crate) event: Event,
}

impl fmt::Display for IllegalEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a recovery in state {} cannot be {}", self.state.name(), self.event.words())
    }
}

impl std::error::Error for IllegalEvent {}

impl From<IllegalEvent> for Error {
    fn from(illegal: IllegalEvent) -> Error {
        let error = Error::new(ErrorKind::Conflict, illegal.to_string());
        match illegal.state {
            RecoveryState::Switched | RecoveryState::Promoted => {
                error.hint("The data is switched already: wait until it is RETAINED, then undo it.")
            }
            RecoveryState::Retained => error.hint("It is done; undo it, or release the old data."),
            RecoveryState::Released => error.hint("The old data is freed; recover to an earlier point instead."),
            RecoveryState::Planned
            | RecoveryState::Staged
            | RecoveryState::Prepared
            | RecoveryState::Replayed
            | RecoveryState::Fenced
            | RecoveryState::UndoFenced
            | RecoveryState::UndoSwitched => error.hint("Wait until it has gone on; see `coffer recovery show`."),
            RecoveryState::Undone | RecoveryState::Aborted | RecoveryState::Failed => {
                error.hint("It is over; start a new recovery.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn walk(events: &[Event]) -> Result<RecoveryState, IllegalEvent> {
        events.iter().try_fold(RecoveryState::Planned, |state, event| next(state, *event))
    }

    fn allows(state: RecoveryState, event: Event) -> bool {
        next(state, event).is_ok()
    }

    const TO_RETAINED: [Event; 7] = [
        Event::Staged,
        Event::Prepared,
        Event::Replayed,
        Event::Fenced,
        Event::Switched,
        Event::Promoted,
        Event::Retained,
    ];

    #[test]
    fn a_recovery_walks_to_retained_and_is_undone_or_released() {
        assert_eq!(walk(&TO_RETAINED), Ok(RecoveryState::Retained));
        let undo = [&TO_RETAINED[..], &[Event::UndoFenced, Event::UndoSwitched, Event::Undone]].concat();
        assert_eq!(walk(&undo), Ok(RecoveryState::Undone));
        let release = [&TO_RETAINED[..], &[Event::Released]].concat();
        assert_eq!(walk(&release), Ok(RecoveryState::Released));
    }

    #[test]
    fn abort_and_failure_are_possible_up_to_the_fence_and_not_after_the_switch() {
        for count in 0..=TO_RETAINED.len() {
            let state = walk(&TO_RETAINED[..count]).unwrap();
            let before_the_switch = count <= 4;
            assert_eq!(
                next(state, Event::Aborted).ok(),
                before_the_switch.then_some(RecoveryState::Aborted),
                "{state:?}"
            );
            assert_eq!(
                next(state, Event::Failed).ok(),
                before_the_switch.then_some(RecoveryState::Failed),
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_killed_replay_starts_over() {
        for count in 0..=3 {
            let state = walk(&TO_RETAINED[..count]).unwrap();
            assert_eq!(next(state, Event::StartedOver), Ok(RecoveryState::Planned));
        }
        assert!(!allows(RecoveryState::Fenced, Event::StartedOver));
        assert!(!allows(RecoveryState::Switched, Event::StartedOver));
    }

    #[test]
    fn an_undo_that_fails_before_its_switch_leaves_the_recovery_as_it_was() {
        assert_eq!(next(RecoveryState::UndoFenced, Event::UndoFailed), Ok(RecoveryState::Retained));
        assert!(!allows(RecoveryState::UndoSwitched, Event::UndoFailed));
    }

    #[test]
    fn from_the_switch_on_there_is_only_forward_or_undo() {
        let legal = |state| Event::ALL.into_iter().filter(|event| allows(state, *event)).collect::<Vec<_>>();
        assert_eq!(legal(RecoveryState::Switched), [Event::Promoted, Event::UndoSwitched]);
        assert_eq!(legal(RecoveryState::Promoted), [Event::Retained, Event::UndoFenced]);
        assert_eq!(legal(RecoveryState::UndoSwitched), [Event::Undone]);
    }

    #[test]
    fn every_state_can_be_reached_and_every_event_can_happen() {
        let mut reached = BTreeSet::from([RecoveryState::Planned.name()]);
        let mut open = vec![RecoveryState::Planned];
        let mut happened = BTreeSet::new();
        while let Some(state) = open.pop() {
            for event in Event::ALL {
                if let Ok(to) = next(state, event) {
                    happened.insert(format!("{event:?}"));
                    if reached.insert(to.name()) {
                        open.push(to);
                    }
                }
            }
        }
        assert_eq!(reached.len(), RecoveryState::ALL.len());
        assert_eq!(happened.len(), Event::ALL.len());
    }

    #[test]
    fn a_settled_state_needs_a_wish_to_leave_it() {
        for state in RecoveryState::ALL.into_iter().filter(|state| state.is_settled()) {
            for (event, _) in arrows(state) {
                assert!(matches!(event, Event::UndoFenced | Event::Released), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn an_illegal_event_names_state_and_remedy() {
        let err: Error = next(RecoveryState::Released, Event::UndoFenced).unwrap_err().into();
        assert_eq!(err.kind(), ErrorKind::Conflict);
        assert_eq!(err.message(), "a recovery in state RELEASED cannot be undone");
        assert!(err.hint_text().is_some());
    }
}
