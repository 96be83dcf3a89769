//! Where a backup's stream comes from, by the strategy it is taken with. Whatever made it, it is a stream of files in
//! mbstream's format, and says in small files of the same names where in the binlog it ends and what it was taken from.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::agent::backup::check_wanted;
use crate::agent::instances::random_server_id;
use crate::agent::{Context, Reporter};
use crate::clock::Deadline;
use crate::datastore::dump;
use crate::datastore::dump::stream::{DumpSettings, DumpStream, LockPatience, Stillness};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::mariadb::{self, BACKUP_INFO, BINLOG_INFO};
use crate::datastore::mysql::clone::{self, CloneEnd};
use crate::datastore::mysql::inspect;
use crate::datastore::mysqld;
use crate::datastore::owner::Owner;
use crate::datastore::scratch::{self, ScratchSettings};
use crate::datastore::sql::Sql;
use crate::datastore::version::plain_version;
use crate::datastore::xbstream::pack::{self, PackOptions, Packing};
use crate::domain::backup::Strategy;
use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid::GtidPosition;
use crate::domain::instance::Instance;
use crate::domain::task::ProgressUnit;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::process::Running;

/// How long a clone that was begun by somebody else is waited for: coffer's own, when it was killed meanwhile.
const OTHER_CLONE_TIMEOUT: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_millis(200);
/// What a server that was started on a clone leaves there and the next one makes anew, and the clone's own marks.
const NOT_DATA: [&str; 8] =
    ["#clone", "#innodb_temp", "#innodb_redo/*_tmp", "#ib_*.dblwr", "ibtmp1", "auto.cnf", "*.pid", "*.err"];

/// A backup that is being taken.
pub(super) struct Taking<'a> {
    pub(super) context: &'a Context,
    pub(super) instance: &'a Instance,
    pub(super) reporter: &'a Reporter<'a>,
    /// For what the strategy needs on disk; on the file system of the work directory.
    pub(super) dir: &'a Path,
    pub(super) log: &'a Path,
}

impl Taking<'_> {
    pub(super) fn check_wanted(&self) -> Result<(), Error> {
        check_wanted(self.context, self.instance)
    }
}

/// The stream.
pub(super) enum Source {
    Tool(Running),
    Clone(Box<Packing>),
    Dump(Box<DumpStream>),
}

/// What was taken.
pub(super) struct Taken {
    /// In the binlog of the server that was backed up.
    pub(super) ends_at: BinlogPosition,
    /// What the data holds there, where that is known without the binlog.
    pub(super) position: Option<GtidPosition>,
    pub(super) server_version: String,
    pub(super) tool: String,
    pub(super) tool_version: String,
}

impl Source {
    pub(super) fn begin(taking: &Taking<'_>, strategy: Strategy) -> Result<Source, Error> {
        let Taking { context, instance, dir, log, .. } = taking;
        let tools = context.tools.of(instance.datastore);
        match strategy {
            Strategy::Mariabackup => {
                mariadb::begin_backup(tools, &instance.server, dir, log, &context.stopping).map(Source::Tool)
            }
            Strategy::Clone => begin_clone(taking).map(|packing| Source::Clone(Box::new(packing))),
            Strategy::Dump => begin_dump(taking).map(|stream| Source::Dump(Box::new(stream))),
            other => Err(Error::new(ErrorKind::Unsupported, format!("no backup is taken by `{}`", other.name()))
                .hint("Set `strategy` in the section of the datastore in the configuration.")),
        }
    }

    /// Bytes of the files in the stream; 0 when that is not known.
    pub(super) fn total_bytes(&self) -> u64 {
        match self {
            Source::Tool(_) | Source::Dump(_) => 0,
            Source::Clone(packing) => packing.total_bytes(),
        }
    }

    /// The stream was read to its end: says what was taken, and fails unless it is whole. `files` are the small files of
    /// the stream.
    pub(super) fn finish(self, files: &BTreeMap<String, Vec<u8>>) -> Result<Taken, Error> {
        match self {
            Source::Tool(running) => {
                mariadb::check_completed("mariadb-backup --backup", &running.wait()?)?;
                told_by_files(files)
            }
            Source::Clone(packing) => {
                let packed = packing.finish()?;
                let (count, pages) = (packed.files, packed.pages);
                let checked = format!("{} pages checked, {} not to be checked", pages.sound, pages.unchecked);
                logging::info("backup", format!("{count} files packed, {checked}"));
                let position = Some(mariadb::info_gtids(&text_of(files, &BINLOG_INFO)?).parse()?);
                Ok(Taken { position, ..told_by_files(files)? })
            }
            Source::Dump(stream) => {
                let dumped = stream.finish()?;
                dumped.warnings.iter().for_each(|warning| logging::warn("backup", warning));
                Ok(Taken {
                    ends_at: dumped.position,
                    position: None,
                    server_version: plain_version(&dumped.server_version).unwrap_or(dumped.server_version),
                    tool: dumped.tool,
                    tool_version: dumped.tool_version,
                })
            }
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Tool(running) => running.stdout.read(buffer),
            Source::Clone(packing) => packing.read(buffer),
            Source::Dump(stream) => stream.read(buffer),
        }
    }
}

