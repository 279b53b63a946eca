//! Flags that set configuration keys, made from the table of keys.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::output;
use crate::config::{ConfigError, KEYS, Key, Kind, Layers, Resolved};

/// The flags of `cascade node`, `cascade config` and `cascade init` that set configuration keys.
#[derive(Clone, Debug, Default)]
pub struct NodeFlags {
    file: Option<PathBuf>,
    values: Vec<(String, String, String)>,
}

impl NodeFlags {
    /// Puts defaults, file, environment and these flags together, and says on stderr which variables mean nothing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn resolve(&self) -> Result<Resolved, ConfigError> {
        let resolved = self.resolve_quietly()?;
        for name in &resolved.ignored {
            output::note(&format!("cascade: warning: {}", ignored(name)));
        }
        Ok(resolved)
    }

    /// As [`Self::resolve`], for a command that says itself which variables mean nothing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn resolve_quietly(&self) -> Result<Resolved, ConfigError> {
        Layers::of_process(self.file.clone(), self.values.clone()).resolve()
    }

    /// What these flags set: flag, key, text.
    #[must_use]
    pub fn values(&self) -> &[(String, String, String)] {
        &self.values
    }
}

/// What is said of a variable that means nothing.
pub(super) fn ignored(variable: &str) -> String {
    format!("the environment variable {variable} is no key of the configuration and ignored")
}

fn argument(key: &'static Key, flag: &'static str) -> Arg {
    let many = key.kind == Kind::Texts;
    let value_name = match key.kind {
        Kind::Path => "PATH",
        Kind::Address => "IP:PORT",
        Kind::Count(_) => "NUMBER",
        Kind::Switch => "BOOL",
        Kind::Texts => "LIST",
        Kind::Choice(_) => "NAME",
        Kind::Text => "TEXT",
        Kind::Account => "ADDRESS",
        Kind::Filter => "FILTER",
    };
    Arg::new(key.name)
        .long(flag.trim_start_matches('-'))
        .value_name(value_name)
        .help(format!("{} [{}]", key.help, key.name))
        .help_heading("Configuration")
        .action(if many { ArgAction::Append } else { ArgAction::Set })
}

impl Args for NodeFlags {
    fn augment_args(command: Command) -> Command {
        let command = command
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .help("The configuration file to read instead of DIR/cascade.toml")
                    .help_heading("Configuration"),
            )
            .arg(
                Arg::new("set")
                    .long("set")
                    .value_name("KEY=VALUE")
                    .help("Sets any configuration key; `cascade config --keys` lists them")
                    .help_heading("Configuration")
                    .action(ArgAction::Append),
            );
        KEYS.iter()
            .filter_map(|key| key.flag.map(|flag| argument(key, flag)))
            .fold(command, |command, argument| command.arg(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NodeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = Vec::new();
        for key in KEYS {
            let Some(flag) = key.flag else { continue };
            let texts: Vec<&str> =
                matches.get_many::<String>(key.name).into_iter().flatten().map(String::as_str).collect();
            if !texts.is_empty() {
                values.push((flag.to_owned(), key.name.to_owned(), texts.join(",")));
            }
        }
        for setting in matches.get_many::<String>("set").into_iter().flatten() {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                clap::Error::raw(
                    clap::error::ErrorKind::ValueValidation,
                    format!("--set {setting}: expected KEY=VALUE\n"),
                )
            })?;
            values.push(("--set".to_owned(), key.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(Self { file: matches.get_one::<String>("config").map(PathBuf::from), values })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
