//! Instances: create, adopt, delete, restart, reset, and how they stand.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::clock;
use crate::domain::backup::BackupStatus;
use crate::domain::chunk::Chunk;
use crate::domain::datastore::Datastore;
use crate::domain::id::InstanceId;
use crate::domain::instance::{Control, Fault, Instance, InstanceStatus, Server};
use crate::domain::recovery::Recovery;
use crate::domain::shipping::ShippingStatus;
use crate::domain::task::{Task, TaskKind, TaskState};
use crate::domain::timeline::Timeline;
use crate::error::{Error, ErrorKind};
use crate::service::verifications::{self, VerificationView, good_backups};
use crate::service::{Service, check_name, refuse_busy, status_name};
use crate::store::{Db, Tx};

/// A server to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewInstance {
    pub(crate) name: String,
    /// Without one it is any that is free.
    pub(crate) port: Option<u16>,
    /// Without one it is the first that is installed here.
    pub(crate) datastore: Option<Datastore>,
}

/// An existing server to look after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Adoption {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    /// The option file with the client's credentials.
    pub(crate) defaults_file: PathBuf,
    pub(crate) control: Control,
}

/// An instance and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceView {
    pub(crate) instance: Instance,
    /// The current one; none before the first binlog file was seen.
    pub(crate) timeline: Option<Timeline>,
    /// None before the first backup is completed.
    pub(crate) recoverable: Option<Recoverable>,
    pub(crate) shipping: Option<ShippingStatus>,
    /// The task that runs now, else the first that waits.
    pub(crate) task: Option<Task>,
    /// The recovery under way.
    pub(crate) recovery: Option<Recovery>,
    pub(crate) verification: VerificationView,
}

/// The stretch of time the instance can be recovered to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recoverable {
    /// Commit times, microseconds since 1970.
    pub(crate) earliest: i64,
    pub(crate) latest: i64,
    /// The chunks behind holes: no target inside such a hole can be reached.
    pub(crate) gaps: Vec<Hole>,
}

/// A hole in the shipped binlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The chunk behind it.
    pub(crate) chunk: Chunk,
    /// No backup lies behind it yet, so what was shipped after it leads nowhere.
    pub(crate) is_open: bool,
}

impl Service {
    /// CAST: a new data directory and server under the state directory.
    pub(crate) fn create_instance(&self, new: &NewInstance) -> Result<InstanceView, Error> {
        check_name(&new.name)?;
        let datastore = self.choose_datastore(new.datastore)?;
        let id = InstanceId::random();
        let server = Server::created(&self.settings.state_dir, id, new.port.unwrap_or(0))?;
        self.begin_instance(id, &new.name, datastore, server, &TaskKind::CreateInstance)
    }

    fn choose_datastore(&self, wanted: Option<Datastore>) -> Result<Datastore, Error> {
        let installed = self.installed();
        let Some(first) = installed.first() else {
            return Err(Error::new(ErrorKind::Refused, "neither MariaDB nor MySQL is installed on this host")
                .hint("Run `coffer check`, install what it names and start the appliance again."));
        };
        let chosen = wanted.unwrap_or(first.datastore);
        if installed.iter().any(|installed| installed.datastore == chosen) {
            return Ok(chosen);
        }
        let offered: Vec<&str> = installed.iter().map(|installed| installed.datastore.name()).collect();
        Err(Error::new(ErrorKind::InvalidInput, format!("{} is not installed on this host", chosen.title()))
            .hint(format!("Install it and start the appliance again, or ask for {}.", offered.join(" or "))))
    }

    /// CAST: connect to an existing server and begin to ship its binlog. Its own paths are found by asking it.
    pub(crate) fn adopt_instance(&self, adoption: &Adoption) -> Result<InstanceView, Error> {
        check_name(&adoption.name)?;
        check_path("adopt.socket", &adoption.socket)?;
        check_path("adopt.defaults_file", &adoption.defaults_file)?;
        check_control(&adoption.control)?;
        let server = Server {
            control: adoption.control.clone(),
            socket: adoption.socket.clone(),
            data_dir: PathBuf::new(),
            binlog_base: PathBuf::new(),
            work_dir: PathBuf::new(),
            defaults_file: adoption.defaults_file.clone(),
            port: 0,
        };
        // The task asks the server which one it is.
        let datastore = self.installed().first().map_or(Datastore::Mariadb, |installed| installed.datastore);
        self.begin_instance(InstanceId::random(), &adoption.name, datastore, server, &TaskKind::AdoptInstance)
    }

