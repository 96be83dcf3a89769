//! How far each instance's binlog has reached the repository, in the shipper's own words.

use super::{Db, Tx, sql};
use crate::domain::id::InstanceId;
use crate::domain::shipping::ShippingStatus;
use crate::error::Error;

impl Db<'_> {
    /// What the shipper last said; none before it ever looked.
    pub(crate) fn shipping(&self, instance: InstanceId) -> Result<Option<ShippingStatus>, Error> {
        let query = "SELECT status FROM shipping WHERE instance = ?1";
        self.first(query, [instance.to_string()], |row| sql::json(row, "status"))
    }
}

impl Tx<'_> {
    /// Keeps the shipper's word, in place of the last one.
    pub(crate) fn set_shipping(&self, instance: InstanceId, status: &ShippingStatus) -> Result<(), Error> {
        let statement = "INSERT INTO shipping (instance, status) VALUES (?1, ?2)
                         ON CONFLICT DO UPDATE SET status = excluded.status";
        self.execute(statement, [instance.to_string(), sql::to_json(status)?]).map(drop)
    }
}
