//! Use cases: one function each. A function checks, then writes state and task in one transaction, rings the bell and
//! returns; the client polls. What is asked of a server or of the repository goes through `recovery::Planning`.

mod backups;
mod figures;
mod history;
mod instances;
mod recoveries;
mod verifications;

#[cfg(test)]
pub(crate) mod bench;

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::domain::datastore::Datastore;
use crate::domain::instance::{Instance, InstanceStatus};
use crate::domain::task::{Task, TaskKind};
use crate::error::{Error, ErrorKind};
use crate::queue::Bell;
use crate::recovery::Planning;
use crate::store::{Db, Store};

pub(crate) use crate::service::backups::{BackupPage, BackupView, NewBackup};
pub(crate) use crate::service::figures::InstanceFigures;
pub(crate) use crate::service::history::TimelineView;
pub(crate) use crate::service::instances::{Adoption, Hole, InstanceView, NewInstance, Recoverable, time};
pub(crate) use crate::service::recoveries::{NewRecovery, RecoveryView};
pub(crate) use crate::service::verifications::{BadView, VerificationView};

/// What the use cases need to know of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct ServiceSettings {
    /// Absolute; created instances live below it.
    pub(crate) state_dir: PathBuf,
    /// The servers that can be created here; the first is what one is without a word on it.
    pub(crate) installed: Vec<Installed>,
    /// What stood in the way of beginning with an empty state, for people.
    pub(crate) notice: Option<String>,
}

/// A server program on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) datastore: Datastore,
    /// Its exact version when coffer was started.
    pub(crate) version: String,
}

/// The use cases.
pub(crate) struct Service {
    store: Store,
    bell: Bell,
    planning: Arc<dyn Planning>,
    settings: ServiceSettings,
}

impl Service {
    pub(crate) fn new(store: Store, bell: Bell, planning: Arc<dyn Planning>, settings: ServiceSettings) -> Service {
        Service { store, bell, planning, settings }
    }

    /// The servers that can be created here.
    pub(crate) fn installed(&self) -> &[Installed] {
        &self.settings.installed
    }

    /// What whoever begins here should know, as long as there is no instance.
    pub(crate) fn notice(&self) -> Result<Option<&str>, Error> {
        let is_empty = self.store.read(|db| db.instances())?.is_empty();
        Ok(self.settings.notice.as_deref().filter(|_| is_empty))
    }

    /// Whether `secret` is one of the tokens. Only digests are kept, and they are compared in constant time.
    pub(crate) fn knows_token(&self, secret: &str) -> Result<bool, Error> {
        let digest = hex_of(secret);
        let tokens = self.store.read(|db| db.tokens())?;
        Ok(tokens.iter().fold(false, |known, token| known | is_equal(token.sha256.as_bytes(), digest.as_bytes())))
    }

    /// Fails when the state cannot be read: the appliance is then of no use.
    pub(crate) fn check_health(&self) -> Result<(), Error> {
        self.store.read(|db| db.meta("health")).map(drop)
    }
}

/// Takes as long whatever the bytes are.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |differing, (l, r)| differing | (l ^ r)) == 0
}

/// Refuses what would get in the way of something that is being done with the instance.
fn refuse_busy(db: &Db<'_>, instance: &Instance, allowed: &[InstanceStatus]) -> Result<(), Error> {
    if let Some(recovery) = db.unsettled_recovery(instance.id)? {
        return Err(busy(instance, &format!("recovery {} is {}", recovery.id, recovery.state.name()))
            .hint("Wait until the recovery has ended, or abort it if it waits at its pause."));
    }
    if let Some(task) = db.unfinished_tasks(instance.id)?.iter().find(|task| holds_instance(task)) {
        return Err(busy(instance, &format!("a task was {}", task_name(&task.kind)))
            .hint("Wait until the instance is ACTIVE and try again."));
    }
    if !allowed.contains(&instance.status) {
        return Err(busy(instance, &format!("instance status was {}", status_name(instance.status))).hint(
            match instance.status {
                InstanceStatus::Error => "Mend what its fault says, or recover the instance.",
                InstanceStatus::Shutdown => "It is being deleted.",
                InstanceStatus::Build | InstanceStatus::Active | InstanceStatus::Backup => {
                    "Wait until the instance is ACTIVE; if nothing is going on, reset its status."
                }
            },
        ));
    }
    Ok(())
}

