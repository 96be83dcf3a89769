//! Instances: their settings made fit for this host.

use std::path::Path;

use crate::agent::instances::random_server_id;
use crate::agent::rebuild::{One, RebuiltInstance};
use crate::clock;
use crate::datastore::mysqld;
use crate::datastore::option_file::{client_user, included, relocated};
use crate::domain::backup::Backup;
use crate::domain::id::InstanceId;
use crate::domain::instance::{Control, Fault, Instance, InstanceSettings, InstanceStatus, Server};
use crate::durable;
use crate::error::{Error, ErrorKind, io_error};
use crate::repository::FoundSettings;

impl One<'_> {
    /// Brings the instance into the catalog, unless it was deleted or never had anything to bring back. Its server.
    pub(super) fn instance(&mut self, found: FoundSettings, backups: &[Backup]) -> Result<Option<Server>, Error> {
        let affected = match (&found.settings, backups.is_empty()) {
            (Some(_), _) => format!("instance {} comes back with the settings it had before", self.name),
            (None, false) => "it comes back under another name, as a server that coffer makes itself".to_owned(),
            (None, true) => "it does not come back, and there is no backup of it".to_owned(),
        };
        for err in &found.damaged {
            self.rebuilt.problems.add(err.message(), affected.clone());
        }
        let untold = self.host.store.read(|db| db.untold_deletions())?;
        let is_deleted = |settings: &InstanceSettings| {
            settings.deleted_at.is_some() || untold.iter().any(|deleted| deleted.instance == self.id)
        };
        let settings = match found.settings {
            Some(settings) if is_deleted(&settings) => {
                self.rebuilt.deleted += 1;
                return Ok(None);
            }
            Some(settings) => settings,
            None => {
                if found.damaged.is_empty() {
                    let what = format!("the repository holds no settings of instance {}", self.id);
                    self.rebuilt.problems.add(what, affected);
                }
                let Some(newest) = backups.last() else { return Ok(None) };
                self.stand_in_settings(newest)?
            }
        };
        let instance = match self.host.store.read(|db| db.instance(self.id)) {
            Err(err) if err.kind() == ErrorKind::NotFound => self.insert_instance(&settings)?,
            known => known?,
        };
        let server = instance.server.clone();
        let options = settings.options.unwrap_or_default();
        let is_created = server.control == Control::Created;
        self.rebuilt.instances.push(RebuiltInstance {
            backups: backups.len() as u64,
            answers: mysqld::answers(&server),
            has_data: server.data_dir.is_dir(),
            includes: included(&options).into_iter().map(str::to_owned).collect(),
            login: client_user(&options).filter(|_| is_created),
            instance,
        });
        Ok(Some(server))
    }

    /// Settings for an instance of which nothing is known but its history: a server of coffer's own can hold any data.
    fn stand_in_settings(&self, newest: &Backup) -> Result<InstanceSettings, Error> {
        let short: String = self.id.to_string().chars().take(8).collect();
        Ok(InstanceSettings {
            instance: self.id,
            name: format!("rebuilt-{short}"),
            datastore: newest.datastore,
            version: newest.server_version.clone(),
            server: Server::created(self.host.state_dir, self.id, 0)?,
            options: None,
            ship_after: None,
            created_at: newest.created_at,
            deleted_at: None,
        })
    }

    fn insert_instance(&self, settings: &InstanceSettings) -> Result<Instance, Error> {
        let server = match settings.server.control {
            Control::Created => self.make_created(settings)?,
            Control::Systemd { .. } | Control::Argv { .. } => settings.server.clone(),
        };
        let name = self.free_name(&settings.name)?;
        let fault = fault(&name, &server);
        let instance = Instance {
            id: self.id,
            status: if fault.is_some() { InstanceStatus::Error } else { InstanceStatus::Active },
            name,
            fault,
            server,
            datastore: settings.datastore,
            version: settings.version.clone(),
            created_at: settings.created_at,
            updated_at: clock::now(),
        };
        self.host.store.write(|tx| {
            tx.insert_instance(&instance)?;
            if let Some((timeline, file)) = &settings.ship_after {
                tx.set_ship_after(*timeline, file)?;
            }
            tx.set_unproven(instance.id)
        })?;
        Ok(instance)
    }

    /// The created server with its home below this state directory, and its option file there.
    fn make_created(&self, settings: &InstanceSettings) -> Result<Server, Error> {
        let server = Server::created(self.host.state_dir, self.id, settings.server.port)?;
        if server.defaults_file.exists() {
            return Ok(server);
        }
        let options = match &settings.options {
            Some(text) => relocated(text, home(&settings.server), home(&server)),
            None => mysqld::created_options(self.host.tools.of(settings.datastore), &server, random_server_id()?),
        };
        let home = home(&server);
        std::fs::create_dir_all(home).map_err(|err| io_error("unable to create", home, err))?;
        durable::write(&server.defaults_file, options.as_bytes(), 0o644)?;
        Ok(server)
    }

    /// The name, or one made of it when another instance has it: the name of a deleted one may have been given again.
    fn free_name(&self, wanted: &str) -> Result<String, Error> {
        let is_taken = self.host.store.read(|db| db.instances())?.iter().any(|other| other.name == wanted);
        let short = |id: InstanceId| id.to_string().chars().take(8).collect::<String>();
        Ok(if is_taken { format!("{wanted}-{}", short(self.id)) } else { wanted.to_owned() })
    }
}

fn home(server: &Server) -> &Path {
    server.defaults_file.parent().unwrap_or(Path::new("/"))
}

/// Why the instance does not serve here yet; nothing when its server answers.
fn fault(name: &str, server: &Server) -> Option<Fault> {
    if mysqld::answers(server) {
        return None;
    }
    let message = if server.data_dir.is_dir() {
        "the catalog was rebuilt from the repository, and the server does not run".to_owned()
    } else {
        let dir = server.data_dir.display();
        format!("the catalog was rebuilt from the repository, and there is no data at `{dir}` yet")
    };
    let hint = format!("Bring the data back with `coffer recover {name} --latest`.");
    Some(Fault { message, hint, at: clock::now() })
}
