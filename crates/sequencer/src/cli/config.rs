//! `cascade config`.

use clap::Args;
use serde::Serialize;

use super::{Failure, NodeFlags, output};
use crate::config::{KEYS, Origin, docs};

/// Prints the configuration that a node would run with, and where each value comes from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade config --data node-1\n  \
                        CASCADE_RPC_MAX_BATCH=10 cascade config --set log.level=debug --json")]
pub struct ConfigArgs {
    #[command(flatten)]
    flags: NodeFlags,
    /// One line of JSON: {key: {value, origin}}.
    #[arg(long)]
    json: bool,
    /// List every key with its default and meaning instead.
    #[arg(long, conflicts_with = "markdown")]
    keys: bool,
    /// Print the text of docs/configuration.md instead.
    #[arg(long)]
    markdown: bool,
}

#[derive(Serialize)]
struct Entry<'a> {
    value: &'a toml::Value,
    origin: &'a Origin,
}

/// Runs the command.
pub fn run(args: ConfigArgs) -> Result<(), Failure> {
    if args.markdown {
        return output::line(docs::render().trim_end());
    }
    if args.keys {
        return KEYS.iter().try_for_each(|key| {
            output::line(&format!("{} = {}\n    {}", key.name, key.default.unwrap_or("(none)"), key.help))
        });
    }
    let resolved = args.flags.resolve()?;
    if args.json {
        let entries: serde_json::Map<_, _> = resolved
            .values
            .iter()
            .map(|(key, value, origin)| {
                let entry = serde_json::to_value(Entry { value, origin }).expect("TOML values have a JSON form");
                (key.name.to_owned(), entry)
            })
            .collect();
        return output::json(&entries);
    }
    let width = resolved.values.iter().map(|(key, value, _)| key.name.len() + 3 + value.to_string().len()).max();
    let width = width.unwrap_or(0).min(60);
    resolved.values.iter().try_for_each(|(key, value, origin)| {
        output::line(&format!("{:width$}  # {origin}", format!("{} = {value}", key.name)))
    })
}