    /// CAST: a created server is stopped and its data removed; an adopted one is left as it is. Backups stay.
    pub(crate) fn delete_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.store.write(|tx| {
            let instance = tx.instance(id)?;
            let unfinished = tx.unfinished_tasks(id)?;
            if unfinished.iter().any(|task| task.kind == TaskKind::DeleteInstance) {
                return Ok(());
            }
            refuse_busy(tx, &instance, &[InstanceStatus::Active, InstanceStatus::Error, InstanceStatus::Shutdown])?;
            tx.set_instance_status(id, InstanceStatus::Shutdown, None)?;
            tx.insert_task(id, &TaskKind::DeleteInstance).map(drop)
        })?;
        self.bell.ring();
        Ok(())
    }

    /// CAST: stop and start the server.
    pub(crate) fn restart_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.store.write(|tx| {
            let instance = tx.instance(id)?;
            refuse_busy(tx, &instance, &[InstanceStatus::Active, InstanceStatus::Error])?;
            tx.set_instance_status(id, InstanceStatus::Build, None)?;
            tx.insert_task(id, &TaskKind::RestartInstance).map(drop)
        })?;
        self.bell.ring();
        Ok(())
    }

    /// Frees an instance whose status says that something is going on when nothing is. As in Trove it is ERROR then, and
    /// backups that claim to run are FAILED.
    pub(crate) fn reset_instance_status(&self, id: InstanceId) -> Result<(), Error> {
        self.store.write(|tx| {
            let instance = tx.instance(id)?;
            // What really runs ends by itself; resetting its status would let a second one in.
            let free = [InstanceStatus::Build, InstanceStatus::Backup, InstanceStatus::Shutdown, InstanceStatus::Error];
            if instance.status == InstanceStatus::Active {
                return Ok(());
            }
            refuse_busy(tx, &instance, &free)?;
            fail_orphaned_backups(tx, id)?;
            if instance.status == InstanceStatus::Error {
                return Ok(());
            }
            let fault = Fault {
                message: format!("the status was {} and an operator reset it", status_name(instance.status)),
                hint: "Restart the instance; it is ACTIVE once its server answers.".to_owned(),
                at: clock::now(),
            };
            tx.set_instance_status(id, InstanceStatus::Error, Some(&fault))
        })
    }

    pub(crate) fn instance(&self, id: InstanceId) -> Result<InstanceView, Error> {
        self.store.read(|db| view(db, db.instance(id)?))
    }

    /// All instances, by name.
    pub(crate) fn instances(&self) -> Result<Vec<InstanceView>, Error> {
        self.store.read(|db| db.instances()?.into_iter().map(|instance| view(db, instance)).collect())
    }

    fn begin_instance(
        &self,
        id: InstanceId,
        name: &str,
        datastore: Datastore,
        server: Server,
        task: &TaskKind,
    ) -> Result<InstanceView, Error> {
        let now = clock::now();
        let instance = Instance {
            id,
            name: name.to_owned(),
            status: InstanceStatus::Build,
            fault: None,
            server,
            datastore,
            version: String::new(),
            created_at: now,
            updated_at: now,
        };
        let view = self.store.write(|tx| {
            refuse_taken(tx, &instance)?;
            tx.insert_instance(&instance)?;
            tx.insert_task(id, task)?;
            view(tx, tx.instance(id)?)
        })?;
        self.bell.ring();
        Ok(view)
    }
}

