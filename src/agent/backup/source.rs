//! Where a backup's stream comes from, by the strategy it is taken with. Whatever made it, it is a stream of files in
//! mbstream's format, and says in small files of the same names where in the binlog it ends and what it was taken from.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::agent::backup::{check_wanted, clone};
use crate::agent::{Context, Reporter};
use crate::datastore::dump;
use crate::datastore::dump::stream::{DumpSettings, DumpStream, LockPatience, Stillness};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::mariadb::{self, BACKUP_INFO, BINLOG_INFO};
use crate::datastore::mysqld;
use crate::datastore::sql::Sql;
use crate::datastore::version::plain_version;
use crate::datastore::xbstream::pack::Packing;
use crate::domain::backup::Strategy;
use crate::domain::coordinate::BinlogPosition;
use crate::domain::gtid::GtidPosition;
use crate::domain::instance::Instance;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;
use crate::process::Running;

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

    /// How a dump is taken, with a directory for what nobody else may see.
    pub(super) fn dump_settings(&self, stillness: Stillness) -> Result<DumpSettings, Error> {
        let own = self.dir.join("own");
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&own)
            .map_err(|err| io_error("unable to create", &own, err))?;
        Ok(DumpSettings { stillness, lock: LockPatience::default(), dir: own, log: self.log.to_path_buf() })
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
            Strategy::Clone => clone::begin(taking).map(|packing| Source::Clone(Box::new(packing))),
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
    let Taking { context, instance, .. } = taking;
    let tools = context.tools.of(instance.datastore);
    let access = mysqld::access(&instance.server)?;
    let version = Sql::connect(&access)?.value("SELECT VERSION()")?;
    let programs = DumpTools::of(tools, &version)?;
    let stillness = if tools.dump_locks_tables { Stillness::Locked } else { Stillness::Snapshot };
    let settings = taking.dump_settings(stillness)?;
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
