//! A logical backup becomes a data directory: a new one is made, and the dump is loaded into a scratch server on it. What
//! was dumped beside a clone is loaded into the clone's data directory the same way.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use crate::agent::recovery::Walk;
use crate::agent::recovery::replay::{settings, sync_data};
use crate::agent::recovery::stage::server_owner;
use crate::datastore::dump::BESIDE;
use crate::datastore::dump::load::{LoadSettings, load, load_bytes};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::option_file::OptionGroup;
use crate::datastore::scratch::Scratch;
use crate::datastore::{install, mariadb, replay, scratch};
use crate::domain::task::ProgressUnit;
use crate::durable;
use crate::error::{Error, io_error};

/// How often it is told how far the load is.
const TELL_EVERY: Duration = Duration::from_millis(400);

/// Loads the staged dump; the directory of the recovered data holds a data directory afterwards.
pub(super) fn load_dump(walk: &Walk<'_>) -> Result<(), Error> {
    let (new_dir, dump_dir) = (walk.new_dir(), dump_dir(walk));
    durable::rename(&new_dir, &dump_dir)?;
    let owner = server_owner(walk.context, &walk.instance)?;
    let tmp_dir = walk.dir().join("tmp");
    std::fs::create_dir_all(&tmp_dir).map_err(|err| io_error("unable to create", &tmp_dir, err))?;
    owner.give(&tmp_dir)?;
    install(walk.tools(), &new_dir, &tmp_dir)?;
    load_on(walk, |server| {
        // Statements of a dump have no GTID; what it holds is known by its place in the binlog.
        replay::stand_at(walk.tools(), &mut server.sql()?, &walk.journal.plan.base_end.position)
    })
}

/// Loads what was dumped beside a clone, if anything was, into the clone's tables, which have no rows.
pub(super) fn load_beside(walk: &mut Walk<'_>) -> Result<(), Error> {
    let staged = walk.new_dir().join(BESIDE);
    if !staged.exists() {
        return Ok(());
    }
    durable::rename(&staged, &dump_dir(walk))?;
    walk.journal.layout = mariadb::innodb_layout(&walk.new_dir())?;
    // What the tables hold is what the clone's own place says.
    load_on(walk, |_| Ok(()))
}

fn dump_dir(walk: &Walk<'_>) -> PathBuf {
    walk.dir().join("dump")
}

/// Loads the dump on the data directory of the recovery, and removes it. `then` is done on the server behind that.
fn load_on(walk: &Walk<'_>, then: impl FnOnce(&Scratch) -> Result<(), Error>) -> Result<(), Error> {
    let (new_dir, dump_dir, own_dir) = (walk.new_dir(), dump_dir(walk), walk.dir().join("own"));
    server_owner(walk.context, &walk.instance)?.give_tree(&new_dir)?;
    // Its own files hold how to log in.
    scratch::make_run_dir(walk.tools(), &own_dir)?;
    let programs = DumpTools::of(walk.tools(), &walk.journal.plan.base_version)?;
    let relaxed = |group: OptionGroup| {
        group
            .set("max_allowed_packet", 1024 * 1024 * 1024)
            .set("innodb_flush_log_at_trx_commit", 0)
            .set("innodb_doublewrite", "OFF")
            // A replica's data makes the server begin a relay log, which is not the data's.
            .path("relay_log", &own_dir.join("relay-bin"))
            .path("relay_log_index", &own_dir.join("relay-bin.index"))
    };
    let server = Scratch::start_with_account(walk.tools(), &settings(walk)?, relaxed)?;
    let loaded = load_into(walk, &server, &programs, &dump_dir, own_dir.clone()).and_then(|()| then(&server));
    server.end_with(loaded)?;
    for dir in [&dump_dir, &own_dir] {
        std::fs::remove_dir_all(dir).map_err(|err| io_error("unable to remove", dir, err))?;
    }
    // Not every engine brings to disk what it has written.
    sync_data(&new_dir)
}

fn load_into(
    walk: &Walk<'_>,
    server: &Scratch,
    programs: &DumpTools,
    dump_dir: &Path,
    own_dir: PathBuf,
) -> Result<(), Error> {
    let load_settings = LoadSettings::new(own_dir, walk.dir().join("load.log"));
    let (done, total) = (AtomicU64::new(0), load_bytes(dump_dir)?);
    std::thread::scope(|scope| {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let (reporter, done) = (&walk.reporter, &done);
        // Without it nobody sees how far the load is, and it goes on all the same.
        let teller = std::thread::Builder::new().name("load-progress".to_owned()).spawn_scoped(scope, move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TELL_EVERY) {
                reporter.report("loading", done.load(Ordering::Relaxed), total, ProgressUnit::Bytes);
            }
        });
        let loaded = load(programs, server.access(), dump_dir, &load_settings, done, &walk.cancelled);
        drop(stop);
        drop(teller);
        loaded.map(drop)
    })
}