/// Two instances never share a socket or a port.
fn refuse_taken(db: &Db<'_>, new: &Instance) -> Result<(), Error> {
    for other in db.instances()? {
        if other.server.socket == new.server.socket {
            let message = format!("instance {} looks after `{}` already", other.id, other.server.socket.display());
            return Err(Error::new(ErrorKind::Conflict, message).hint("A server is adopted once."));
        }
        if new.server.port != 0 && other.server.port == new.server.port {
            let message = format!("port {} is instance {}'s", new.server.port, other.id);
            return Err(Error::new(ErrorKind::Conflict, message).hint("Choose another `port`, or leave it out."));
        }
    }
    Ok(())
}

fn check_path(member: &str, path: &Path) -> Result<(), Error> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("`{member}` is not an absolute path: `{}`", path.display()))
        .hint("Give the path from the root, beginning with `/`."))
}

fn check_control(control: &Control) -> Result<(), Error> {
    let invalid = |member: &str, hint: &str| {
        Err(Error::new(ErrorKind::InvalidInput, format!("`adopt.{member}` is not usable")).hint(hint))
    };
    match control {
        Control::Created => Ok(()),
        Control::Systemd { unit } => {
            let is_fit = |c: char| c.is_ascii_alphanumeric() || ":-_.@\\".contains(c);
            if unit.is_empty() || unit.starts_with('-') || !unit.chars().all(is_fit) {
                return invalid(
                    "systemd_unit",
                    "Give the name of the unit, for example `mariadb.service` or `mysql.service`.",
                );
            }
            Ok(())
        }
        Control::Argv { start, stop } => {
            for (member, argv) in [("start", start), ("stop", stop)] {
                // A name is looked up in PATH; a path that depends on where coffer was started is a trap.
                let is_fit = |program: &String| {
                    !program.is_empty() && (!program.contains('/') || Path::new(program).is_absolute())
                };
                if !argv.first().is_some_and(is_fit) {
                    return invalid(
                        member,
                        "Give a program by its name or its whole path, then its arguments; no shell is used.",
                    );
                }
                // It would show in the process list, and these words are kept in the repository.
                let holds_password = |word: &String| {
                    let name = word.split_once('=').map(|(name, _)| name.trim_start_matches('-').to_ascii_lowercase());
                    name.is_some_and(|name| name == "password" || name == "passwd")
                };
                if argv.iter().any(holds_password) {
                    return invalid(member, "Leave the password out of it, and name an option file that holds it.");
                }
            }
            Ok(())
        }
    }
}

/// Backups that claim to run while no task makes them.
fn fail_orphaned_backups(tx: &Tx<'_>, instance: InstanceId) -> Result<(), Error> {
    for mut backup in tx.backups(Some(instance))?.into_iter().filter(|backup| backup.status.is_running()) {
        let now = clock::now();
        backup.status = BackupStatus::Failed;
        backup.updated_at = now;
        backup.fault = Some(Fault {
            message: "the backup did not end and an operator reset the instance's status".to_owned(),
            hint: "Delete it and make another one.".to_owned(),
            at: now,
        });
        tx.update_backup(&backup)?;
    }
    Ok(())
}

/// How an instance stands. All of one snapshot.
pub(super) fn view(db: &Db<'_>, instance: Instance) -> Result<InstanceView, Error> {
    let id = instance.id;
    let shipping = db.shipping(id)?;
    let mut unfinished = db.unfinished_tasks(id)?;
    let running = unfinished.iter().position(|task| task.state == TaskState::Running).unwrap_or(0);
    Ok(InstanceView {
        timeline: db.current_timeline(id)?,
        recoverable: recoverable(db, id, shipping.as_ref())?,
        task: (running < unfinished.len()).then(|| unfinished.swap_remove(running)),
        recovery: db.unsettled_recovery(id)?,
        verification: verifications::view(db, &instance)?,
        shipping,
        instance,
    })
}

