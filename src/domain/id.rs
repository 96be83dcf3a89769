//! Identifiers: one type each, so that a backup's can never be passed where an instance's is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, ErrorKind};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub(crate) struct $name(Uuid);

        impl $name {
            /// A new random identifier.
            pub(crate) fn random() -> $name {
                $name(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<$name, Error> {
                Uuid::try_parse(text).map($name).map_err(|_| {
                    Error::new(ErrorKind::InvalidInput, format!(concat!("`{}` is not the UUID of ", $noun), text))
                })
            }
        }
    };
}

id!(
    /// A managed server.
    InstanceId,
    "an instance"
);
id!(
    /// A backup.
    BackupId,
    "a backup"
);
id!(
    /// One unbroken history of an instance.
    TimelineId,
    "a timeline"
);
id!(
    /// A recovery of an instance in place.
    RecoveryId,
    "a recovery"
);
id!(
    /// A row of the task queue.
    TaskId,
    "a task"
);
