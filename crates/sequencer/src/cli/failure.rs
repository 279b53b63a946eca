//! How a command fails: a message for people, a code for scripts.

use std::fmt::Display;

use cascade_storage::StorageError;

use crate::{
    config::{ConfigError, GenesisFileError, KeyError},
    exit::ExitCode,
    node::NodeError,
};

/// A command that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code that the process ends with.
    pub code: ExitCode,
    /// What went wrong and what to do; empty if it has been said already.
    pub message: String,
}

impl Failure {
    /// A failure that no other code stands for.
    pub fn new(message: impl Display) -> Self {
        Self { code: ExitCode::Failed, message: message.to_string() }
    }

    /// A wrong command line that the parser cannot find.
    pub fn usage(message: impl Display) -> Self {
        Self { code: ExitCode::Usage, message: message.to_string() }
    }

    /// A failure of the system in doing something.
    pub fn io(what: impl Display, error: &std::io::Error) -> Self {
        Self { code: ExitCode::of_io(error), message: format!("{what}: {error}") }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

impl From<GenesisFileError> for Failure {
    fn from(error: GenesisFileError) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self { code: (&error).into(), message: error.to_string() }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}
