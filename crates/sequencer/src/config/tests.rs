use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{layers::CONFIG_FILE, *};
use crate::exit::ExitCode;

fn flag(flag: &str, key: &str, text: &str) -> (String, String, String) {
    (flag.to_owned(), key.to_owned(), text.to_owned())
}

fn at(data: &Path) -> Layers {
    Layers { flags: vec![flag("--data", "data", &data.display().to_string())], ..Layers::default() }
}

fn home(toml: &str) -> (tempfile::TempDir, Layers) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(CONFIG_FILE), toml).unwrap();
    let layers = at(dir.path());
    (dir, layers)
}

fn origin(resolved: &Resolved, name: &str) -> Origin {
    resolved.values.iter().find(|(key, _, _)| key.name == name).unwrap().2.clone()
}

#[test]
fn later_layers_win_and_each_value_knows_its_layer() {
    let (dir, mut layers) = home("[rpc]\nmax_batch = 2\nmax_logs = 3\nmax_log_blocks = 4\n");
    layers.environment = vec![
        ("CASCADE_RPC_MAX_LOGS".to_owned(), "30".to_owned()),
        ("CASCADE_RPC_MAX_LOG_BLOCKS".to_owned(), "40".to_owned()),
        ("CASCADE_SOMETHING_ELSE".to_owned(), "1".to_owned()),
    ];
    layers.flags.push(flag("--set", "rpc.max_log_blocks", "400"));
    let resolved = layers.resolve().unwrap();
    let rpc = &resolved.config.rpc;
    assert_eq!((rpc.max_batch, rpc.max_logs, rpc.max_log_blocks), (2, 30, 400));
    assert_eq!(rpc.max_subscriptions, 64);
    assert_eq!(origin(&resolved, "rpc.max_subscriptions"), Origin::Default);
    assert_eq!(origin(&resolved, "rpc.max_batch"), Origin::File(dir.path().join(CONFIG_FILE)));
    assert_eq!(origin(&resolved, "rpc.max_logs"), Origin::Environment("CASCADE_RPC_MAX_LOGS".to_owned()));
    assert_eq!(origin(&resolved, "rpc.max_log_blocks"), Origin::Flag("--set".to_owned()));
}

#[test]
fn every_key_has_a_place_in_the_configuration_and_the_other_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = at(dir.path());
    // batches.url excludes batches.dir.
    for key in KEYS.iter().filter(|key| key.default.is_none() && !["data", "batches.url"].contains(&key.name)) {
        let text = if key.kind == Kind::Account { "0x0707070707070707070707070707070707070707" } else { "127.0.0.1:7" };
        layers.flags.push(flag("--set", key.name, text));
    }
    let resolved = layers.resolve().unwrap();
    let json = serde_json::to_value(&resolved.config).unwrap();
    let mut names = Vec::new();
    for (section, value) in json.as_object().unwrap() {
        match value.as_object() {
            Some(inner) => names.extend(inner.keys().map(|key| format!("{section}.{key}"))),
            None => names.push(section.clone()),
        }
    }
    let mut expected: Vec<_> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(resolved.values.len(), KEYS.len() - 1);
}

#[test]
fn batches_go_to_a_directory_or_a_bucket_and_a_refused_url_is_shown_without_keys() {
    let (_dir, mut layers) = home("[batches]\nurl = \"s3://archive/chain\"\n");
    assert_eq!(layers.resolve().unwrap().config.batches.url.as_deref(), Some("s3://archive/chain"));
    layers.flags.push(flag("--set", "batches.dir", "batches"));
    let words = layers.resolve().unwrap_err().to_string();
    assert!(words.contains("batches.url") && words.contains("excludes batches.dir"), "{words}");
    layers.flags.push(flag("--set", "batches.url", "s3://id:secret-2718@archive"));
    let words = layers.resolve().unwrap_err().to_string();
    assert!(words.contains("must name a bucket") && !words.contains("2718"), "{words}");
}

#[test]
fn the_defaults_of_the_rpc_server_are_its_own() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(at(dir.path()).resolve().unwrap().config.rpc, RpcConfig::default());
}

#[test]
fn an_unknown_key_is_named_with_its_file_and_the_nearest_one() {
    let (dir, layers) = home("[rpc]\nmax_bach = 2\n");
    let error = layers.resolve().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("rpc.max_bach") && text.contains("rpc.max_batch is meant"), "{text}");
    assert!(text.contains(&dir.path().join(CONFIG_FILE).display().to_string()), "{text}");
    assert_eq!(error.exit_code(), ExitCode::Usage);
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_origin() {
    for (toml, key) in [
        ("[rpc]\nmax_batch = \"many\"\n", "rpc.max_batch"),
        ("[rpc]\nmax_batch = -1\n", "rpc.max_batch"),
        ("[rpc]\nlisten = \"localhost\"\n", "rpc.listen"),
        ("[rpc]\ncors_origins = [1]\n", "rpc.cors_origins"),
        ("role = \"leader\"\n", "role"),
        ("[pool]\nfavour = \"0x07\"\n", "pool.favour"),
        ("[log]\nlevel = \"a=b=c\"\n", "log.level"),
        ("[log]\nlevel = { x = 1 }\n", "log.level"),
        ("data = \"elsewhere\"\n", "data"),
    ] {
        let (_dir, layers) = home(toml);
        let text = layers.resolve().unwrap_err().to_string();
        assert!(text.starts_with(key) && text.contains(CONFIG_FILE), "{toml}: {text}");
    }
    let (_dir, mut layers) = home("");
    layers.environment = vec![("CASCADE_NETWORK_MAX_PEERS".to_owned(), "x".to_owned())];
    let text = layers.resolve().unwrap_err().to_string();
    assert!(text.contains("environment CASCADE_NETWORK_MAX_PEERS"), "{text}");
}