fn recoverable(db: &Db<'_>, id: InstanceId, shipping: Option<&ShippingStatus>) -> Result<Option<Recoverable>, Error> {
    let Some((oldest, newest)) = good_backups(db, id)? else { return Ok(None) };
    let (Some(oldest), Some(newest)) = (oldest.end, newest.end) else { return Ok(None) };
    let number = |timeline| -> Result<u32, Error> { Ok(db.timeline(timeline).map(|found| found.number).unwrap_or(0)) };
    let newest_at = (number(newest.at.timeline)?, newest.at.order());
    let gaps = db.gaps(id)?;
    let shipped = db.chunk_totals(id)?.last_commit.max(shipping.map(|status| status.last_commit));
    let mut latest = shipped.unwrap_or(0).max(newest.clock);
    let mut holes = Vec::new();
    for chunk in gaps {
        let at = (number(chunk.facts.timeline)?, chunk.facts.begins_at().order());
        let is_open = at >= newest_at;
        if is_open {
            latest = latest.min(chunk.facts.clock_before.max(newest.clock));
        }
        holes.push(Hole { chunk, is_open });
    }
    let gaps = holes;
    for chunk in verifications::bad_chunks(db, id)? {
        // As behind a hole: nothing that was shipped after it can be reached while no backup lies behind it.
        if (number(chunk.facts.timeline)?, chunk.facts.ends_at().order()) > newest_at {
            latest = latest.min(chunk.facts.clock_before.max(newest.clock));
        }
    }
    Ok(Some(Recoverable { earliest: oldest.clock, latest, gaps }))
}

