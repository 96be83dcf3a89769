//! Which server an instance is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// Trove's word for the kind of a database server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Datastore {
    Mariadb,
    Mysql,
}

impl Datastore {
    pub(crate) const ALL: [Datastore; 2] = [Datastore::Mariadb, Datastore::Mysql];

    /// Trove's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Datastore::Mariadb => "mariadb",
            Datastore::Mysql => "mysql",
        }
    }

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Datastore::Mariadb => "MariaDB",
            Datastore::Mysql => "MySQL",
        }
    }

    /// What a server says of itself with `SELECT VERSION()`.
    pub(crate) fn of_version(text: &str) -> Datastore {
        if text.to_ascii_lowercase().contains("mariadb") { Datastore::Mariadb } else { Datastore::Mysql }
    }
}

impl fmt::Display for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Datastore {
    type Err = Error;

    fn from_str(text: &str) -> Result<Datastore, Error> {
        Datastore::ALL.into_iter().find(|datastore| datastore.name() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("`{text}` is no datastore"))
                .hint("The datastores are `mariadb` and `mysql`.")
        })
    }
}
