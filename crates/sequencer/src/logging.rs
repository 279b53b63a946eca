//! Log lines on stderr, as text or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

use crate::config::{LogFormat, LogSection};

/// Reads a filter: a level, or directives such as `info,cascade_network=debug`.
///
/// # Errors
/// If it is neither.
pub fn parse_filter(text: &str) -> Result<EnvFilter, ParseError> {
    // The library's parser cuts texts at byte offsets, and panics inside a character of several bytes.
    EnvFilter::builder().parse(if text.is_ascii() { text } else { "not=a=filter" })
}

/// Sends the process's log lines to stderr. Colours only on a terminal and without `NO_COLOR`. A second call changes
/// nothing.
pub fn init(config: &LogSection) {
    let filter = parse_filter(&config.level).expect("a checked configuration has a valid filter");
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // The only error is that the process logs already, as it does when tests run several nodes.
    let _ = match config.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_are_none_are_errors() {
        assert!(parse_filter("info,cascade_network=debug").is_ok());
        for bad in ["a=b=c", "info\u{fffd}", "aaaaaaaaaaaaaaaaaaaaaaaa\u{20ac}\u{20ac},[\u{20ac}", "\u{e9}=info"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
