//! What people and programs write: requests, genesis files, configurations, key files.

use std::{fs, os::unix::fs::OpenOptionsExt as _, path::Path};

use cascade_crypto::VoteSigner as _;
use cascade_primitives::{Epoch, Genesis};

use crate::{config, logging, rpc, source::Source, storage::with_directory};

/// Target `text`.
///
/// # Panics
/// If a rule is broken.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    match choice % 6 {
        0 => {
            let Some((&most, bytes)) = bytes.split_first() else { return };
            if let Ok(text) = std::str::from_utf8(bytes) {
                rpc::check_params(text, usize::from(most % 5));
            }
        }
        1 => check_genesis(bytes),
        2 => with_directory(|dir| check_config_file(dir, bytes)),
        3 => check_flags(bytes),
        4 => with_directory(|dir| check_key_file(dir, bytes)),
        _ => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                drop(logging::parse_filter(text));
            }
        }
    }
}

fn check_genesis(bytes: &[u8]) {
    let Ok(genesis) = serde_json::from_slice::<Genesis>(bytes) else { return };
    let written = serde_json::to_vec(&genesis).expect("a genesis is JSON");
    let read: Genesis = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(read, genesis);
    assert_eq!(read.hash(), genesis.hash());
    if let Err(error) = genesis.check() {
        assert!(!error.to_string().is_empty());
        return;
    }
    for epoch in [0, 1, u64::MAX] {
        assert!(!genesis.sequencers(Epoch(epoch)).is_empty());
    }
    let root = alloy_primitives::B256::ZERO;
    assert!(genesis.block(root, root, root).check_form(&genesis.params).is_ok(), "the genesis block has its form");
    // Proofs of possession are pairings; few are enough.
    if genesis.committees.iter().map(|c| c.sequencers.len()).sum::<usize>() <= 8 {
        drop(config::check_genesis(&genesis, Path::new("genesis.json")));
    }
}

fn check_config_file(dir: &Path, bytes: &[u8]) {
    let file = dir.join("cascade.toml");
    fs::write(&file, bytes).expect("a temporary file");
    let layers = config::Layers { file: Some(file), ..config::Layers::default() };
    check_resolved(layers.resolve());
}

fn check_flags(bytes: &[u8]) {
    let mut source = Source::new(bytes);
    let mut layers = config::Layers::default();
    for _ in 0..1 + source.below(3) {
        let key = &config::KEYS[source.below(config::KEYS.len())];
        let text = String::from_utf8_lossy(&source.bytes(64)).into_owned();
        if source.coin() {
            layers.environment.push((key.variable(), text));
        } else {
            layers.flags.push(("--set".to_owned(), key.name.to_owned(), text));
        }
    }
    // The layer of the file stays empty, whatever stands in the caller's home.
    if !layers.flags.iter().any(|(_, key, _)| key == "data") {
        layers.flags.push(("--data".to_owned(), "data".to_owned(), "/nonexistent".to_owned()));
    }
    check_resolved(layers.resolve());
}

fn check_resolved(result: Result<config::Resolved, config::ConfigError>) {
    match result {
        Ok(resolved) => {
            assert!(resolved.config.check().is_ok());
            assert!(resolved.values.iter().all(|(key, ..)| config::Key::find(key.name).is_some()));
            assert!(!resolved.config.chain_dir().as_os_str().is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check_key_file(dir: &Path, bytes: &[u8]) {
    let path = dir.join("key");
    let _ = fs::remove_file(&path);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).expect("a temporary file");
    std::io::Write::write_all(&mut file, bytes).expect("a temporary file");
    match config::keys::read_secret(&path) {
        Ok(secret) => {
            let text = std::str::from_utf8(bytes).expect("a key file is text").trim().to_ascii_lowercase();
            let digits = text.strip_prefix("0x").unwrap_or(&text);
            assert_eq!(hex::encode(secret.as_slice()), digits, "the key is what the file says");
            if let Ok(key) = config::keys::read_bls(&path) {
                assert_eq!(key.public_key(), config::keys::read_bls(&path).expect("it was read before").public_key());
            }
        }
        Err(error) => {
            // A damaged key file may still hold most of a key: no error repeats it.
            let said = error.to_string().to_ascii_lowercase();
            if let Ok(text) = std::str::from_utf8(bytes)
                && text.len() >= 16
                && !path.display().to_string().contains(text.trim())
            {
                assert!(text.trim().is_empty() || !said.contains(&text.trim().to_ascii_lowercase()), "{error}");
            }
        }
    }
}