/// Begins to dump the server's tables by its own tool.
fn begin_dump(taking: &Taking<'_>) -> Result<DumpStream, Error> {
    let Taking { context, instance, dir, log, .. } = taking;
    let tools = context.tools.of(instance.datastore);
    let access = mysqld::access(&instance.server)?;
    let version = Sql::connect(&access)?.value("SELECT VERSION()")?;
    let programs = DumpTools::of(tools, &version)?;
    let own = dir.join("own");
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&own)
        .map_err(|err| io_error("unable to create", &own, err))?;
    let settings = DumpSettings {
        stillness: if tools.dump_locks_tables { Stillness::Locked } else { Stillness::Snapshot },
        lock: LockPatience::default(),
        dir: own,
        log: log.to_path_buf(),
    };
    taking.reporter.step("looking at the tables");
    dump::stream::begin(&programs, &access, &settings, &context.stopping)
}

/// What the tool's own files in the stream say.
fn told_by_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Taken, Error> {
    let info = text_of(files, &BACKUP_INFO)?;
    let version = |field: &str| mariadb::info_field(&info, field).and_then(plain_version).unwrap_or_default();
    Ok(Taken {
        ends_at: mariadb::parse_binlog_info(&text_of(files, &BINLOG_INFO)?)?,
        position: None,
        server_version: version("server_version"),
        tool: mariadb::info_field(&info, "tool_name").unwrap_or_default().to_owned(),
        tool_version: version("tool_version"),
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

/// Lets the server clone itself, starts a server on the clone to learn where it ends and to prove that it starts, and
/// begins to pack it; its files are removed as they are read.
fn begin_clone(taking: &Taking<'_>) -> Result<Packing, Error> {
    let Taking { context, instance, dir, .. } = taking;
    let tools = context.tools.of(instance.datastore);
    let (data_dir, run_dir) = (dir.join("data"), dir.join("r"));
    // What an earlier life of coffer was at.
    scratch::discard_leftover(&run_dir)?;
    let access = mysqld::access(&instance.server)?;
    let mut sql = Sql::connect(&access)?;
    clone::refuse_missing_plugin(&mut sql)?;
    wait_for_other_clone(taking, &mut sql)?;
    for left in [&data_dir, &run_dir] {
        match std::fs::remove_dir_all(left) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(io_error("unable to remove", left, err)),
            _ => {}
        }
    }
    clone::refuse_other_engines(&mut sql)?;
    let layout = inspect::layout(&mut sql)?;
    make_clone(taking, &access, &data_dir)?;
    // One made meanwhile would be empty as well.
    clone::refuse_other_engines(&mut sql)?;
    taking.reporter.step("starting a server on the clone");
    let settings = ScratchSettings { data_dir: data_dir.clone(), run_dir, layout, server_id: random_server_id()? };
    let end = clone::settle(tools, &settings)?;
    let extra = stream_files(&instance.server.data_dir, &settings.layout, &end);
    let options = PackOptions { leave_out: &NOT_DATA, remove: true, extra };
    pack::begin(&data_dir, options, &context.stopping)
}

/// Only one clone runs on a server, and one whose client is gone goes on to its end.
fn wait_for_other_clone(taking: &Taking<'_>, sql: &mut Sql) -> Result<(), Error> {
    let deadline = Deadline::after(OTHER_CLONE_TIMEOUT);
    while clone::is_running(sql)? {
        taking.check_wanted()?;
        taking.reporter.step("waiting for another clone of the server to end");
        if deadline.has_passed() {
            return Err(Error::new(ErrorKind::Busy, "another clone of the server does not end")
                .hint("Look at performance_schema.clone_status, then take a new backup."));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn make_clone(taking: &Taking<'_>, access: &crate::datastore::sql::Access, data_dir: &Path) -> Result<(), Error> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let why = std::cell::RefCell::new(None);
    let progress = |done: u64, total: u64| {
        taking.reporter.report("cloning", done, total, ProgressUnit::Bytes);
        if let Err(err) = taking.check_wanted() {
            *why.borrow_mut() = Some(err);
            cancelled.store(true, Ordering::Relaxed);
        }
    };
    let owner = Owner::of_path(&taking.instance.server.data_dir)?;
    let made = clone::make(access, owner, data_dir, &progress, &cancelled);
    match (made, why.into_inner()) {
        (Err(_), Some(why)) => Err(why),
        (made, _) => made,
    }
}

/// What the stream says of itself, in files of the names that tools of this family use; and the settings that were made
/// with SET PERSIST, which a clone leaves behind.
fn stream_files(data_dir: &Path, layout: &[(String, String)], end: &CloneEnd) -> Vec<(String, Vec<u8>)> {
    let options: String = layout.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let version = &end.server_version;
    let executed = end.executed.to_string().replace('\n', "");
    let mut files = vec![
        (
            BACKUP_INFO[0].to_owned(),
            format!("tool_name = clone\ntool_version = {version}\nserver_version = {version}\n").into_bytes(),
        ),
        (
            BINLOG_INFO[0].to_owned(),
            format!("{}\t{}\t{executed}\n", end.position.file, end.position.position).into_bytes(),
        ),
        ("backup-my.cnf".to_owned(), format!("[mysqld]\n{options}").into_bytes()),
    ];
    // Whoever cannot read it loses settings, not data.
    if let Ok(persisted) = std::fs::read(data_dir.join("mysqld-auto.cnf")) {
        files.push(("mysqld-auto.cnf".to_owned(), persisted));
    }
    files
}
