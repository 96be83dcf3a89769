//! Rows of instances.

use rusqlite::{Row, params};

use super::{Db, Tx, sql};
use crate::clock;
use crate::domain::id::InstanceId;
use crate::domain::instance::{Fault, Instance, InstanceStatus};
use crate::error::{Error, ErrorKind};

impl Db<'_> {
    pub(crate) fn instance(&self, id: InstanceId) -> Result<Instance, Error> {
        self.first("SELECT * FROM instances WHERE id = ?1", [id.to_string()], read)?
            .ok_or_else(|| sql::not_found("instance", id))
    }

    /// All instances, by name.
    pub(crate) fn instances(&self) -> Result<Vec<Instance>, Error> {
        self.list("SELECT * FROM instances ORDER BY name", [], read)
    }
}

impl Tx<'_> {
    /// Adds an instance; `Conflict` if another one has its name.
    pub(crate) fn insert_instance(&self, instance: &Instance) -> Result<(), Error> {
        self.refuse_name_of_another(instance)?;
        let statement =
            "INSERT INTO instances (id, name, status, fault, server, datastore, version, created_at, updated_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        self.write_instance_row(statement, instance).map(drop)
    }

    /// Writes the whole row.
    pub(crate) fn update_instance(&self, instance: &Instance) -> Result<(), Error> {
        self.refuse_name_of_another(instance)?;
        let statement =
            "UPDATE instances SET name = ?2, status = ?3, fault = ?4, server = ?5, datastore = ?6, version = ?7,
                         created_at = ?8, updated_at = ?9 WHERE id = ?1";
        sql::must_exist(self.write_instance_row(statement, instance)?, "instance", instance.id)
    }

    /// Writes the status and, in place of the one before, the fault.
    pub(crate) fn set_instance_status(
        &self,
        id: InstanceId,
        status: InstanceStatus,
        fault: Option<&Fault>,
    ) -> Result<(), Error> {
        let changed = self.execute(
            "UPDATE instances SET status = ?2, fault = ?3, updated_at = ?4 WHERE id = ?1",
            params![id.to_string(), sql::word(&status)?, sql::to_json_or_none(fault)?, sql::nanoseconds(clock::now())],
        )?;
        sql::must_exist(changed, "instance", id)
    }

    /// Forgets the instance. Its backups, timelines and chunks stay in the catalog, as they do in the repository.
    pub(crate) fn remove_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.forget_meta_of(id)?;
        self.execute("DELETE FROM shipping WHERE instance = ?1", [id.to_string()])?;
        let removed = self.execute("DELETE FROM instances WHERE id = ?1", [id.to_string()])?;
        sql::must_exist(removed, "instance", id)
    }

    fn write_instance_row(&self, statement: &str, instance: &Instance) -> Result<usize, Error> {
        self.execute(
            statement,
            params![
                instance.id.to_string(),
                instance.name,
                sql::word(&instance.status)?,
                sql::to_json_or_none(instance.fault.as_ref())?,
                sql::to_json(&instance.server)?,
                sql::word(&instance.datastore)?,
                instance.version,
                sql::nanoseconds(instance.created_at),
                sql::nanoseconds(instance.updated_at),
            ],
        )
    }

    fn refuse_name_of_another(&self, instance: &Instance) -> Result<(), Error> {
        let query = "SELECT 1 FROM instances WHERE name = ?1 AND id <> ?2";
        match self.first(query, [&instance.name, &instance.id.to_string()], |_| Ok(()))? {
            Some(()) => {
                Err(Error::new(ErrorKind::Conflict, format!("there is an instance `{}` already", instance.name))
                    .hint("Choose another name, or delete that instance first."))
            }
            None => Ok(()),
        }
    }
}

fn read(row: &Row<'_>) -> Result<Instance, Error> {
    Ok(Instance {
        id: sql::parsed(row, "id")?,
        name: sql::column(row, "name")?,
        status: sql::named(row, "status")?,
        fault: sql::json_or_none(row, "fault")?,
        server: sql::json(row, "server")?,
        datastore: sql::named(row, "datastore")?,
        version: sql::column(row, "version")?,
        created_at: sql::time(row, "created_at")?,
        updated_at: sql::time(row, "updated_at")?,
    })
}
