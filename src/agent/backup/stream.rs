//! The backup's stream on its way into the repository.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agent::backup::source::{Source, Taken, Taking};
use crate::agent::{Context, Reporter};
use crate::clock::Stopwatch;
use crate::datastore::mariadb::{BACKUP_INFO, BINLOG_INFO};
use crate::datastore::xbstream::StreamTap;
use crate::domain::backup::{Backup, Strategy};
use crate::domain::instance::Instance;
use crate::domain::task::ProgressUnit;
use crate::error::{Error, error_of, io_error};
use crate::process::{self, Pace};
use crate::repository::manifest::Part;
use crate::repository::resume::PartJournal;
use crate::repository::writer::BackupWriter;

/// How often it is asked whether something cannot wait for the backup.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const BUFFER_BYTES: usize = 1024 * 1024;
/// What is over in a moment disturbs nobody for long, and somebody may wait for it.
const PACED_FROM_BYTES: u64 = 256 * 1024 * 1024;

/// What was stored, and what the stream says of itself.
pub(super) struct StoredStream {
    pub(super) taken: Taken,
    pub(super) parts: Vec<Part>,
    pub(super) raw_bytes: u64,
    pub(super) sha256: String,
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
    // Short, because a socket may lie in it.
    let short: String = backup.id.to_string().chars().take(8).collect();
    let target_dir = work_dir.join(format!("b-{short}"));
    std::fs::create_dir_all(&target_dir).map_err(|err| io_error("unable to create", &target_dir, err))?;
    let log = work_dir.join("backup.log");
    // One backup's log is enough evidence; it does not grow without end.
    let _ = std::fs::remove_file(&log);
    let taking = Taking { context, instance, reporter, dir: &target_dir, log: &log };
    let strategy = backup.strategy;
    let take = || {
        let cancelled = Arc::clone(&context.stopping);
        let writer = BackupWriter::begin(&context.repository, instance.id, backup.id, Some(journal), cancelled)?;
        let source = Source::begin(&taking, strategy)?;
        pump(&taking, backup, writer, source)
    };
    let result = match strategy {
        // Nothing waits for what is made of a copy. A tool that follows the redo log must keep up with the server, and
        // one that reads from a snapshot keeps the server from purging.
        Strategy::Clone => process::giving_way("backup", take).flatten(),
        _ => take(),
    };
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
    let mut pace = matches!(source, Source::Clone(_)).then(Pace::begin);
    let mut looked = Stopwatch::start();
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    loop {
        let count = source.read(&mut buffer).map_err(|err| error_of(err, "the backup's stream broke off"))?;
        if count == 0 {
            break;
        }
        if let Some(pace) = pace.as_mut().filter(|_| writer.raw_bytes() >= PACED_FROM_BYTES) {
            pace.keep();
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
    let files = tap.finish()?;
    let taken = source.finish(&files)?;
    let parts = writer.finish()?;
    backup.raw_bytes = writer.raw_bytes();
    backup.stored_bytes = parts.iter().map(|part| part.stored_bytes).sum();
    Ok(StoredStream { taken, parts, raw_bytes: writer.raw_bytes(), sha256: writer.sha256().to_owned() })
}
