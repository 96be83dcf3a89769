//! `do_backup`: a full backup, streamed from the server's tool through the pipeline into the repository.
//!
//! A backup counts only once its manifest is written and read back, and that only happens when the binlog up to the
//! backup's end is in the repository: a backup that leads nowhere is none.

mod clone;
mod source;
mod stream;

use std::path::PathBuf;
use std::time::Duration;

use crate::agent::backup::stream::store_stream;
use crate::agent::ship::{Drained, Shipper};
use crate::agent::{Context, Reporter, fault_of};
use crate::clock::{self, Deadline};
use crate::datastore::mysqld;
use crate::datastore::sql::Sql;
use crate::domain::backup::{Backup, BackupEnd, BackupStatus};
use crate::domain::coordinate::{BinlogPosition, Coordinate};
use crate::domain::gtid::GtidPosition;
use crate::domain::id::{BackupId, TaskId};
use crate::domain::instance::{Control, Instance, InstanceStatus};
use crate::domain::task::TaskKind;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::repository;
use crate::repository::manifest::Manifest;
use crate::repository::resume::PartJournal;
use crate::storage::patience;

/// How long the shipper may take to reach the end of a backup.
const SHIP_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a backup waits at its begin for a repository or a server that does not answer.
const BEGIN_PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two tries while the repository does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Takes the backup and settles its row, whatever happens.
pub(crate) fn do_backup(context: &Context, shipper: &Shipper, task: TaskId, id: BackupId) -> Result<(), Error> {
    let mut backup = context.store.read(|db| db.backup(id))?;
    if !backup.status.is_running() {
        return Ok(()); // Settled in an earlier life.
    }
    let instance = context.store.read(|db| db.instance(backup.instance))?;
    set_status(context, &instance, InstanceStatus::Active, InstanceStatus::Backup)?;
    let outcome = run(context, shipper, task, &instance, &mut backup);
    let settled = context.store.write(|tx| {
        if let Err(err) = &outcome {
            if err.kind() == ErrorKind::Interrupted {
                backup.status = BackupStatus::New;
            } else {
                backup.status = BackupStatus::Failed;
                backup.fault = Some(fault_of(err));
            }
            backup.updated_at = clock::now();
            tx.update_backup(&backup)?;
        }
        Ok(())
    });
    if let Err(err) = &outcome
        && err.kind() != ErrorKind::Interrupted
        && let Err(err) = context.repository.delete_backup(instance.id, id).and_then(|()| remove_journal(context, id))
    {
        // Parts without a manifest are no backup; they only take space.
        logging::warn("backup", format!("{id}: what it had stored is not removed: {err}"));
    }
    outcome.and(settled).and(set_status(context, &instance, InstanceStatus::Backup, InstanceStatus::Active))
}

/// Changes the status unless something else has: a recovery that waits for this backup to give way shows BUILD.
fn set_status(context: &Context, instance: &Instance, from: InstanceStatus, to: InstanceStatus) -> Result<(), Error> {
    context.store.write(|tx| {
        if tx.instance(instance.id)?.status == from {
            tx.set_instance_status(instance.id, to, None)?;
        }
        Ok(())
    })
}

/// A backup gives way to what cannot wait.
fn check_wanted(context: &Context, instance: &Instance) -> Result<(), Error> {
    context.check_stopping()?;
    let gives_way = |kind: &TaskKind| {
        matches!(kind, TaskKind::Recover { .. } | TaskKind::UndoRecovery { .. } | TaskKind::DeleteInstance)
    };
    if context.store.read(|db| db.unfinished_tasks(instance.id))?.iter().any(|task| gives_way(&task.kind)) {
        return Err(Error::new(ErrorKind::Conflict, "the backup was given up for a recovery or a deletion")
            .hint("After a recovery coffer takes a full backup by itself; otherwise take another one."));
    }
    Ok(())
}

