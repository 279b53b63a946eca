//! `docs/metrics.md` lists what a node exports: every metric that is scraped stands there with its type, labels and help,
//! and everything that stands there is exported.
//!
//! A metric with labels is exported once one of its label values has been seen. Those that a small healthy cluster does
//! not show are looked for by name in the sources. `CASCADE_WRITE_DOCS=1` writes the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
};

use crate::{
    cluster::wait_for,
    testnet::{Testnet, runtime},
};

/// A row of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

impl Metric {
    fn row(&self, name: &str) -> String {
        let labels: Vec<String> = self.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {} | {} | {} |", self.kind, labels.join(", "), self.help)
    }
}

pub fn scrape(url: &str) -> String {
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a metrics URL");
    let mut stream = TcpStream::connect(address).expect("the node serves metrics");
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// The metrics of a scrape, in Prometheus' text format.
fn exported(text: &str, into: &mut BTreeMap<String, Metric>) {
    let mut current = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            into.entry(name.to_owned()).or_default().help = help.to_owned();
            current = name.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            into.entry(name.to_owned()).or_default().kind = kind.to_owned();
            current = name.to_owned();
        } else if let Some((_, rest)) = line.split_once('{')
            && line.starts_with(&current)
            && let Some(metric) = into.get_mut(&current)
        {
            // No value of ours has a quote, a comma or a brace in it.
            let labels = rest.split('}').next().unwrap_or_default().split(',');
            let labels = labels.filter_map(|label| label.split_once('=').map(|(name, _)| name.to_owned()));
            metric.labels.extend(labels.filter(|name| name != "le"));
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn documented(text: &str) -> BTreeMap<String, Metric> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, kind, labels, help] = cells[..] else { panic!("four cells are needed: {line}") };
        let labels = labels.split(", ").map(|label| label.trim_matches(['`', ' ']).to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        Some((name.trim_end_matches('`').to_owned(), Metric { kind: kind.to_owned(), labels, help: help.to_owned() }))
    };
    text.lines().filter_map(row).collect()
}

/// All text of the crates' sources.
fn sources() -> String {
    fn read(dir: &Path, into: &mut String) {
        for entry in std::fs::read_dir(dir).expect("a directory of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                read(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&std::fs::read_to_string(&path).expect("a source is text"));
            }
        }
    }
    let mut text = String::new();
    for entry in std::fs::read_dir(root().join("crates")).expect("the crates").flatten() {
        let source = entry.path().join("src");
        if source.is_dir() {
            read(&source, &mut text);
        }
    }
    text
}

/// Whether the sources name a metric, whole or without `cascade_<subsystem>_`.
fn is_in(sources: &str, name: &str) -> bool {
    let rest = name.strip_prefix("cascade_").and_then(|rest| rest.split_once('_')).map_or(name, |(_, rest)| rest);
    sources.contains(&format!("\"{name}\"")) || sources.contains(&format!("\"{rest}\""))
}

#[test]
fn the_document_lists_every_metric_and_every_metric_is_exported() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Testnet::start(&dir.path().join("cluster"), &["--nodes", "2"]);
    wait_for("blocks are executed", || (cluster.height(&runtime(), 0) >= 3).then_some(()));
    let mut found = BTreeMap::new();
    for url in cluster.info["metrics"].as_array().expect("nodes of a testnet have metrics") {
        exported(&scrape(url.as_str().expect("a URL")), &mut found);
    }
    assert!(found.len() > 20, "{found:?}");

    let (file, sources) = (root().join("docs/metrics.md"), sources());
    let text = std::fs::read_to_string(&file).expect("docs/metrics.md");
    let listed = documented(&text);
    let is_rare = |metric: &Metric, name: &str| !metric.labels.is_empty() && is_in(&sources, name);
    let mut all: BTreeMap<&String, &Metric> = listed.iter().filter(|(name, metric)| is_rare(metric, name)).collect();
    all.extend(&found);
    let rows: Vec<String> = all.iter().map(|(name, metric)| metric.row(name)).collect();
    if std::env::var_os("CASCADE_WRITE_DOCS").is_some() {
        let (head, rest) = text.split_once("|---|---|---|---|\n").expect("the table's head");
        let tail: Vec<&str> = rest.lines().skip_while(|line| line.starts_with('|')).collect();
        let table = format!("{head}|---|---|---|---|\n{}\n{}\n", rows.join("\n"), tail.join("\n"));
        std::fs::write(&file, table.trim_end().to_owned() + "\n").expect("the document can be written");
        return;
    }
    let written: Vec<String> = listed.iter().map(|(name, metric)| metric.row(name)).collect();
    let more = rows.iter().filter(|row| !written.contains(row)).map(|row| format!("+ {row}\n"));
    let less = written.iter().filter(|row| !rows.contains(row)).map(|row| format!("- {row}\n"));
    let wrong: String = more.chain(less).collect();
    assert!(wrong.is_empty(), "docs/metrics.md is out of date; run this test with CASCADE_WRITE_DOCS=1:\n{wrong}");
}
