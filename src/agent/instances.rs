//! Instances come and go: creating, adopting, restarting, deleting. Every step may be repeated after a crash.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::agent::check;
use crate::agent::keeper::settings_without_files;
use crate::agent::ship::{Shipper, index};
use crate::agent::supervisor::{Supervisor, guard_path, note_version, place_guard};
use crate::agent::{Context, Reporter, fault_of};
use crate::clock::{self, Deadline};
use crate::datastore::owner::Owner;
use crate::datastore::sql::Sql;
use crate::datastore::{self, Tools, mysqld};
use crate::domain::gtid::BinlogState;
use crate::domain::id::{InstanceId, TimelineId};
use crate::domain::instance::{Control, Instance, InstanceSettings, InstanceStatus, Server};
use crate::domain::task::Task;
use crate::domain::timeline::{Origin, Timeline};
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::logging;

const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// Makes the data directory, starts the server, begins the first timeline.
pub(crate) fn create(context: &Context, supervisor: &Supervisor, shipper: &Shipper, task: &Task) -> Result<(), Error> {
    let mut instance = context.store.read(|db| db.instance(task.instance))?;
    let made = make_server(context, supervisor, &Reporter::new(&context.store, task.id), &mut instance);
    settle(context, &mut instance, made)?;
    shipper.resume();
    Ok(())
}

fn make_server(
    context: &Context,
    supervisor: &Supervisor,
    reporter: &Reporter<'_>,
    instance: &mut Instance,
) -> Result<(), Error> {
    let _mine = supervisor.take_over();
    if instance.server.port == 0 {
        instance.server.port = free_port()?;
        context.store.write(|tx| tx.update_instance(instance))?;
    }
    let server = &instance.server;
    let tools = context.tools.of(instance.datastore);
    make_home(&context.settings.state_dir, tools, server)?;
    let (base, tmpdir) = (mysqld::run_dir(server), mysqld::tmp_dir(server));
    let owner = Owner::of_user(&tools.server_user)?;
    if !server.data_dir.is_dir() {
        reporter.step("making the data directory");
        // A killed installation leaves only this directory, which nobody starts a server on.
        let unfinished = base.join("data.new");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).map_err(|err| io_error("unable to remove", &unfinished, err))?;
        }
        datastore::install(tools, &unfinished, &tmpdir)?;
        owner.give_tree(&unfinished)?;
        durable::rename(&unfinished, &server.data_dir)?;
    }
    if !server.defaults_file.exists() {
        let options = mysqld::created_options(tools, server, random_server_id()?);
        durable::write(&server.defaults_file, options.as_bytes(), 0o644)?;
    }
    begin_first_timeline(context, instance.id, BinlogState::default())?;
    reporter.step("starting the server");
    if !mysqld::answers(server) {
        mysqld::start(tools, server)?;
    }
    note_version(context, instance)
}

/// Makes the directories a created server needs beside its data, and hands them to its user. May be repeated: after a
/// rebuild of the catalog on another host a recovery is the first to need them.
pub(crate) fn make_home(state_dir: &Path, tools: &Tools, server: &Server) -> Result<(), Error> {
    check_reachable(state_dir, tools)?;
    let owner = Owner::of_user(&tools.server_user)?;
    let base = mysqld::run_dir(server);
    for dir in [&base, &server.work_dir, &mysqld::tmp_dir(server)] {
        std::fs::create_dir_all(dir).map_err(|err| io_error("unable to create", dir, err))?;
        owner.give(dir)?;
    }
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o755))
        .map_err(|err| io_error("unable to set the permissions of", &base, err))
}

/// The server's user must be able to pass through every directory above its data.
fn check_reachable(dir: &Path, tools: &Tools) -> Result<(), Error> {
    let (datastore, user) = (tools.datastore, &tools.server_user);
    let owner = Owner::of_user(user)?;
    if owner.uid == 0 {
        return Ok(());
    }
    let dir = std::path::absolute(dir).map_err(|err| io_error("unable to find", dir, err))?;
    for above in dir.ancestors() {
        let Ok(metadata) = std::fs::metadata(above) else { continue };
        let mode = metadata.mode();
        let passes = if metadata.uid() == owner.uid {
            mode & 0o100 != 0
        } else if metadata.gid() == owner.gid {
            mode & 0o010 != 0
        } else {
            mode & 0o001 != 0
        };
        if !passes {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("user `{user}`, as whom the server runs, cannot pass through `{}`", above.display()),
            )
            .hint(format!(
                "Run `chmod o+x {}`, or set state_dir to a directory that this user can reach, or {datastore}.server_user.",
                above.display()
            )));
        }
    }
    Ok(())
}

fn free_port() -> Result<u16, Error> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|err| Error::new(ErrorKind::Unavailable, "unable to find a free port").with_source(err))
}

/// Any id but 0; high ones, because people number their servers from 1.
pub(super) fn random_server_id() -> Result<u32, Error> {
    let mut bytes = [0_u8; 4];
    getrandom::fill(&mut bytes)
        .map_err(|err| Error::new(ErrorKind::Internal, format!("the system gives no random bytes: {err}")))?;
    Ok(u32::from_le_bytes(bytes) % 4_000_000_000 + 1000)
}

fn begin_first_timeline(context: &Context, instance: InstanceId, state: BinlogState) -> Result<TimelineId, Error> {
    if let Some(first) = context.store.read(|db| db.timelines(instance))?.first() {
        return Ok(first.id);
    }
    let timeline = Timeline {
        id: TimelineId::random(),
        instance,
        number: 1,
        origin: Origin::Initial,
        branch: None,
        state_at_begin: state,
        begun_at: clock::now(),
    };
    context.store.write(|tx| tx.insert_timeline(&timeline))?;
    Ok(timeline.id)
}

