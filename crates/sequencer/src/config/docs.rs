//! `docs/configuration.md`, written from the table of keys.

use std::fmt::Write as _;

use super::table::{KEYS, Key, Kind};

/// The text of `docs/configuration.md`.
#[must_use]
pub fn render() -> String {
    let mut text = String::from(INTRODUCTION);
    let mut section = "";
    for key in KEYS {
        let of = key.name.split_once('.').map_or("", |(section, _)| section);
        if of != section {
            section = of;
            writeln!(text, "## `[{section}]`\n").expect(WRITES);
        }
        write_key(&mut text, key);
    }
    text
}

const WRITES: &str = "writing to a string cannot fail";

fn write_key(text: &mut String, key: &Key) {
    let kind = match key.kind {
        Kind::Path => "path".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Address => "address".to_owned(),
        Kind::Account => "account (0x and 40 hex digits)".to_owned(),
        Kind::Count(_) => "number".to_owned(),
        Kind::Switch => "true or false".to_owned(),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Choice(choices) => choices.join(" or "),
        Kind::Filter => "log filter".to_owned(),
    };
    let unit = if key.unit.is_empty() { String::new() } else { format!(", in {}", key.unit) };
    let default = key.default.map_or_else(|| "none".to_owned(), |default| format!("`{default}`"));
    let flag = key.flag.map_or_else(|| format!("`--set {}=VALUE`", key.name), |flag| format!("`{flag}`"));
    writeln!(text, "### `{}`\n\n{}\n", key.name, key.help).expect(WRITES);
    writeln!(text, "- holds: {kind}{unit}; default: {default}").expect(WRITES);
    writeln!(text, "- environment: `{}`; flag: {flag}", key.variable()).expect(WRITES);
    writeln!(text, "- all nodes of a chain must agree: {}\n", if key.agree { "yes, on its content" } else { "no" })
        .expect(WRITES);
}

const INTRODUCTION: &str = "# Configuration of a node

A value is taken from the last of these places that has one:

1. the default below
2. the file `DIR/cascade.toml`, or the one named with `--config` (TOML; unknown keys are refused)
3. the environment: `CASCADE_`, then the key in capitals with `_` for the dot, such as `CASCADE_RPC_LISTEN`
   (a variable that is nearly a key's is refused; any other that starts with `CASCADE_` is ignored with a warning)
4. flags of `cascade node`: the one named below, or `--set section.key=VALUE` for any key

`cascade config` prints the result with the origin of each value; `cascade config --json` the same as one JSON line.
Lists are separated by commas in the environment and in flags. A relative path in a file or default is relative to the
home `DIR` (`data`); one that is typed is relative to the working directory. Relations between keys are checked at
start, and the error names the key and where its value came from.

What all nodes of a chain must agree on stands in the genesis file, none of it here.

## General

";

/// Fails unless a document of the repository has this text. With `CASCADE_WRITE_DOCS` set it is written instead.
#[cfg(test)]
pub(crate) fn assert_document(path: &str, text: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("CASCADE_WRITE_DOCS").is_some() {
        std::fs::write(&file, text).expect("the documents can be written");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == text, "{path} is out of date; run this test with CASCADE_WRITE_DOCS=1");
}