#[test]
fn a_mistyped_variable_is_refused_and_a_strange_one_reported() {
    let (_dir, mut layers) = home("");
    let variable = |name: &str| (name.to_owned(), "1".to_owned());
    layers.environment =
        ["CASCADE_PORT_8545_TCP", "CASCADE_RPC", "CASCADE_SLOW", "CASCADE_PORT"].map(variable).to_vec();
    assert_eq!(layers.resolve().unwrap().ignored, ["CASCADE_PORT", "CASCADE_PORT_8545_TCP"]);
    layers.environment.push(variable("CASCADE_RPC_MAX_BACH"));
    let error = layers.resolve().unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    let text = error.to_string();
    assert!(text.contains("CASCADE_RPC_MAX_BACH") && text.contains("CASCADE_RPC_MAX_BATCH is meant"), "{text}");
}

#[test]
fn the_home_is_in_the_users_home_or_must_be_given() {
    let layers = Layers { home: Some(PathBuf::from("/home/ada")), ..Layers::default() };
    assert_eq!(layers.resolve().unwrap().config.data, PathBuf::from("/home/ada/.cascade"));
    let text = Layers::default().resolve().unwrap_err().to_string();
    assert!(text.contains("HOME") && text.contains("--data"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    assert!(at(dir.path()).resolve().is_ok(), "who gives --data needs no HOME");
}

#[test]
fn a_broken_relation_names_the_key_and_its_origin() {
    for (toml, key) in [
        ("[network]\nmax_peers = 10\ntarget_peers = 11\n", "network.target_peers"),
        ("[network]\nexternal = \"1.2.3.4:0\"\n", "network.external"),
        ("[rpc]\nmax_request_bytes = 1000\n", "rpc.max_request_bytes"),
        ("[rpc]\nmax_batch = 0\n", "rpc.max_batch"),
        ("[rpc]\ncors_origins = [\"wallet.example\"]\n", "rpc.cors_origins"),
        ("[metrics]\nlisten = \"127.0.0.1:8545\"\n", "metrics.listen"),
        ("[keys]\nsign_state = \"chain/sign-state\"\n", "keys.sign_state"),
    ] {
        let (_dir, layers) = home(toml);
        let text = layers.resolve().unwrap_err().to_string();
        assert!(text.starts_with(key) && text.contains(CONFIG_FILE), "{toml}: {text}");
    }
}

#[test]
fn paths_in_a_file_start_at_the_home_and_typed_ones_where_they_are_typed() {
    let (dir, mut layers) = home("genesis = \"chain.json\"\n[keys]\nnode = \"/secret/node.key\"\n");
    layers.flags.push(flag("--bls-key", "keys.bls", "here.key"));
    let config = layers.resolve().unwrap().config;
    assert_eq!(config.genesis, dir.path().join("chain.json"));
    assert_eq!(config.keys.node, PathBuf::from("/secret/node.key"));
    assert_eq!(config.keys.bls, std::env::current_dir().unwrap().join("here.key"));
    assert_eq!(config.keys.sign_state, dir.path().join("keys/bls.sign-state"));
    assert_eq!(config.chain_dir(), dir.path().join("chain"));
}

#[test]
fn a_named_file_must_exist_and_may_say_where_the_home_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let layers = Layers { file: Some(file.clone()), ..Layers::default() };
    assert!(matches!(layers.resolve(), Err(ConfigError::Read { .. })));
    std::fs::write(&file, "data = \"home\"\n").unwrap();
    let resolved = layers.resolve().unwrap();
    assert_eq!(resolved.config.data, dir.path().join("home"));
    assert_eq!(origin(&resolved, "data"), Origin::File(file));
}

#[test]
fn lists_come_from_commas_or_toml() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["a:1, b:2", "[\"a:1\", \"b:2\"]"] {
        let mut layers = at(dir.path());
        layers.flags.push(flag("--bootstrap", "network.bootstrap", text));
        assert_eq!(layers.resolve().unwrap().config.network.bootstrap, ["a:1", "b:2"]);
    }
}

#[test]
fn the_document_lists_every_key() {
    docs::assert_document("docs/configuration.md", &docs::render());
}

#[test]
fn a_key_file_is_private_whole_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys/node.key");
    assert_eq!(keys::read_secret(&path).unwrap_err().exit_code(), ExitCode::KeyMissing);
    keys::write_secret(&path, &[7; 32]).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(*keys::read_secret(&path).unwrap(), [7; 32]);
    assert!(matches!(keys::write_secret(&path, &[8; 32]), Err(KeyError::Exists { .. })));

    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let error = keys::read_secret(&path).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Permission);
    assert!(error.to_string().contains("chmod 600"), "{error}");

    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, "0x0707").unwrap();
    let error = keys::read_secret(&path).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Corrupt);
    assert!(!error.to_string().contains("0707"), "an error never shows what a key file holds");
}

#[test]
fn a_full_node_needs_no_voting_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = at(dir.path());
    keys::write_secret(&dir.path().join("keys/node.key"), &[7; 32]).unwrap();
    assert!(NodeKeys::load(&layers.resolve().unwrap().config).unwrap().bls.is_none());
    layers.flags.push(flag("--role", "role", "sequencer"));
    assert!(matches!(NodeKeys::load(&layers.resolve().unwrap().config), Err(KeyError::Missing { .. })));
}