/// Connects to an existing server, checks its settings, begins to ship.
pub(crate) fn adopt(context: &Context, shipper: &Shipper, task: &Task) -> Result<(), Error> {
    let mut instance = context.store.read(|db| db.instance(task.instance))?;
    let adopted = take_on(context, &Reporter::new(&context.store, task.id), &mut instance);
    settle(context, &mut instance, adopted)?;
    shipper.resume();
    Ok(())
}

fn take_on(context: &Context, reporter: &Reporter<'_>, instance: &mut Instance) -> Result<(), Error> {
    reporter.step("checking the server's settings");
    let report = check::inspect(&context.tools, &instance.server)?;
    if let Some(problem) = report.problems.first() {
        let others = match report.problems.len() {
            1 => String::new(),
            count => format!(" (and {} more: see `coffer check`)", count - 1),
        };
        return Err(Error::new(ErrorKind::Refused, format!("{}{others}", problem.what)).hint(problem.mend.clone()));
    }
    for warning in &report.warnings {
        logging::warn("adopt", format!("instance {}: {warning}", instance.id));
    }
    instance.datastore = report.datastore;
    instance.server = report.server;
    instance.version = report.version;
    std::fs::create_dir_all(&instance.server.work_dir)
        .map_err(|err| io_error("unable to create", &instance.server.work_dir, err))?;
    Owner::of_path(&instance.server.data_dir)?.give(&instance.server.work_dir)?;
    context.store.write(|tx| tx.update_instance(instance))?;
    let mut sql = Sql::connect(&mysqld::access(&instance.server)?)?;
    let state = sql.binlog_state()?;
    let timeline = begin_first_timeline(context, instance.id, state)?;
    // Shipping begins with the file that is active now: older ones lead nowhere without a backup before them.
    let files = index::binlog_files(&instance.server.binlog_base)?;
    if let Some(before_last) = files.len().checked_sub(2).and_then(|at| files.get(at)) {
        let name = index::name_of(before_last);
        context.store.write(|tx| tx.set_ship_after(timeline, &name))?;
    }
    Ok(())
}

fn settle(context: &Context, instance: &mut Instance, outcome: Result<(), Error>) -> Result<(), Error> {
    match &outcome {
        Ok(()) => context.store.write(|tx| tx.set_instance_status(instance.id, InstanceStatus::Active, None))?,
        Err(err) if err.kind() == ErrorKind::Interrupted => {}
        Err(err) => {
            let fault = fault_of(err);
            context.store.write(|tx| tx.set_instance_status(instance.id, InstanceStatus::Error, Some(&fault)))?;
        }
    }
    outcome
}

/// Stops and starts the server.
pub(crate) fn restart(context: &Context, supervisor: &Supervisor, task: &Task) -> Result<(), Error> {
    let instance = context.store.read(|db| db.instance(task.instance))?;
    let _mine = supervisor.take_over();
    if guard_path(&instance.server).exists() {
        return Err(Error::new(ErrorKind::Conflict, "a recovery holds the server")
            .hint("Wait for the recovery to end, or abort it."));
    }
    let restarted = mysqld::stop(&instance.server)
        .and_then(|()| mysqld::start(context.tools.of(instance.datastore), &instance.server));
    let fault = restarted.as_ref().err().map(fault_of);
    let status = if fault.is_some() { InstanceStatus::Error } else { InstanceStatus::Active };
    context.store.write(|tx| tx.set_instance_status(instance.id, status, fault.as_ref()))?;
    restarted
}

/// Stops looking after an instance. A created server is stopped and its files removed; its backups and binlogs stay in
/// the repository. An adopted server is left as it is.
pub(crate) fn delete(context: &Context, supervisor: &Supervisor, shipper: &Shipper, task: &Task) -> Result<(), Error> {
    let instance = match context.store.read(|db| db.instance(task.instance)) {
        Ok(instance) => instance,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()), // Deleted in an earlier life.
        Err(err) => return Err(err),
    };
    let _mine = supervisor.take_over();
    let last_word = InstanceSettings { deleted_at: Some(clock::now()), ..settings_without_files(&instance) };
    let server = &instance.server;
    if server.control == Control::Created && !server.data_dir.as_os_str().is_empty() {
        if server.work_dir.is_dir() {
            place_guard(server, "the instance is being deleted\n")?;
        }
        mysqld::stop(server)?;
        // What was committed last is worth keeping; a store that is away does not keep a deletion from ending.
        if let Err(err) = shipper.drain(Deadline::after(DRAIN_TIMEOUT)) {
            logging::warn("agent", format!("instance {}: the last binlog was not shipped: {err}", instance.id));
        }
        shipper.hold();
        remove_created(context, &mysqld::run_dir(server))?;
    }
    shipper.hold();
    context.store.write(|tx| {
        // The repository is told as soon as it can be reached: a rebuilt catalog must not bring the instance back.
        tx.set_untold_deletion(&last_word)?;
        tx.remove_instance(instance.id)
    })
}

/// Removes the directory of a created instance, which must lie under the state directory.
fn remove_created(context: &Context, base: &Path) -> Result<(), Error> {
    let instances: PathBuf = std::path::absolute(&context.settings.state_dir)
        .map_err(|err| io_error("unable to find", &context.settings.state_dir, err))?
        .join("instances");
    if base.parent() != Some(instances.as_path()) {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("`{}` is not a created instance's directory", base.display()),
        ));
    }
    match std::fs::remove_dir_all(base) {
        Ok(()) => durable::sync_parent(base),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(io_error("unable to remove", base, err)),
    }
}