/// As `refuse_busy`, for what must not wait: a recovery or an undo. A backup gives way to it.
fn refuse_busy_but_for_backups(db: &Db<'_>, instance: &Instance) -> Result<(), Error> {
    let is_in_the_way = |task: &&Task| holds_instance(task) && !matches!(task.kind, TaskKind::CreateBackup { .. });
    if let Some(task) = db.unfinished_tasks(instance.id)?.iter().find(is_in_the_way) {
        return Err(busy(instance, &format!("a task was {}", task_name(&task.kind)))
            .hint("Wait until the instance is ACTIVE and try again."));
    }
    match instance.status {
        InstanceStatus::Active | InstanceStatus::Backup | InstanceStatus::Error => Ok(()),
        InstanceStatus::Build | InstanceStatus::Shutdown => {
            Err(busy(instance, &format!("instance status was {}", status_name(instance.status)))
                .hint("Wait until the instance is ACTIVE; if nothing is going on, reset its status."))
        }
    }
}

/// In Trove's words.
fn busy(instance: &Instance, why: &str) -> Error {
    let id = instance.id;
    Error::new(
        ErrorKind::Busy,
        format!("Instance {id} is not currently available for an action to be performed ({why})"),
    )
}

/// Whether other tasks of the instance have to wait for this one's end.
fn holds_instance(task: &Task) -> bool {
    let is_aside = matches!(task.kind, TaskKind::DeleteBackup { .. } | TaskKind::ReleaseRecovery { .. });
    !is_aside && !task.kind.gives_way()
}

/// A task for people.
pub(crate) fn task_name(kind: &TaskKind) -> &'static str {
    match kind {
        TaskKind::CreateInstance => "create_instance",
        TaskKind::AdoptInstance => "adopt_instance",
        TaskKind::DeleteInstance => "delete_instance",
        TaskKind::CreateBackup { .. } => "create_backup",
        TaskKind::DeleteBackup { .. } => "delete_backup",
        TaskKind::Recover { .. } => "recover",
        TaskKind::UndoRecovery { .. } => "undo_recovery",
        TaskKind::ReleaseRecovery { .. } => "release_recovery",
        TaskKind::RestartInstance => "restart_instance",
        TaskKind::VerifyBackup { .. } => "verify_backup",
        TaskKind::VerifyInstance { .. } => "verify_instance",
    }
}

/// Trove's name of an instance's status.
pub(crate) fn status_name(status: InstanceStatus) -> &'static str {
    match status {
        InstanceStatus::Build => "BUILD",
        InstanceStatus::Active => "ACTIVE",
        InstanceStatus::Backup => "BACKUP",
        InstanceStatus::Shutdown => "SHUTDOWN",
        InstanceStatus::Error => "ERROR",
    }
}

/// A name as Trove takes them.
fn check_name(name: &str) -> Result<(), Error> {
    let is_fit =
        name.chars().count() <= 255 && name.chars().any(char::is_alphanumeric) && !name.chars().any(char::is_control);
    if is_fit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "`name` is not usable")
        .hint("A name has 1 to 255 characters, at least one letter or digit, and no control characters."))
}

/// The digest by which a token is known.
pub(crate) fn hex_of(secret: &str) -> String {
    format!("{:x}", Sha256::digest(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use crate::service::bench::Bench;

    #[test]
    fn only_an_exact_token_is_known() {
        let bench = Bench::new();
        bench.store.write(|tx| tx.insert_token(&super::hex_of("secret"), "first")).unwrap();
        assert!(bench.service.knows_token("secret").unwrap());
        for wrong in ["", "Secret", "secret ", "secre", &super::hex_of("secret")] {
            assert!(!bench.service.knows_token(wrong).unwrap(), "{wrong:?}");
        }
    }
}
