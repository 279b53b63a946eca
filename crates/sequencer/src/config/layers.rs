//! Layers of a configuration, and where each value came from.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cascade_primitives::Address;
use serde::Serialize;
use toml::{Table, Value};

use super::{
    NodeConfig,
    error::ConfigError,
    table::{KEYS, Key, Kind},
};

/// The file that is read from a node's home.
pub const CONFIG_FILE: &str = "cascade.toml";
/// Variables of the commands and of this repository's tools, which are no keys.
const OTHER_VARIABLES: [&str; 10] = [
    "CASCADE_BIN",
    "CASCADE_BLESS",
    "CASCADE_CAST",
    "CASCADE_COMMIT",
    "CASCADE_NO_INSTALL",
    "CASCADE_GAS_CLASSES",
    "CASCADE_RPC",
    "CASCADE_SLOW",
    "CASCADE_TESTNET",
    "CASCADE_WRITE_DOCS",
];
/// A variable that is at most so many letters away from a key's is a mistyped one. Others may mean something to others:
/// Kubernetes, for one, sets CASCADE_PORT and the like beside a service called cascade.
const MISTYPED: usize = 2;
/// More than any configuration has.
const FILE_LIMIT: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of keys.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the layers above the defaults hold.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// `--config`: a file to read instead of `DIR/cascade.toml`. It must exist.
    pub file: Option<PathBuf>,
    /// Environment variables whose names start with `CASCADE_`. One that is nearly a key's name is refused; others that
    /// are none are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags: name of the flag, key, text. Later ones win.
    pub flags: Vec<(String, String, String)>,
    /// The user's home, where a node's home is by default.
    pub home: Option<PathBuf>,
}

/// A configuration with the origin of each value.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The configuration, checked.
    pub config: NodeConfig,
    /// Every key that has a value, in the order of the table.
    pub values: Vec<(&'static Key, Value, Origin)>,
    /// Environment variables whose names start with `CASCADE_` and that mean nothing, in order.
    pub ignored: Vec<String>,
}

type Values = BTreeMap<&'static str, (Value, Origin)>;

impl Layers {
    /// The layers of this process: its environment and these flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("CASCADE_"))
            .collect();
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Self { file, environment, flags, home }
    }

    /// Puts the layers together and checks the result.
    ///
    /// # Errors
    /// The first value that cannot stand, with its key and origin.
    pub fn resolve(&self) -> Result<Resolved, ConfigError> {
        let mut above = self.environment_values()?;
        above.extend(self.flag_values()?);
        let (file, named) = match &self.file {
            Some(file) => (file.clone(), true),
            None => (home(&above, self.home.as_deref())?.0.join(CONFIG_FILE), false),
        };
        let mut values = defaults();
        if named || file.exists() {
            values.extend(file_values(&file, named)?);
        }
        values.extend(above);
        let (data, origin) = home(&values, self.home.as_deref())?;
        values.insert("data", (Value::String(data.display().to_string()), origin));
        let mut resolved = finish(values, &data)?;
        resolved.ignored = self.ignored_variables();
        Ok(resolved)
    }

    fn ignored_variables(&self) -> Vec<String> {
        let names = self.environment.iter().map(|(name, _)| name);
        let mut ignored: Vec<String> = names.filter(|name| !is_known(name)).cloned().collect();
        ignored.sort();
        ignored
    }

    fn environment_values(&self) -> Result<Values, ConfigError> {
        let mut values = Values::new();
        for (name, _) in self.environment.iter().filter(|(name, _)| !is_known(name)) {
            let nearest =
                KEYS.iter().map(|key| (strsim(&key.variable(), name), key)).min_by_key(|(distance, _)| *distance);
            if let Some((_, nearest)) = nearest.filter(|(distance, _)| *distance <= MISTYPED) {
                return Err(ConfigError::Variable { name: name.clone(), nearest: nearest.variable() });
            }
        }
        for key in KEYS {
            let variable = key.variable();
            if let Some((_, text)) = self.environment.iter().find(|(name, _)| *name == variable) {
                let origin = Origin::Environment(variable);
                values.insert(key.name, (from_text(key, text, &origin)?, origin));
            }
        }
        Ok(values)
    }

    fn flag_values(&self) -> Result<Values, ConfigError> {
        let mut values = Values::new();
        for (flag, name, text) in &self.flags {
            let origin = Origin::Flag(flag.clone());
            let key = Key::find(name).ok_or_else(|| unknown(name, &origin))?;
            values.insert(key.name, (from_text(key, text, &origin)?, origin));
        }
        Ok(values)
    }
}