fn run(
    context: &Context,
    shipper: &Shipper,
    task: TaskId,
    instance: &Instance,
    backup: &mut Backup,
) -> Result<(), Error> {
    let reporter = Reporter::new(&context.store, task);
    reporter.step("backing up");
    let journal = PartJournal::open(&journal_path(context, backup.id)?, &context.repository, backup.id)?;
    if journal.has_predecessor() {
        // An earlier life of coffer did not come to its end; or it did, and could not say so any more.
        if let Some(manifest) = completed_before(context, instance, backup.id)? {
            return complete(context, backup, &manifest);
        }
        (backup.raw_bytes, backup.stored_bytes) = (0, 0);
        logging::info("backup", format!("{}: goes on; {} parts are stored already", backup.id, journal.known()));
    }
    // Before anything is stored, little is lost by telling at once that it cannot be.
    patience::until(Deadline::after(BEGIN_PATIENCE), || context.repository.check_answers())?;
    wait_for_server(context, instance)?;
    let begin = drain(context, shipper, instance, Deadline::after(SHIP_TIMEOUT))?;
    if context.store.read(|db| db.is_unproven(instance.id))? {
        return Err(Error::new(ErrorKind::Refused, "the server on this host is not known to be this instance's").hint(
            format!("Its catalog was rebuilt: recover it first, with `coffer recover {} --latest`.", instance.name),
        ));
    }
    backup.status = BackupStatus::Building;
    backup.strategy = context.tools.of(instance.datastore).strategy;
    save(context, backup)?;
    let stored = store_stream(context, instance, backup, journal, &reporter)?;
    backup.status = BackupStatus::Saving;
    save(context, backup)?;
    reporter.step("waiting for the binlog up to the end of the backup");
    let end = wait_for_end(context, shipper, instance, begin.to.as_ref(), &stored.taken.ends_at)?;
    let end = with_held(end, stored.taken.position)?;
    let manifest = Manifest {
        format: repository::FORMAT,
        backup: backup.id,
        instance: instance.id,
        timeline: end.at.timeline,
        name: backup.name.clone(),
        description: backup.description.clone(),
        datastore: instance.datastore,
        strategy: backup.strategy,
        server_version: stored.taken.server_version.clone(),
        tool: stored.taken.tool,
        tool_version: stored.taken.tool_version,
        compression: context.repository.compression().name().to_owned(),
        encrypted_to: context.repository.recipients().to_vec(),
        raw_bytes: stored.raw_bytes,
        sha256: stored.sha256,
        parts: stored.parts,
        begin: begin.to,
        end,
        created_at: backup.created_at,
        completed_at: clock::now(),
    };
    complete(context, backup, &manifest)
}

/// A backup's end with what its data holds there, as a server started on the very data said, if one was: it may have more
/// than its own binlogs ever held, never less.
fn with_held(mut end: BackupEnd, held: Option<GtidPosition>) -> Result<BackupEnd, Error> {
    let Some(position) = held else { return Ok(end) };
    let lacking = end.position.executed().without(position.executed());
    if !lacking.is_empty() {
        // One line, where the server writes several.
        let lacking = lacking.to_string().replace('\n', "");
        let what = format!("the backup says it ends at {}, and lacks `{lacking}` before that", end.at);
        return Err(Error::new(ErrorKind::Corrupt, what).hint("Take a new backup, and report this if it repeats."));
    }
    end.position = position;
    Ok(end)
}

/// A server that coffer keeps running may be on its way, as after a reset or a crash that called for this backup.
fn wait_for_server(context: &Context, instance: &Instance) -> Result<(), Error> {
    if !matches!(instance.server.control, Control::Created) {
        return Ok(());
    }
    let deadline = Deadline::after(BEGIN_PATIENCE);
    loop {
        check_wanted(context, instance)?;
        match Sql::connect(&mysqld::access(&instance.server)?) {
            Err(err) if err.kind() == ErrorKind::Unavailable && !deadline.has_passed() => {
                std::thread::sleep(RETRY_EVERY.min(deadline.remaining()));
            }
            Err(err) if err.kind() == ErrorKind::Unavailable => {
                return Err(err.hint("Look into the server's error log."));
            }
            answer => return answer.map(drop),
        }
    }
}

/// Makes the stored parts a backup, and says so in its row.
fn complete(context: &Context, backup: &mut Backup, manifest: &Manifest) -> Result<(), Error> {
    let (location, checksum) = context.repository.put_manifest(manifest)?;
    backup.status = BackupStatus::Completed;
    backup.server_version = manifest.server_version.clone();
    (backup.raw_bytes, backup.stored_bytes) = (manifest.raw_bytes, manifest.stored_bytes());
    backup.location = Some(location);
    backup.checksum = Some(checksum);
    backup.end = Some(manifest.end.clone());
    // As the manifest has it, so that a catalog rebuilt from there says the same.
    backup.updated_at = manifest.completed_at;
    context.store.write(|tx| tx.update_backup(backup))?;
    // From here on it is a backup; what is left to do only saves space.
    let tidied = context.repository.delete_orphans(manifest).and_then(|_| remove_journal(context, backup.id));
    if let Err(err) = tidied {
        logging::warn("backup", format!("{}: what earlier tries have stored is not removed: {err}", backup.id));
    }
    Ok(())
}

/// The manifest of a backup that an earlier life of coffer completed without living to note it.
fn completed_before(context: &Context, instance: &Instance, id: BackupId) -> Result<Option<Manifest>, Error> {
    match context.repository.read_manifest(instance.id, id) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) if matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
            logging::warn("backup", format!("{id}: begins anew: {err}"));
            context.repository.delete_backup(instance.id, id)?;
            Ok(None)
        }
        Err(err) => Err(err),
    }
}

/// Where a backup notes what it has stored.
fn journal_path(context: &Context, id: BackupId) -> Result<PathBuf, Error> {
    let dir = context.settings.state_dir.join("backups");
    std::fs::create_dir_all(&dir).map_err(|err| io_error("unable to create", &dir, err))?;
    Ok(dir.join(format!("{id}.parts")))
}

fn remove_journal(context: &Context, id: BackupId) -> Result<(), Error> {
    let path = journal_path(context, id)?;
    match std::fs::remove_file(&path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(io_error("unable to remove", &path, err)),
        _ => Ok(()),
    }
}

