//! Rows of timelines. A timeline never changes once it is written.

use rusqlite::{Row, params};

use super::{Db, Tx, sql};
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::timeline::Timeline;
use crate::error::{Error, ErrorKind};

impl Db<'_> {
    pub(crate) fn timeline(&self, id: TimelineId) -> Result<Timeline, Error> {
        self.first("SELECT timeline FROM timelines WHERE id = ?1", [id.to_string()], read)?
            .ok_or_else(|| sql::not_found("timeline", id))
    }

    /// The timelines of an instance, by number.
    pub(crate) fn timelines(&self, instance: InstanceId) -> Result<Vec<Timeline>, Error> {
        let query = "SELECT timeline FROM timelines WHERE instance = ?1 ORDER BY number";
        self.list(query, [instance.to_string()], read)
    }

    /// The timelines of all instances, those deleted too.
    pub(crate) fn timeline_ids(&self) -> Result<Vec<TimelineId>, Error> {
        self.list("SELECT id FROM timelines", [], |row| sql::parsed(row, "id"))
    }

    /// The timeline the instance writes now: the one with the highest number. None before it has any.
    pub(crate) fn current_timeline(&self, instance: InstanceId) -> Result<Option<Timeline>, Error> {
        let query = "SELECT timeline FROM timelines WHERE instance = ?1 ORDER BY number DESC LIMIT 1";
        self.first(query, [instance.to_string()], read)
    }
}

impl Tx<'_> {
    /// Adds a timeline. The same one again is fine; another one with its id or its number is a `Conflict`.
    pub(crate) fn insert_timeline(&self, timeline: &Timeline) -> Result<(), Error> {
        let query = "SELECT timeline FROM timelines WHERE id = ?1 OR (instance = ?2 AND number = ?3)";
        let key = params![timeline.id.to_string(), timeline.instance.to_string(), timeline.number];
        match self.first(query, key, read)? {
            Some(known) if known == *timeline => Ok(()),
            Some(known) => {
                let message = format!(
                    "timeline {} (number {}) is not the one known: {} (number {})",
                    timeline.id, timeline.number, known.id, known.number
                );
                Err(Error::new(ErrorKind::Conflict, message))
            }
            None => self
                .execute(
                    "INSERT INTO timelines (id, instance, number, timeline) VALUES (?1, ?2, ?3, ?4)",
                    params![
                        timeline.id.to_string(),
                        timeline.instance.to_string(),
                        timeline.number,
                        sql::to_json(timeline)?
                    ],
                )
                .map(drop),
        }
    }
}

fn read(row: &Row<'_>) -> Result<Timeline, Error> {
    sql::json(row, "timeline")
}
