//! Stage and prepare: the base backup, fetched in parallel, verified, unpacked beside the data directory, made
//! consistent by the datastore's own tool.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::agent::Context;
use crate::agent::history::free_bytes;
use crate::agent::recovery::Walk;
use crate::datastore::owner::Owner;
use crate::datastore::{mariadb, scratch, xbstream};
use crate::domain::instance::{Control, Instance};
use crate::domain::task::ProgressUnit;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::recovery::state::Event;
use crate::repository::reader::BackupReader;

/// Marks a step that changes staged data: a killed one is not trusted to be repeatable.
const PREPARE_BEGUN: &str = "prepare-begun";
pub(super) const REPLAY_BEGUN: &str = "replay-begun";

/// Whom the data belongs to: the server's user.
pub(super) fn server_owner(context: &Context, instance: &Instance) -> Result<Owner, Error> {
    match instance.server.control {
        Control::Created => Owner::of_user(&context.tools.server_user),
        Control::Systemd { .. } | Control::Argv { .. } => {
            // The directory may be gone; its parent then says nothing, the configured user does.
            Owner::of_path(&instance.server.data_dir).or_else(|_| Owner::of_user(&context.tools.server_user))
        }
    }
}

/// Fetches and unpacks the base backup into an empty directory.
pub(super) fn stage(walk: &mut Walk<'_>) -> Result<(), Error> {
    scratch::discard_leftover(&walk.dir())?;
    clear(&walk.dir())?;
    let new_dir = walk.new_dir();
    check_space(walk)?;
    std::fs::create_dir(&new_dir).map_err(|err| io_error("unable to create", &new_dir, err))?;
    let plan = &walk.journal.plan;
    let manifest = walk.context.repository.read_manifest(plan.instance, plan.base)?;
    if manifest.end != plan.base_end {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the manifest of backup {} does not end where the catalog says", plan.base),
        )
        .hint("Make a new plan; if this repeats, choose another backup with --backup."));
    }
    walk.context.repository.check_opens(&manifest)?;
    let total = manifest.raw_bytes;
    let reader = BackupReader::begin(&walk.context.repository, &manifest, Arc::clone(&walk.cancelled))?;
    let done = AtomicU64::new(0);
    let unpacked = std::thread::scope(|scope| {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let (reporter, done) = (&walk.reporter, &done);
        let progress = std::thread::Builder::new().name("stage-progress".to_owned()).spawn_scoped(scope, move || {
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(std::time::Duration::from_millis(400))
            {
                reporter.report("staging", done.load(std::sync::atomic::Ordering::Relaxed), total, ProgressUnit::Bytes);
            }
        });
        let unpacked = xbstream::unpack(reader, &new_dir, done, &walk.cancelled);
        drop(stop);
        drop(progress);
        unpacked
    })?;
    if unpacked.bytes == 0 {
        return Err(Error::new(ErrorKind::Corrupt, format!("backup {} holds no files", walk.journal.plan.base)));
    }
    walk.enter(Event::Staged)
}

/// Removes what an earlier try left behind, but never anything outside the recovery's own directory.
fn clear(dir: &Path) -> Result<(), Error> {
    for name in ["new", "pieces", "relay"] {
        let path = dir.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|err| io_error("unable to remove", &path, err))?;
        }
    }
    for name in [PREPARE_BEGUN, REPLAY_BEGUN] {
        match std::fs::remove_file(dir.join(name)) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => return Err(io_error("unable to remove", &dir.join(name), err)),
        }
    }
    durable::sync_dir(dir)
}

fn check_space(walk: &Walk<'_>) -> Result<(), Error> {
    let needed = walk.journal.plan.disk_bytes;
    match free_bytes(&walk.dir()) {
        Some(free) if free < needed => Err(Error::new(
            ErrorKind::NoSpace,
            format!(
                "the recovery needs {needed} bytes beside the data directory and {free} are free: {} are missing",
                needed - free
            ),
        )
        .hint("Free that space on the data directory's file system and start the recovery again.")),
        _ => Ok(()),
    }
}

/// Whether a step that must not be repeated on the same data has begun before; if not, notes that it begins now.
pub(super) fn begins_anew(walk: &Walk<'_>, mark: &str) -> Result<bool, Error> {
    let path = walk.dir().join(mark);
    if path.exists() {
        return Ok(false);
    }
    durable::write(&path, b"", 0o600)?;
    Ok(true)
}

/// Makes the staged data consistent.
pub(super) fn prepare(walk: &mut Walk<'_>) -> Result<(), Error> {
    if !begins_anew(walk, PREPARE_BEGUN)? {
        return walk.enter(Event::StartedOver);
    }
    let new_dir = walk.new_dir();
    let log = walk.dir().join("prepare.log");
    mariadb::prepare(&walk.context.tools, &new_dir, &log, &walk.cancelled)?;
    walk.journal.layout = mariadb::innodb_layout(&new_dir)?;
    server_owner(walk.context, &walk.instance)?.give_tree(&new_dir)?;
    walk.enter(Event::Prepared)
}
