//! How what is stored is compressed.

use serde::{Deserialize, Serialize};

/// Each form that is written and read; `zstd` unless asked otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compression {
    #[default]
    Zstd,
    Gzip,
}

impl Compression {
    pub(crate) const ALL: [Compression; 2] = [Compression::Zstd, Compression::Gzip];

    /// The word for it in the configuration and in what is stored.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Compression> {
        Compression::ALL.into_iter().find(|compression| compression.name() == name)
    }
}