fn is_known(variable: &str) -> bool {
    OTHER_VARIABLES.contains(&variable) || KEYS.iter().any(|key| key.variable() == variable)
}

/// The node's home: what `data` says, else one in the user's home.
fn home(values: &Values, user: Option<&Path>) -> Result<(PathBuf, Origin), ConfigError> {
    match (values.get("data"), user) {
        (Some((Value::String(path), origin)), _) => Ok((PathBuf::from(path), origin.clone())),
        (_, Some(user)) => Ok((user.join(".cascade"), Origin::Default)),
        (_, None) => Err(ConfigError::NoHome),
    }
}

fn defaults() -> Values {
    let mut values = Values::new();
    for key in KEYS {
        if let Some(text) = key.default {
            let value = parse_toml(text).expect("the defaults in the table are TOML");
            values.insert(key.name, (value, Origin::Default));
        }
    }
    values
}

fn parse_toml(text: &str) -> Option<Value> {
    format!("v = {text}").parse::<Table>().ok()?.remove("v")
}

fn file_values(path: &Path, named: bool) -> Result<Values, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(read)?.len() > FILE_LIMIT {
        return Err(read(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "longer than 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let table: Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), what: error.to_string() })?;
    let origin = Origin::File(path.to_owned());
    let mut flat = Vec::new();
    flatten("", table, &mut flat);
    let mut values = Values::new();
    for (name, mut value) in flat {
        let key = Key::find(&name).ok_or_else(|| unknown(&name, &origin))?;
        check_kind(key, &value, &origin)?;
        if key.name == "data" {
            if !named {
                let rule = "not allowed in a file that was found through the home; name the file with --config";
                return Err(wrong(key, &value, &origin, rule));
            }
            if let Value::String(data) = &value {
                let beside = path.parent().unwrap_or(Path::new("")).join(data);
                value = Value::String(beside.display().to_string());
            }
        }
        values.insert(key.name, (value, origin.clone()));
    }
    Ok(values)
}

/// Tables become dotted names. A table where a value belongs keeps its name, and is refused as unknown or of the wrong
/// kind.
fn flatten(prefix: &str, table: Table, into: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) if Key::find(&name).is_none() => flatten(&name, inner, into),
            value => into.push((name, value)),
        }
    }
}

fn unknown(name: &str, origin: &Origin) -> ConfigError {
    let nearest = KEYS
        .iter()
        .map(|key| (strsim(key.name, name), key.name))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, name)| name);
    ConfigError::Unknown { key: name.to_owned(), origin: origin.clone(), nearest }
}