/// Waits until the binlog up to the backup's end is in the repository, and says exactly what that end is.
fn wait_for_end(
    context: &Context,
    shipper: &Shipper,
    instance: &Instance,
    begin: Option<&Coordinate>,
    ends_at: &BinlogPosition,
) -> Result<BackupEnd, Error> {
    let deadline = Deadline::after(SHIP_TIMEOUT);
    loop {
        drain(context, shipper, instance, deadline)?;
        if let Some(end) = find_end(context, instance, begin, ends_at)? {
            return Ok(end);
        }
        if deadline.has_passed() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the binlog up to {ends_at}, where the backup ends, did not reach the repository"),
            )
            .hint("See what `coffer status` says of shipping, then take a new backup."));
        }
        std::thread::sleep(context.settings.poll);
    }
}

/// Ships what there is. A repository that does not answer is asked again until the deadline: behind a stored stream it
/// would be a pity to give up for less.
fn drain(context: &Context, shipper: &Shipper, instance: &Instance, deadline: Deadline) -> Result<Drained, Error> {
    loop {
        check_wanted(context, instance)?;
        match shipper.drain(deadline) {
            Err(err) if err.kind() == ErrorKind::Unavailable && !deadline.has_passed() => {
                std::thread::sleep(RETRY_EVERY.min(deadline.remaining()));
            }
            drained => return drained,
        }
    }
}

/// Finds the backup's end among what is shipped, in the chunks since the backup began.
fn find_end(
    context: &Context,
    instance: &Instance,
    begin: Option<&Coordinate>,
    ends_at: &BinlogPosition,
) -> Result<Option<BackupEnd>, Error> {
    const PAGE: usize = 1000;
    let Some(timeline) = context.store.read(|db| db.current_timeline(instance.id))? else { return Ok(None) };
    let mut from = match begin {
        // One byte back, so that the chunk that ends where the backup began is among them.
        Some(begin) if begin.timeline == timeline.id => (begin.ordinal, begin.position.saturating_sub(1)),
        _ => (0, 0),
    };
    loop {
        let page = context.store.read(|db| db.chunks_from(timeline.id, from.0, from.1, PAGE))?;
        for chunk in &page {
            let facts = &chunk.facts;
            if facts.file == ends_at.file && facts.end >= ends_at.position && facts.begin <= ends_at.position {
                return crate::agent::history::place_in_chunk(context, chunk, ends_at.position).map(Some);
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => from = (last.facts.ordinal, last.facts.end),
            _ => return Ok(None),
        }
    }
}

fn save(context: &Context, backup: &mut Backup) -> Result<(), Error> {
    backup.updated_at = clock::now();
    context.store.write(|tx| tx.update_backup(backup))
}

/// Removes a backup from the repository and from the catalog.
pub(crate) fn delete_backup(context: &Context, id: BackupId) -> Result<(), Error> {
    let mut backup = match context.store.read(|db| db.backup(id)) {
        Ok(backup) => backup,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()), // Removed in an earlier life.
        Err(err) => return Err(err),
    };
    match context.repository.delete_backup(backup.instance, id) {
        Ok(()) => {
            remove_journal(context, id)?;
            context.store.write(|tx| tx.remove_backup(id))
        }
        Err(err) => {
            backup.status = BackupStatus::DeleteFailed;
            backup.fault = Some(fault_of(&err));
            save(context, &mut backup)?;
            Err(err)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::TimelineId;

    const SOURCE: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const ELSEWHERE: &str = "aaaaaaaa-71ca-11e1-9e33-c80aa9429562";

    /// The binlogs lead to `binlog.000003:4711` with this executed, and the data says it holds `held`.
    fn end(executed: &str, held: Option<&str>) -> Result<BackupEnd, Error> {
        let position = |set: &str| set.parse::<GtidPosition>().unwrap();
        let file = "binlog.000003".to_owned();
        let at = Coordinate { timeline: TimelineId::random(), ordinal: 3, file, position: 4711 };
        with_held(BackupEnd { at, position: position(executed), clock: 1 }, held.map(position))
    }

    #[test]
    fn a_backup_that_lacks_what_was_committed_before_its_end_is_none() {
        let err = end(&format!("{SOURCE}:1-20,{ELSEWHERE}:1-5"), Some(&format!("{SOURCE}:1-9:12-20"))).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt);
        let lacking = format!("lacks `{SOURCE}:10-11,{ELSEWHERE}:1-5`");
        for word in ["binlog.000003:4711", &lacking] {
            assert!(err.message().contains(word), "{word}: {err}");
        }
        assert_eq!(
            end(&format!("{SOURCE}:1"), Some("")).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "and if it has nothing"
        );
    }

    #[test]
    fn a_backup_holds_what_its_data_says_even_if_no_binlog_ever_did() {
        let executed = format!("{SOURCE}:1-20");
        for held in [executed.clone(), format!("{SOURCE}:1-20,{ELSEWHERE}:1-5")] {
            assert_eq!(end(&executed, Some(&held)).unwrap().position, held.parse().unwrap());
        }
        assert_eq!(end(&executed, None).unwrap().position, executed.parse().unwrap(), "where nobody asked the data");
    }
}
