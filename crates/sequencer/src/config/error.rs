//! What can be wrong with a configuration.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::layers::Origin;
use crate::exit::ExitCode;

/// A configuration that was refused, with the key and where its value came from.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("{} is no TOML: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        what: String,
    },
    /// There is no such key.
    #[error("{key} (from {origin}): there is no such key{}; `cascade config --keys` lists them all", similar(.nearest))]
    Unknown {
        /// The key.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// A key that is spelled alike.
        nearest: Option<&'static str>,
    },
    /// An environment variable is nearly a key's.
    #[error("environment {name}: there is no such key; perhaps {nearest} is meant")]
    Variable {
        /// The variable.
        name: String,
        /// The one that is spelled alike.
        nearest: String,
    },
    /// Nobody says where the node's home is.
    #[error("data: HOME is not set, so there is no default; give --data DIR or set CASCADE_DATA")]
    NoHome,
    /// A value is of the wrong kind.
    #[error("{key} = {value} (from {origin}): {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// What must stand there.
        rule: String,
    },
    /// A relation between keys does not hold.
    #[error("{key} = {value}{}: {rule}", .origin.as_ref().map(|o| format!(" (from {o})")).unwrap_or_default())]
    Relation {
        /// The key to change.
        key: &'static str,
        /// Its value.
        value: String,
        /// Where it stands, once that is known.
        origin: Option<Origin>,
        /// What must hold.
        rule: String,
    },
}

fn similar(nearest: &Option<&'static str>) -> String {
    nearest.map(|key| format!("; perhaps {key} is meant")).unwrap_or_default()
}

impl ConfigError {
    /// The code that the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { source, .. } if ExitCode::of_io(source) == ExitCode::Permission => ExitCode::Permission,
            _ => ExitCode::Usage,
        }
    }
}
