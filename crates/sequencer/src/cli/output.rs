//! Where a command's words go.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use super::Failure;

/// Writes a line of the result to stdout.
///
/// # Errors
/// If stdout takes nothing more.
pub fn line(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(|error| Failure::io("stdout", &error))
}

/// Writes the result as one line of JSON to stdout.
///
/// # Errors
/// If stdout takes nothing more.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string(value).expect("results have a JSON form"))
}

/// Writes a line that is no result to stderr. A closed stderr cannot be told to anybody.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether stderr is a terminal that a live view may redraw.
#[must_use]
pub fn is_live() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether colours may be used on stderr.
#[must_use]
pub fn has_colour() -> bool {
    is_live() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
