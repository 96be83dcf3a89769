//! The backup's stream on its way into the repository.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::backup::source::{Source, Taking};
use crate::agent::{Context, Reporter};
use crate::clock::Stopwatch;
use crate::datastore::mariadb::{self, BACKUP_INFO, BINLOG_INFO};
use crate::datastore::version::plain_version;
use crate::datastore::xbstream::StreamTap;
use crate::domain::backup::{Backup, Strategy};
use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid::GtidPosition;
use crate::domain::instance::Instance;
use crate::domain::task::ProgressUnit;
use crate::error::{Error, ErrorKind, error_of, io_error};
use crate::repository::manifest::Part;
use crate::repository::resume::PartJournal;
use crate::repository::writer::BackupWriter;

/// How often it is asked whether something cannot wait for the backup.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const BUFFER_BYTES: usize = 1024 * 1024;

/// What was stored, and what the stream says of itself.
pub(super) struct StoredStream {
    pub(super) parts: Vec<Part>,
    pub(super) raw_bytes: u64,
    pub(super) sha256: String,
    /// In the binlog of the server that was backed up.
    pub(super) ends_at: BinlogPosition,
    /// What the data holds there, where that is known without the binlog.
    pub(super) position: Option<GtidPosition>,
    pub(super) server_version: String,
    pub(super) tool: String,
    pub(super) tool_version: String,
}

/// Takes the backup as the configured strategy does and stores its stream.
pub(super) fn store_stream(
    context: &Context,
    instance: &Instance,
    backup: &mut Backup,
    journal: PartJournal,
    reporter: &Reporter<'_>,
) -> Result<StoredStream, Error> {
    let work_dir = &instance.server.work_dir;
    std::fs::create_dir_all(work_dir).map_err(|err| io_error("unable to create", work_dir, err))?;
    let target_dir = work_dir.join(format!("backup-{}", backup.id));
    std::fs::create_dir_all(&target_dir).map_err(|err| io_error("unable to create", &target_dir, err))?;
    let log = work_dir.join("backup.log");
    // One backup's log is enough evidence; it does not grow without end.
    let _ = std::fs::remove_file(&log);
    let writer =
        BackupWriter::begin(&context.repository, instance.id, backup.id, Some(journal), Arc::clone(&context.stopping))?;
    let taking = Taking { context, instance, reporter, dir: &target_dir, log: &log };
    let result = Source::begin(&taking, backup.strategy).and_then(|source| pump(&taking, backup, writer, source));
    // What may be left there is no reason to fail.
    let _ = std::fs::remove_dir_all(&target_dir);
    result
}

/// Passes the stream on to the repository, piece by piece, and reads from it what it is.
fn pump(
    taking: &Taking<'_>,
    backup: &mut Backup,
    mut writer: BackupWriter,
    mut source: Source,
) -> Result<StoredStream, Error> {
    let transferred = writer.progress();
    let mut tap = StreamTap::new(&[BINLOG_INFO, BACKUP_INFO].concat());
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut looked = Stopwatch::start();
    loop {
        let count = source.read(&mut buffer).map_err(|err| error_of(err, "the backup's stream broke off"))?;
        if count == 0 {
            break;
        }
        if looked.elapsed() >= LOOK_EVERY {
            taking.check_wanted()?;
            looked = Stopwatch::start();
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let passed = tap.push(rest)?;
            let (taken, behind) = rest.split_at(passed.bytes);
            writer.write_all(taken).map_err(|err| error_of(err, "unable to store the backup's stream"))?;
            if passed.is_cut {
                writer.cut()?;
            }
            rest = behind;
        }
        backup.raw_bytes = transferred.raw.load(Ordering::Relaxed);
        backup.stored_bytes = transferred.stored.load(Ordering::Relaxed);
        taking.reporter.report("backing up", backup.raw_bytes, source.total_bytes(), ProgressUnit::Bytes);
    }
    source.finish()?;
    let files = tap.finish()?;
    let parts = writer.finish()?;
    backup.raw_bytes = writer.raw_bytes();
    backup.stored_bytes = parts.iter().map(|part| part.stored_bytes).sum();
    let info = text_of(&files, &BACKUP_INFO)?;
    let version = |field: &str| mariadb::info_field(&info, field).and_then(plain_version).unwrap_or_default();
    let binlog_info = text_of(&files, &BINLOG_INFO)?;
    let position = match backup.strategy {
        Strategy::Clone => Some(mariadb::info_gtids(&binlog_info).parse()?),
        _ => None,
    };
    Ok(StoredStream {
        ends_at: mariadb::parse_binlog_info(&binlog_info)?,
        position,
        tool: mariadb::info_field(&info, "tool_name").unwrap_or_default().to_owned(),
        server_version: version("server_version"),
        tool_version: version("tool_version"),
        parts,
        raw_bytes: writer.raw_bytes(),
        sha256: writer.sha256().to_owned(),
    })
}

/// A small file of the stream, by any of its names.
fn text_of(files: &BTreeMap<String, Vec<u8>>, names: &[&str]) -> Result<String, Error> {
    let found = names.iter().find_map(|name| files.get(*name));
    found.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("the backup's stream holds no `{}`", names.join("` or `")))
            .hint("Turn on log_bin on the server, run `coffer check`, and take a new backup.")
    })
}
