//! What makes a recovered server another one than those whose history was given up: no GTID is ever used twice.
//!
//! MariaDB goes on above the highest sequence numbers that were ever shipped, which it reads from a file beside its
//! binlogs. MySQL gets a server UUID of its own, which it makes itself when its data directory has none.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::agent::Context;
use crate::agent::recovery::Walk;
use crate::agent::recovery::stage::server_owner;
use crate::agent::ship::index::binlog_files;
use crate::datastore::mysql::{SERVER_FILES, UUID_FILE};
use crate::datastore::sql::Sql;
use crate::domain::datastore::Datastore;
use crate::domain::gtid::{BinlogState, GtidPosition, GtidStream};
use crate::domain::gtid_set::GtidSource;
use crate::domain::id::InstanceId;
use crate::domain::instance::Server;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};

/// Everything ever shipped, in every timeline.
pub(super) fn ever_used(context: &Context, instance: InstanceId) -> Result<BinlogState, Error> {
    let mut used = BinlogState::default();
    for timeline in context.store.read(|db| db.timelines(instance))? {
        used.merge(&timeline.state_at_begin);
        if let Some(last) = context.store.read(|db| db.last_chunk(timeline.id))? {
            used.merge(&last.facts.state_after);
        }
    }
    Ok(used)
}

/// Makes recovered data, which lies at `dir`, the data of a server that uses no GTID again.
pub(super) fn make_another(walk: &Walk<'_>, dir: &Path, used: &BinlogState) -> Result<(), Error> {
    match walk.instance.datastore {
        Datastore::Mariadb => write_binlog_state(walk, &walk.instance.server, dir, used),
        Datastore::Mysql => {
            remove(&dir.join(UUID_FILE))?;
            carry_server_files(walk, dir)
        }
    }
}

/// Makes data from before a recovery, which lies at `dir`, fit to go on beside the newer history.
pub(super) fn make_fit_again(walk: &Walk<'_>, dir: &Path, used: &BinlogState) -> Result<(), Error> {
    match walk.instance.datastore {
        Datastore::Mariadb => write_binlog_state(walk, &walk.instance.server, dir, used),
        // Its UUID was not used since: the newer history has one of its own.
        Datastore::Mysql => Ok(()),
    }
}

/// Success is equality of coordinates.
pub(super) fn prove_position(sql: &mut Sql, planned: &GtidPosition) -> Result<(), Error> {
    let reached: GtidPosition = match sql.datastore()? {
        Datastore::Mariadb => sql.value("SELECT @@GLOBAL.gtid_slave_pos")?.parse()?,
        Datastore::Mysql => sql.binlog_state()?.position(),
    };
    if reached == *planned {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("the server came up at `{reached}` and not at `{planned}` as planned")))
}

/// Nothing that was ever used may be used again as a GTID.
pub(super) fn prove_unused(sql: &mut Sql, datastore: Datastore, used: &BinlogState) -> Result<(), Error> {
    match datastore {
        Datastore::Mariadb => prove_sequences(sql, used),
        Datastore::Mysql => prove_uuid(sql, used),
    }
}

fn prove_sequences(sql: &mut Sql, used: &BinlogState) -> Result<(), Error> {
    let found = sql.binlog_state()?;
    let mut merged = found.clone();
    merged.merge(used);
    for gtid in used.iter() {
        if found.highest(gtid.domain) < merged.highest(gtid.domain) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the server would give out GTIDs of domain {} again: it stands at `{found}`", gtid.domain),
            ));
        }
    }
    Ok(())
}

/// A server counts on from the highest number of its own UUID that it has executed.
fn prove_uuid(sql: &mut Sql, used: &BinlogState) -> Result<(), Error> {
    let uuid = sql.value("SELECT @@server_uuid")?;
    let executed = sql.binlog_state()?;
    let own = uuid.parse().map(|uuid| GtidStream::Mysql(GtidSource { uuid, ..GtidSource::default() }));
    let Ok(own) = own else {
        return Err(Error::new(ErrorKind::Corrupt, format!("the server says its UUID is `{uuid}`")));
    };
    if executed.last_of(&own) < used.last_of(&own) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the server would give out GTIDs of `{uuid}` again: it stands at `{executed}`"),
        ));
    }
    Ok(())
}

