//! The schema, as the steps that lead to it. A step that was released is never changed, only followed by another.
//!
//! `user_version` counts the steps taken. Each is one transaction with its count, so a kill between two loses nothing.

use rusqlite::{Connection, TransactionBehavior};

use super::sql;
use crate::error::{Error, ErrorKind};

/// Marks the file as coffer's (`cofr`).
const APPLICATION_ID: i32 = 0x636f_6672;

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_begin.sql"),
    include_str!("migrations/0002_verification.sql"),
    include_str!("migrations/0003_statements.sql"),
];

/// Takes the steps that are missing.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let application: i32 = pragma(connection, "application_id")?;
    let taken: usize = usize::try_from(pragma(connection, "user_version")?).unwrap_or(usize::MAX);
    if application != APPLICATION_ID && (application != 0 || taken != 0) {
        return Err(
            Error::new(ErrorKind::Refused, "the file is not a state of coffer's").hint("Name another state directory.")
        );
    }
    if taken > MIGRATIONS.len() {
        let message = format!("the state has format {taken}, this coffer knows formats up to {}", MIGRATIONS.len());
        return Err(Error::new(ErrorKind::Refused, message).hint("Run the newer coffer that wrote it."));
    }
    for (index, step) in MIGRATIONS.iter().enumerate().skip(taken) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql::error)?;
        transaction.execute_batch(step).map_err(sql::error)?;
        transaction
            .execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {};", index + 1))
            .map_err(sql::error)?;
        transaction.commit().map_err(sql::error)?;
    }
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> Result<i32, Error> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).map_err(sql::error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables and indexes as SQLite remembers them.
    fn schema(connection: &Connection) -> Vec<String> {
        let mut statement =
            connection.prepare("SELECT sql FROM sqlite_schema WHERE sql NOT NULL ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn every_step_runs_from_every_earlier_version() {
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh).unwrap();
        for begun in 0..=MIGRATIONS.len() {
            let mut older = Connection::open_in_memory().unwrap();
            for step in &MIGRATIONS[..begun] {
                older.execute_batch(step).unwrap();
            }
            let marks = if begun > 0 { APPLICATION_ID } else { 0 };
            older.execute_batch(&format!("PRAGMA application_id = {marks}; PRAGMA user_version = {begun}")).unwrap();
            migrate(&mut older).unwrap();
            migrate(&mut older).unwrap();
            assert_eq!(schema(&older), schema(&fresh), "from version {begun}");
            assert_eq!(usize::try_from(pragma(&older, "user_version").unwrap()).unwrap(), MIGRATIONS.len());
        }
    }

    #[test]
    fn every_file_of_the_folder_is_a_step() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/migrations");
        let mut names: Vec<String> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.len(), MIGRATIONS.len());
        for (index, name) in names.iter().enumerate() {
            assert!(name.starts_with(&format!("{:04}_", index + 1)) && name.ends_with(".sql"), "{name}");
            assert_eq!(
                std::fs::read_to_string(folder.join(name)).unwrap(),
                MIGRATIONS[index],
                "{name} is out of order"
            );
        }
    }

    #[test]
    fn a_step_that_fails_leaves_nothing_behind() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE shipping (x)").unwrap();
        migrate(&mut connection).unwrap_err();
        assert_eq!(schema(&connection).len(), 1);
        assert_eq!(pragma(&connection, "user_version").unwrap(), 0);
    }

    #[test]
    fn a_state_of_the_future_is_refused_by_number() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection.execute_batch("PRAGMA user_version = 900").unwrap();
        let err = migrate(&mut connection).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Refused);
        assert!(err.message().contains("format 900"), "{err}");
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA user_version = 1").unwrap();
        assert_eq!(migrate(&mut connection).unwrap_err().kind(), ErrorKind::Refused);
    }
}