/// The Levenshtein distance of two short names.
fn strsim(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

fn wrong(key: &'static Key, value: &Value, origin: &Origin, rule: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.name, value: value.to_string(), origin: origin.clone(), rule: rule.into() }
}

/// A value from a text of the environment or a flag.
fn from_text(key: &'static Key, text: &str, origin: &Origin) -> Result<Value, ConfigError> {
    let value = match key.kind {
        Kind::Count(_) => text.trim().parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
        Kind::Switch => text.trim().parse().map_or_else(|_| Value::String(text.to_owned()), Value::Boolean),
        Kind::Texts if text.trim_start().starts_with('[') && parse_toml(text).is_some() => {
            parse_toml(text).expect("parsed in the line above")
        }
        Kind::Texts => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
        Kind::Path | Kind::Address | Kind::Account | Kind::Choice(_) | Kind::Text | Kind::Filter => {
            Value::String(text.to_owned())
        }
    };
    check_kind(key, &value, origin)?;
    // What is typed is meant from where it is typed; what stands in a file, from the home.
    if let (Kind::Path, Value::String(path)) = (key.kind, &value)
        && let Ok(path) = std::path::absolute(path)
    {
        return Ok(Value::String(path.display().to_string()));
    }
    Ok(value)
}

fn check_kind(key: &'static Key, value: &Value, origin: &Origin) -> Result<(), ConfigError> {
    let fail = |rule: &str| Err(wrong(key, value, origin, rule));
    match (key.kind, value) {
        (Kind::Path, Value::String(path)) if !path.is_empty() => Ok(()),
        (Kind::Path, _) => fail("must be a path"),
        (Kind::Address, Value::String(text)) if text.parse::<SocketAddr>().is_ok() => Ok(()),
        (Kind::Address, _) => fail("must be IP:PORT, such as 127.0.0.1:8545 or [::1]:8545"),
        (Kind::Account, Value::String(text)) if text.parse::<Address>().is_ok() => Ok(()),
        (Kind::Account, _) => fail("must be 0x and 40 hex digits"),
        (Kind::Count(most), Value::Integer(n)) if u64::try_from(*n).is_ok_and(|n| n <= most) => Ok(()),
        (Kind::Count(most), _) => fail(&format!("must be a number from 0 to {}", most.min(i64::MAX as u64))),
        (Kind::Switch, Value::Boolean(_)) => Ok(()),
        (Kind::Switch, _) => fail("must be true or false"),
        (Kind::Texts, Value::Array(parts)) if parts.iter().all(Value::is_str) => Ok(()),
        (Kind::Texts, _) => fail("must be a list of texts"),
        (Kind::Choice(choices), Value::String(text)) if choices.contains(&text.as_str()) => Ok(()),
        (Kind::Choice(choices), _) => fail(&format!("must be one of {}", choices.join(", "))),
        (Kind::Text, Value::String(text)) if !text.is_empty() => Ok(()),
        (Kind::Text, _) => fail("must be a text"),
        (Kind::Filter, Value::String(text)) if crate::logging::parse_filter(text).is_ok() => Ok(()),
        (Kind::Filter, _) => fail("must be off, error, warn, info, debug, trace, or target=level directives"),
    }
}

/// Makes paths whole, builds the typed configuration and checks its relations.
fn finish(mut values: Values, data: &Path) -> Result<Resolved, ConfigError> {
    for key in KEYS.iter().filter(|key| key.kind == Kind::Path && key.name != "data") {
        if let Some((Value::String(path), _)) = values.get_mut(key.name) {
            *path = data.join(&*path).display().to_string();
        }
    }
    let mut tree = Table::new();
    for (name, (value, _)) in &values {
        match name.split_once('.') {
            None => tree.insert((*name).to_owned(), value.clone()),
            Some((section, key)) => tree
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .expect("the table of keys has no key that is also a section")
                .insert(key.to_owned(), value.clone()),
        };
    }
    for section in ["metrics", "batches", "pool"] {
        tree.entry(section).or_insert_with(|| Value::Table(Table::new()));
    }
    let config: NodeConfig = tree.try_into().expect("every value was checked against its kind");
    config.check().map_err(|error| match error {
        ConfigError::Relation { key, value, rule, .. } => {
            let origin = values.get(key).map(|(_, origin)| origin.clone());
            ConfigError::Relation { key, value, origin, rule }
        }
        other => other,
    })?;
    let values =
        KEYS.iter().filter_map(|key| values.remove(key.name).map(|(value, origin)| (key, value, origin))).collect();
    Ok(Resolved { config, values, ignored: Vec::new() })
}
