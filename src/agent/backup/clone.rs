//! A backup by the server's own clone: the clone is made, settled by a server that starts on it, and packed. Tables of
//! other engines, of which it holds no rows, are refused, or dumped beside it while they are held still.

use std::cell::RefCell;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::agent::backup::source::Taking;
use crate::agent::instances::random_server_id;
use crate::clock::{Deadline, Stopwatch};
use crate::datastore::dump::stream::{Dumped, LockPatience, Stillness, TableName};
use crate::datastore::dump::tools::DumpTools;
use crate::datastore::dump::{self, BESIDE};
use crate::datastore::mariadb::{BACKUP_INFO, BINLOG_INFO};
use crate::datastore::mysql::clone::{self, CloneEnd};
use crate::datastore::mysql::engines::{self, Held};
use crate::datastore::mysql::inspect;
use crate::datastore::mysqld;
use crate::datastore::owner::Owner;
use crate::datastore::scratch::{self, ScratchSettings};
use crate::datastore::sql::{Access, Sql};
use crate::datastore::xbstream::pack::{self, PackOptions, Packing};
use crate::datastore::xbstream::{self, Checkpoint, Target};
use crate::domain::backup::OtherEngines;
use crate::domain::task::ProgressUnit;
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;

/// How long a clone that was begun by somebody else is waited for: coffer's own, when it was killed meanwhile.
const OTHER_CLONE_TIMEOUT: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_millis(200);
/// What a server that was started on a clone leaves there and the next one makes anew, and the clone's own marks.
const NOT_DATA: [&str; 8] =
    ["#clone", "#innodb_temp", "#innodb_redo/*_tmp", "#ib_*.dblwr", "ibtmp1", "auto.cnf", "*.pid", "*.err"];

/// Lets the server clone itself, starts a server on the clone to learn where it ends and to prove that it starts, and
/// begins to pack it; its files are removed as they are read.
pub(super) fn begin(taking: &Taking<'_>) -> Result<Packing, Error> {
    let Taking { context, instance, dir, .. } = taking;
    let tools = context.tools.of(instance.datastore);
    let (data_dir, run_dir, beside) = (dir.join("data"), dir.join("r"), dir.join("beside"));
    // What an earlier life of coffer was at.
    scratch::discard_leftover(&run_dir)?;
    let access = mysqld::access(&instance.server)?;
    let mut sql = Sql::connect(&access)?;
    clone::refuse_missing_plugin(&mut sql)?;
    wait_for_other_clone(taking, &mut sql)?;
    for left in [&data_dir, &run_dir, &beside] {
        match std::fs::remove_dir_all(left) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(io_error("unable to remove", left, err)),
            _ => {}
        }
    }
    let layout = inspect::layout(&mut sql)?;
    let dumped = match tools.other_engines {
        OtherEngines::Refuse => {
            engines::refuse(&engines::other_tables(&mut sql)?)?;
            make_clone(taking, &access, &data_dir)?;
            None
        }
        OtherEngines::Dump => dump_around(taking, &access, &beside, || make_clone(taking, &access, &data_dir))?,
    };
    taking.reporter.step("starting a server on the clone");
    let settings = ScratchSettings { data_dir: data_dir.clone(), run_dir, layout, server_id: random_server_id()? };
    let end = clone::settle(tools, &settings)?;
    let tables = dumped.as_ref().map_or(&[][..], |beside| &beside.tables);
    // One made meanwhile is empty and not dumped.
    engines::refuse(end.without_rows.iter().filter(|it| !tables.contains(&it.table)))?;
    if let Some(Beside { dumped, .. }) = dumped {
        if end.position.order() < dumped.position.order() {
            let what = format!("the clone says it ends at {}, and was begun behind {}", end.position, dumped.position);
            return Err(Error::new(ErrorKind::Corrupt, what).hint("Take a new backup, and report this if it repeats."));
        }
        durable::rename(&beside, &data_dir.join(BESIDE))?;
    }
    let extra = stream_files(&instance.server.data_dir, &settings.layout, &end);
    let options = PackOptions { leave_out: &NOT_DATA, remove: true, extra };
    pack::begin(&data_dir, options, &context.stopping)
}

/// What was dumped beside a clone.
struct Beside {
    tables: Vec<TableName>,
    dumped: Dumped,
}

/// Dumps the tables of which a clone holds no rows into a new directory and has the clone made, all while nobody can
/// write to them: their rows are then those of the clone's end. `None` when there is no such table.
fn dump_around(
    taking: &Taking<'_>,
    access: &Access,
    into: &Path,
    make_clone: impl FnOnce() -> Result<(), Error>,
) -> Result<Option<Beside>, Error> {
    taking.reporter.step("waiting for tables that are not InnoDB's");
    let held = Held::take(access, &LockPatience::default(), &|| taking.check_wanted())?;
    let Some(held) = held else { return make_clone().map(|()| None) };
    logging::warn("backup", format!("not InnoDB's, so that {}: {}", engines::WHO_WAITS, held.names()));
    let watch = Stopwatch::start();
    let dumped = dump_held(taking, access, &held.tables, into)?;
    let dumping = watch.elapsed();
    make_clone()?;
    let (names, tables) = (held.names(), held.tables.clone());
    let seconds = held.release()?.as_secs_f64();
    let of_it = dumping.as_secs_f64();
    let rows = dumped.rows;
    logging::info(
        "backup",
        format!("writes to {names} waited for {seconds:.3} s, {of_it:.3} s of it while {rows} rows were dumped"),
    );
    dumped.warnings.iter().for_each(|warning| logging::warn("backup", warning));
    Ok(Some(Beside { tables, dumped }))
}

fn dump_held(taking: &Taking<'_>, access: &Access, tables: &[TableName], into: &Path) -> Result<Dumped, Error> {
    let Taking { context, instance, .. } = taking;
    let version = Sql::connect(access)?.value("SELECT VERSION()")?;
    let programs = DumpTools::of(context.tools.of(instance.datastore), &version)?;
    let settings = taking.dump_settings(Stillness::Locked)?;
    taking.reporter.step("dumping tables that are not InnoDB's");
    let mut stream = dump::stream::begin_of_held(&programs, access, &settings, tables, &context.stopping)?;
    std::fs::create_dir(into).map_err(|err| io_error("unable to create", into, err))?;
    let ledger = settings.dir.join("ledger");
    let target = Target { dir: into, ledger: &ledger, stream: BESIDE, checkpoint_bytes: u64::MAX };
    let looking = Looking { inner: &mut stream, taking, looked: Stopwatch::start() };
    xbstream::unpack(looking, &target, &Checkpoint::default(), &AtomicU64::new(0), &context.stopping)?;
    stream.finish()
}

/// Asks while something is read whether the backup is wanted still.
struct Looking<'a, R> {
    inner: R,
    taking: &'a Taking<'a>,
    looked: Stopwatch,
}

impl<R: Read> Read for Looking<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.looked.elapsed() >= POLL {
            self.taking.check_wanted().map_err(io::Error::other)?;
            self.looked = Stopwatch::start();
        }
        self.inner.read(buffer)
    }
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

fn make_clone(taking: &Taking<'_>, access: &Access, data_dir: &Path) -> Result<(), Error> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let why = RefCell::new(None);
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