/// Microseconds since 1970 as a time; one beyond what can be told is the nearest that can.
pub(crate) fn time(microseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(microseconds).unwrap_or(if microseconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::NewBackup;
    use crate::service::bench::{Bench, CLOCK};

    fn new(name: &str, port: Option<u16>) -> NewInstance {
        NewInstance { name: name.to_owned(), port, datastore: None }
    }

    fn adoption(socket: &str) -> Adoption {
        Adoption {
            name: "old".to_owned(),
            socket: socket.into(),
            defaults_file: "/etc/coffer/old.cnf".into(),
            control: Control::Systemd { unit: "mariadb.service".to_owned() },
        }
    }

    #[test]
    fn creating_writes_instance_and_task_and_lets_the_client_poll() {
        let bench = Bench::new();
        let view = bench.service.create_instance(&new("db1", Some(3307))).unwrap();
        let instance = view.instance;
        assert_eq!(instance.status, InstanceStatus::Build);
        assert_eq!(bench.tasks(instance.id), [TaskKind::CreateInstance]);
        assert_eq!(view.task.map(|task| task.kind), Some(TaskKind::CreateInstance));
        assert!(instance.server.data_dir.starts_with("/var/lib/coffer/instances"));
        assert_eq!(bench.service.instances().unwrap().len(), 1);
    }

    #[test]
    fn an_instance_is_of_a_datastore_that_is_installed_here() {
        let bench = Bench::new();
        let create = |name: &str, datastore| {
            bench
                .service
                .create_instance(&NewInstance { datastore, ..new(name, None) })
                .map(|view| view.instance.datastore)
        };
        assert_eq!(create("a", None).unwrap(), Datastore::Mariadb, "the first one");
        assert_eq!(create("b", Some(Datastore::Mysql)).unwrap(), Datastore::Mysql);
        let bench = Bench::of(&[Datastore::Mysql]);
        let create = |name: &str, datastore| {
            bench
                .service
                .create_instance(&NewInstance { datastore, ..new(name, None) })
                .map(|view| view.instance.datastore)
        };
        assert_eq!(create("a", None).unwrap(), Datastore::Mysql);
        let refused = create("b", Some(Datastore::Mariadb)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.hint_text().unwrap().ends_with("or ask for mysql."), "{refused}");
        let bench = Bench::of(&[]);
        assert_eq!(bench.service.create_instance(&new("a", None)).unwrap_err().kind(), ErrorKind::Refused);
        bench.service.adopt_instance(&adoption("/s")).unwrap();
    }

    #[test]
    fn names_sockets_and_ports_are_taken_once() {
        let bench = Bench::new();
        let create = |name: &str, port| bench.service.create_instance(&new(name, port));
        create("db1", Some(3307)).unwrap();
        assert_eq!(create("db1", None).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(create("db2", Some(3307)).unwrap_err().kind(), ErrorKind::Conflict);
        create("db2", None).unwrap();
        create("db3", None).unwrap();
        bench.service.adopt_instance(&adoption("/run/mysqld/mysqld.sock")).unwrap();
        let again = Adoption { name: "other".to_owned(), ..adoption("/run/mysqld/mysqld.sock") };
        assert_eq!(bench.service.adopt_instance(&again).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(bench.service.instances().unwrap().len(), 4, "nothing is left of those refused");
    }

    #[test]
    fn what_cannot_be_adopted_is_refused_by_the_member_at_fault() {
        let bench = Bench::new();
        let argv =
            |start: &str, stop: &str| Control::Argv { start: vec![start.to_owned()], stop: vec![stop.to_owned()] };
        let with = |control| Adoption { control, ..adoption("/s") };
        for (adoption, member) in [
            (adoption("mysqld.sock"), "adopt.socket"),
            (Adoption { defaults_file: "my.cnf".into(), ..adoption("/s") }, "adopt.defaults_file"),
            (with(Control::Systemd { unit: "--now".to_owned() }), "adopt.systemd_unit"),
            (with(Control::Systemd { unit: "a b".to_owned() }), "adopt.systemd_unit"),
            (with(argv("./start.sh", "/stop")), "adopt.start"),
            (with(argv("/start", "")), "adopt.stop"),
            (
                with(Control::Argv {
                    start: vec!["/start".to_owned()],
                    stop: vec!["mariadb-admin".to_owned(), "--password=x".to_owned()],
                }),
                "adopt.stop",
            ),
            (Adoption { name: "--".to_owned(), ..adoption("/s") }, "name"),
        ] {
            let error = bench.service.adopt_instance(&adoption).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.message().contains(&format!("`{member}`")), "{error}");
            assert!(error.hint_text().is_some(), "{error}");
        }
        bench.service.adopt_instance(&with(argv("/start", "/stop"))).unwrap();
    }

    #[test]
    fn an_instance_is_deleted_once_and_only_when_nothing_is_done_with_it() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        bench
            .service
            .create_backup(&NewBackup { instance: id, name: "b".to_owned(), description: String::new() })
            .unwrap();
        assert_eq!(bench.service.delete_instance(id).unwrap_err().kind(), ErrorKind::Busy);
        bench.end_tasks(id);
        bench.store.write(|tx| tx.set_instance_status(id, InstanceStatus::Active, None)).unwrap();
        bench.service.delete_instance(id).unwrap();
        bench.service.delete_instance(id).unwrap();
        assert_eq!(bench.tasks(id), [TaskKind::DeleteInstance]);
        assert_eq!(bench.status(id), InstanceStatus::Shutdown);
        assert_eq!(bench.service.restart_instance(id).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(bench.service.delete_instance(InstanceId::random()).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn resetting_frees_what_is_stuck_and_nothing_that_runs() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        let new = NewBackup { instance: id, name: "b".to_owned(), description: String::new() };
        let backup = bench.service.create_backup(&new).unwrap().backup;
        assert_eq!(bench.service.reset_instance_status(id).unwrap_err().kind(), ErrorKind::Busy);
        bench.end_tasks(id);
        bench.service.reset_instance_status(id).unwrap();
        assert_eq!(bench.status(id), InstanceStatus::Error);
        assert_eq!(bench.service.backup(backup.id).unwrap().backup.status, BackupStatus::Failed);
        assert_eq!(bench.service.create_backup(&new).unwrap_err().kind(), ErrorKind::Busy);
        bench.service.restart_instance(id).unwrap();
        assert_eq!(bench.tasks(id), [TaskKind::RestartInstance]);
    }

    #[test]
    fn the_recoverable_past_begins_with_the_first_completed_backup() {
        let bench = Bench::new();
        let id = bench.active("db1").id;
        assert_eq!(bench.service.instance(id).unwrap().recoverable, None);
        bench.completed(id, "b1");
        let recoverable = bench.service.instance(id).unwrap().recoverable.unwrap();
        assert_eq!((recoverable.earliest, recoverable.latest), (CLOCK, CLOCK));
    }
}