/// Tells the server on `dir`, at its next start, which GTIDs were used before: a server reads its binlog state from this
/// file when it was stopped cleanly or has no binlog yet (MariaDB, `MYSQL_BIN_LOG::read_state_from_file`).
/// Binlogs outside the data directory are not exchanged: their own state is right already, unless they are gone.
fn write_binlog_state(walk: &Walk<'_>, server: &Server, dir: &Path, state: &BinlogState) -> Result<(), Error> {
    let path = match server.binlog_base.strip_prefix(&server.data_dir) {
        Ok(inside) => dir.join(format!("{}.state", inside.display())),
        Err(_) if !binlog_files(&server.binlog_base)?.is_empty() => return Ok(()),
        Err(_) => {
            let path = PathBuf::from(format!("{}.state", server.binlog_base.display()));
            let parent = path.parent().unwrap_or(Path::new("/"));
            if !parent.exists() {
                std::fs::create_dir_all(parent).map_err(|err| io_error("unable to create", parent, err))?;
                server_owner(walk.context, &walk.instance)?.give(parent)?;
            }
            path
        }
    };
    let lines: String = state.iter().map(|gtid| format!("{gtid}\n")).collect();
    durable::write(&path, lines.as_bytes(), 0o660)?;
    server_owner(walk.context, &walk.instance)?.give(&path)?;
    File::open(&path).and_then(|file| file.sync_all()).map_err(|err| io_error("unable to sync", &path, err))
}

/// Binlogs outside of the data directory are not exchanged, and a starting MySQL takes what they hold for executed. So the
/// index that lists them is put aside: the server begins another, and new files get numbers above those that lie there.
///
/// Comes behind the switch, and may be repeated: before it nothing of the serving database has changed.
pub(super) fn set_binlogs_aside(walk: &Walk<'_>) -> Result<(), Error> {
    let Some((index, aside)) = outer_index(walk) else { return Ok(()) };
    if aside.exists() || !index.exists() { Ok(()) } else { durable::rename(&index, &aside) }
}

/// Lists the binlogs again that belong to the data from before the recovery.
pub(super) fn list_own_binlogs(walk: &Walk<'_>) -> Result<(), Error> {
    let Some((index, aside)) = outer_index(walk) else { return Ok(()) };
    // The newer history's files are in the repository, and keep their numbers.
    if aside.exists() { durable::rename(&aside, &index) } else { Ok(()) }
}

/// The index of MySQL's binlogs outside of the data directory, and what it is called while it is put aside.
fn outer_index(walk: &Walk<'_>) -> Option<(PathBuf, PathBuf)> {
    let server = &walk.instance.server;
    if walk.instance.datastore != Datastore::Mysql || server.binlog_base.starts_with(&server.data_dir) {
        return None;
    }
    let index = format!("{}.index", server.binlog_base.display());
    let aside = format!("{index}.before-{}", walk.journal.id);
    Some((index.into(), aside.into()))
}

/// The server keeps its settings and keys: they are not part of what is recovered. Without a former data directory those
/// of the backup stay, as far as it has any.
fn carry_server_files(walk: &Walk<'_>, dir: &Path) -> Result<(), Error> {
    /// Keys and settings are small; what is larger is no such file.
    const BYTES_MAX: u64 = 16 << 20;
    let owner = server_owner(walk.context, &walk.instance)?;
    for name in SERVER_FILES {
        let (from, to) = (walk.instance.server.data_dir.join(name), dir.join(name));
        match std::fs::symlink_metadata(&from) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= BYTES_MAX => {
                use std::os::unix::fs::PermissionsExt;
                let bytes = std::fs::read(&from).map_err(|err| io_error("unable to read", &from, err))?;
                durable::write(&to, &bytes, metadata.permissions().mode() & 0o777)?;
                owner.give(&to)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(io_error("unable to remove", path, err)),
        _ => Ok(()),
    }
}
