//! `cascade keys`.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use alloy_primitives::Address;
use cascade_crypto::{BlsSecretKey, VoteSigner as _};
use cascade_network::Identity;
use cascade_storage::SignState;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Failure, NodeFlags, output};
use crate::{
    config::{
        KeyPaths, Role,
        keys::{parse_secret, read_bls, read_secret, write_secret},
    },
    home::{NewKeys, write_voting_key},
};

/// Generates, shows, imports and proves keys.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade keys generate --data node\n  cascade keys show --data node --json\n  \
                        cascade keys proof --data node --fees-to 0x90F79bf6EB2c4f870365E785982E1f101E93b906 --stake 100")]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Makes a network key, a voting key and its sign-state. Never overwrites a key.
    #[command(after_help = "Example:\n  cascade keys generate --data node")]
    Generate(Common),
    /// Prints the public part of the keys.
    #[command(after_help = "Example:\n  cascade keys show --data node --json")]
    Show(Common),
    /// Prints this node's entry for a genesis file, with the proof that it holds its voting key.
    #[command(after_help = "Example:\n  cascade keys proof --data node --stake 100 --hat 90 > b.json")]
    Proof(ProofArgs),
    /// Takes over a key from 32 bytes of hex. Never overwrites a key.
    #[command(after_help = "Examples:\n  cascade keys import node --from old-node.key --data node\n  \
                            cascade keys import bls --from - --never-signed --data node < bls.key")]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    flags: NodeFlags,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ProofArgs {
    #[command(flatten)]
    flags: NodeFlags,
    /// Address that the node's fees go to.
    #[arg(long, value_name = "ADDRESS", default_value_t = Address::ZERO)]
    fees_to: Address,
    /// Stake in whole CAS.
    #[arg(long, value_name = "CAS")]
    stake: u64,
    /// HAT score, 0-100.
    #[arg(long, value_name = "SCORE", default_value_t = 100)]
    hat: u8,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// Which key.
    kind: KeyKind,
    /// The file to read, or - for stdin.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// For a voting key: it has never signed anything, anywhere, so that a blank sign-state is true. A key that has
    /// signed needs its sign-state file instead.
    #[arg(long)]
    never_signed: bool,
    #[command(flatten)]
    flags: NodeFlags,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyKind {
    /// The network key.
    Node,
    /// The voting key.
    Bls,
}

#[derive(Serialize)]
struct Public {
    node_id: String,
    bls_key: Option<String>,
    sign_state: PathBuf,
    sign_state_exists: bool,
}

/// Runs the command.
pub fn run(args: KeysArgs) -> Result<(), Failure> {
    match args.command {
        KeysCommand::Generate(common) => {
            let paths = common.flags.resolve()?.config.keys;
            generate(&paths)?;
            show(&paths, common.json)
        }
        KeysCommand::Show(common) => show(&common.flags.resolve()?.config.keys, common.json),
        KeysCommand::Proof(args) => prove(&args),
        KeysCommand::Import(args) => import(&args),
    }
}

fn generate(paths: &KeyPaths) -> Result<(), Failure> {
    let keys = NewKeys::generate(Role::Sequencer)?;
    let bls = keys.bls.as_ref().expect("a sequencer's keys have one for votes");
    if let Some(path) = [&paths.node, &paths.bls, &paths.sign_state].into_iter().find(|path| path.exists()) {
        return Err(Failure::new(format!("{} exists and is never overwritten; move it away first", path.display())));
    }
    write_secret(&paths.node, &keys.identity.seed())?;
    write_voting_key(paths, bls)
}

fn show(paths: &KeyPaths, json: bool) -> Result<(), Failure> {
    let bls = if paths.bls.exists() { Some(read_bls(&paths.bls)?) } else { None };
    let public = Public {
        node_id: identity(&paths.node)?.node_id().to_string(),
        bls_key: bls.map(|key| key.public_key().to_string()),
        sign_state: paths.sign_state.clone(),
        sign_state_exists: paths.sign_state.exists(),
    };
    if json {
        return output::json(&public);
    }
    let state = if public.sign_state_exists { "there" } else { "MISSING" };
    output::line(&format!("node        {}", public.node_id))?;
    output::line(&format!("bls         {}", public.bls_key.as_deref().unwrap_or("(none)")))?;
    output::line(&format!("sign-state  {} ({state})", public.sign_state.display()))
}

fn prove(args: &ProofArgs) -> Result<(), Failure> {
    let paths = args.flags.resolve()?.config.keys;
    let keys = NewKeys { identity: identity(&paths.node)?, bls: Some(read_bls(&paths.bls)?) };
    output::json(&keys.spec(args.fees_to, args.stake, args.hat)?)
}

fn import(args: &ImportArgs) -> Result<(), Failure> {
    let paths = args.flags.resolve()?.config.keys;
    let secret = secret_of(&args.from)?;
    let public = match args.kind {
        KeyKind::Node => {
            write_secret(&paths.node, &secret)?;
            Identity::from_seed(&secret).node_id().to_string()
        }
        KeyKind::Bls => {
            let key = BlsSecretKey::from_bytes(&secret).map_err(Failure::new)?;
            if args.never_signed {
                write_voting_key(&paths, &key)?;
            } else if paths.sign_state.exists() {
                SignState::open(&paths.sign_state, key.public_key())?;
                write_secret(&paths.bls, &secret)?;
            } else {
                return Err(Failure::usage(format!(
                    "{} is missing: put the key's newest sign-state there first; only for a key that has never signed \
                     anything, give --never-signed",
                    paths.sign_state.display()
                )));
            }
            key.public_key().to_string()
        }
    };
    if args.json { output::json(&serde_json::json!({ "public": public })) } else { output::line(&public) }
}

fn identity(path: &Path) -> Result<Identity, Failure> {
    Ok(Identity::from_seed(&*read_secret(path)?))
}

fn secret_of(from: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    if from != Path::new("-") {
        return Ok(read_secret(from)?);
    }
    let mut text = Zeroizing::new(String::new());
    std::io::stdin().take(256).read_to_string(&mut text).map_err(|error| Failure::io("stdin", &error))?;
    parse_secret(&text).ok_or_else(|| Failure::usage("stdin: expected 32 bytes of hex (64 digits)"))
}
