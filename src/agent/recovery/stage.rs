//! Stage and prepare: the base backup, fetched in parallel, verified, unpacked beside the data directory, made
//! consistent by the datastore's own tool.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::agent::Context;
use crate::agent::history::free_bytes;
use crate::agent::recovery::Walk;
use crate::agent::recovery::load::{load_beside, load_dump};
use crate::agent::recovery::outage::Outage;
use crate::datastore::owner::Owner;
use crate::datastore::xbstream::{Checkpoint, Target, Unpacked};
use crate::datastore::{mariadb, scratch, xbstream, xtrabackup};
use crate::domain::backup::Strategy;
use crate::domain::instance::{Control, Instance};
use crate::domain::task::ProgressUnit;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::recovery::state::Event;
use crate::repository::reader::BackupReader;
use crate::storage::patience;

/// Says how far the staging has come.
const LEDGER: &str = "staged";
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;
/// Marks a step that changes staged data: a killed one is not trusted to be repeatable.
const PREPARE_BEGUN: &str = "prepare-begun";
pub(super) const REPLAY_BEGUN: &str = "replay-begun";

/// Whom the data belongs to: the server's user.
pub(super) fn server_owner(context: &Context, instance: &Instance) -> Result<Owner, Error> {
    match instance.server.control {
        Control::Created => Owner::of_user(&context.tools.of(instance.datastore).server_user),
        Control::Systemd { .. } | Control::Argv { .. } => {
            // The directory may be gone; its parent then says nothing, the configured user does.
            Owner::of_path(&instance.server.data_dir)
                .or_else(|_| Owner::of_user(&context.tools.of(instance.datastore).server_user))
        }
    }
}

/// Fetches and unpacks the base backup; goes on where an earlier life of coffer was killed.
pub(super) fn stage(walk: &mut Walk<'_>) -> Result<(), Error> {
    scratch::discard_leftover(&walk.dir())?;
    let mut outage = Outage::default();
    let mut came_to = 0;
    let unpacked = loop {
        let done = AtomicU64::new(0);
        match patience::unless(&walk.cancelled, || unpack_base(walk, &done)) {
            Ok(unpacked) => break unpacked,
            Err(err) => {
                let now_at = done.load(Ordering::Relaxed);
                if now_at > came_to {
                    outage.is_over();
                    came_to = now_at;
                }
                outage.wait(walk, "staging", err)?;
            }
        }
    };
    if unpacked.bytes == 0 {
        return Err(Error::new(ErrorKind::Corrupt, format!("backup {} holds no files", walk.journal.plan.base)));
    }
    walk.enter(Event::Staged)?;
    // From here on the data changes; the marks of the next steps keep the ledger from being believed again.
    remove(&walk.dir().join(LEDGER))
}

/// Unpacks the base backup into the new directory, from the last checkpoint on; `done` is where in the stream it is.
fn unpack_base(walk: &Walk<'_>, done: &AtomicU64) -> Result<Unpacked, Error> {
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
    let (new_dir, ledger) = (walk.new_dir(), walk.dir().join(LEDGER));
    let target =
        Target { dir: &new_dir, ledger: &ledger, stream: &manifest.sha256, checkpoint_bytes: CHECKPOINT_BYTES };
    let from = begin_or_go_on(walk, &target)?;
    let total = manifest.raw_bytes;
    done.store(from.offset, Ordering::Relaxed);
    let reader = BackupReader::begin_at(&walk.context.repository, &manifest, from.offset, Arc::clone(&walk.cancelled))?;
    std::thread::scope(|scope| {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let reporter = &walk.reporter;
        let progress = std::thread::Builder::new().name("stage-progress".to_owned()).spawn_scoped(scope, move || {
            while let Err(crossbeam_channel::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(std::time::Duration::from_millis(400))
            {
                reporter.report("staging", done.load(Ordering::Relaxed), total, ProgressUnit::Bytes);
            }
        });
        let unpacked = xbstream::unpack(reader, &target, &from, done, &walk.cancelled);
        drop(stop);
        drop(progress);
        unpacked
    })
}

/// The checkpoint to go on from; an empty directory and the start of the stream when there is none.
fn begin_or_go_on(walk: &Walk<'_>, target: &Target<'_>) -> Result<Checkpoint, Error> {
    // Whatever prepare or replay had begun to change is no longer what the ledger says.
    let is_changed = [PREPARE_BEGUN, REPLAY_BEGUN].iter().any(|mark| walk.dir().join(mark).exists());
    if !is_changed
        && target.dir.is_dir()
        && let Some(checkpoint) = xbstream::last_checkpoint(target.dir, target.ledger, target.stream)?
    {
        let (at, id) = (checkpoint.offset, walk.journal.id);
        logging::info("recovery", format!("{id}: staging goes on at byte {at} of the backup's stream"));
        check_space(walk, checkpoint.bytes)?;
        return Ok(checkpoint);
    }
    clear(&walk.dir())?;
    check_space(walk, 0)?;
    std::fs::create_dir(target.dir).map_err(|err| io_error("unable to create", target.dir, err))?;
    Ok(Checkpoint::default())
}

/// Removes what an earlier try left behind, but never anything outside the recovery's own directory.
fn clear(dir: &Path) -> Result<(), Error> {
    // First what says that the rest is of use.
    remove(&dir.join(LEDGER))?;
    for name in ["new", "pieces", "relay", "dump", "own"] {
        let path = dir.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|err| io_error("unable to remove", &path, err))?;
        }
    }
    for name in [PREPARE_BEGUN, REPLAY_BEGUN] {
        remove(&dir.join(name))?;
    }
    durable::sync_dir(dir)
}

/// Removes a file that need not be there.
fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(io_error("unable to remove", path, err)),
        _ => Ok(()),
    }
}

/// Refuses to begin what the disk cannot hold; `staged` bytes of it are there already.
fn check_space(walk: &Walk<'_>, staged: u64) -> Result<(), Error> {
    let needed = walk.journal.plan.disk_bytes.saturating_sub(staged);
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
    match walk.journal.plan.base_strategy {
        Strategy::Mariabackup => mariadb::prepare(walk.tools(), &new_dir, &log, &walk.cancelled)?,
        // A server has started on it before it counted as a backup.
        Strategy::Clone => load_beside(walk)?,
        Strategy::Dump => load_dump(walk)?,
        Strategy::Xtrabackup => xtrabackup::prepare(walk.tools(), &new_dir, &log, &walk.cancelled)?,
    }
    if walk.journal.plan.base_strategy != Strategy::Dump {
        walk.journal.layout = mariadb::innodb_layout(&new_dir)?;
    }
    server_owner(walk.context, &walk.instance)?.give_tree(&new_dir)?;
    walk.enter(Event::Prepared)
}
