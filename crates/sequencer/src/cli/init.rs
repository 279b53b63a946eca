//! `cascade init`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use alloy_primitives::Address;
use cascade_crypto::VoteSigner as _;
use cascade_primitives::{
    ChainParams, Epoch, Genesis, GenesisAccount, Network, ScheduledCommittee, SequencerSpec, TimestampMs,
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Failure, NodeFlags, output, units::parse_address};
use crate::{
    config::{KEYS, NodeConfig, Role, check_genesis, keys::read_bls, load_genesis},
    exit::ExitCode,
    home::{self, Home, HomeKeys},
    testnet::{accounts, genesis::account_balance},
};

/// Creates a node's home: keys, configuration and genesis.
///
/// With --genesis it joins an existing chain: as a sequencer if its voting key is there already and in the genesis file,
/// else without voting. Without --genesis, it makes a genesis from the template of a network, with this node as a
/// sequencer and the others that are given with --sequencer. Keys that `cascade keys generate` made are taken over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade init --data node --network regtest\n  \
                        cascade init --data sixth --genesis genesis.json --bootstrap 10.0.0.1:30330\n  \
                        cascade init --data first --network testnet --sequencer b.json --sequencer c.json --alloc a.json\n\n\
                        Flags of the configuration section are written into DIR/cascade.toml.")]
pub struct InitArgs {
    /// The network whose template a new genesis starts from [default: regtest]. testnet and mainnet need at least 3
    /// sequencers; regtest is for chains whose money is worth nothing.
    #[arg(long, value_enum)]
    network: Option<NetworkName>,
    /// A file with the entry of another sequencer, as `cascade keys proof` prints it. Once for each.
    #[arg(long, value_name = "FILE")]
    sequencer: Vec<PathBuf>,
    /// A file with accounts of a new genesis: {"0xADDRESS": {"balance": "0x..."}}. On regtest the accounts of the public
    /// development mnemonic are added.
    #[arg(long, value_name = "FILE")]
    alloc: Option<PathBuf>,
    /// Stake of this node in a new genesis, in whole CAS. By default the least that the network demands.
    #[arg(long, value_name = "CAS")]
    stake: Option<u64>,
    /// HAT score of this node in a new genesis, 0-100.
    #[arg(long, value_name = "SCORE", default_value_t = 100)]
    hat: u8,
    /// Address that this node's fees go to in a new genesis.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    fees_to: Option<Address>,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: NodeFlags,
}

/// A network's name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkName {
    /// The public chain.
    Mainnet,
    /// The public test chain.
    Testnet,
    /// A chain on one machine.
    Regtest,
}

impl From<NetworkName> for Network {
    fn from(name: NetworkName) -> Self {
        match name {
            NetworkName::Mainnet => Self::Mainnet,
            NetworkName::Testnet => Self::Testnet,
            NetworkName::Regtest => Self::Regtest,
        }
    }
}

#[derive(Serialize)]
struct Summary {
    home: PathBuf,
    node_id: String,
    role: Role,
    network: Network,
    chain_id: u64,
    genesis_hash: String,
    /// The key files that were there already.
    keys_found: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: InitArgs) -> Result<(), Failure> {
    let mut config = args.flags.resolve()?.config;
    let joins = given(&args, "genesis");
    if joins && (args.network.is_some() || !args.sequencer.is_empty() || args.alloc.is_some()) {
        return Err(Failure::usage(
            "--genesis joins an existing chain; --network, --sequencer and --alloc make a new one",
        ));
    }
    let home = Home::new(&config.data);
    home.refuse_existing(joins.then_some(config.genesis.as_path()))?;
    // A genesis that cannot be used leaves nothing behind.
    let joined = joins.then(|| load_genesis(&config.genesis)).transpose()?;
    let others = args.sequencer.iter().map(|file| read_json(file)).collect::<Result<Vec<SequencerSpec>, _>>()?;
    if !given(&args, "role") {
        config.role = match &joined {
            Some(genesis) if !has_seat(genesis, &config)? => Role::Full,
            _ => Role::Sequencer,
        };
    }
    let found = HomeKeys::find_or_generate(&config.keys, config.role)?;
    let genesis = match joined {
        Some(genesis) => genesis,
        None => new_genesis(&args, &config, &found, others)?,
    };
    check_genesis(&genesis, &home.genesis())?;
    found.write(&config.keys)?;
    if config.genesis != home.genesis() || !joins {
        home.write_genesis(&genesis)?;
    }
    home.write_config(&settings(&args, &config, &genesis))?;
    report(&args, &config, &genesis, &found)
}

/// Whether a voting key that is there already is in a committee of the chain.
fn has_seat(genesis: &Genesis, config: &NodeConfig) -> Result<bool, Failure> {
    if !config.keys.bls.exists() {
        return Ok(false);
    }
    let key = read_bls(&config.keys.bls)?.public_key();
    Ok(genesis.committees.iter().flat_map(|committee| &committee.sequencers).any(|member| member.bls_key == key))
}

fn new_genesis(
    args: &InitArgs,
    config: &NodeConfig,
    found: &HomeKeys,
    others: Vec<SequencerSpec>,
) -> Result<Genesis, Failure> {
    if found.has_signed {
        return Err(Failure {
            code: ExitCode::SignState,
            message: format!(
                "{}: this key has signed already, and every chain needs its own voting key; give --genesis to join the \
                 chain that it signed on, or another --data",
                config.keys.bls.display()
            ),
        });
    }
    let name = args.network.unwrap_or(NetworkName::Regtest);
    let network = Network::from(name);
    let params = ChainParams::of(network);
    let mut alloc: BTreeMap<Address, GenesisAccount> = match &args.alloc {
        Some(file) => read_json(file)?,
        None => BTreeMap::new(),
    };
    if network == Network::Regtest {
        let account = GenesisAccount { balance: account_balance(), ..GenesisAccount::default() };
        alloc.extend(accounts::dev_accounts().iter().map(|wallet| (wallet.address(), account.clone())));
    }
    let mut sequencers = others;
    if config.role == Role::Sequencer {
        let stake = args.stake.unwrap_or(params.min_stake);
        sequencers.insert(0, found.keys.spec(args.fees_to.unwrap_or_default(), stake, args.hat)?);
    }
    if sequencers.len() < params.min_sequencers as usize {
        let name = name.to_possible_value().expect("no network is hidden");
        return Err(Failure::usage(format!(
            "--network {}: its genesis needs at least {} sequencers, and this one has {}; give a --sequencer FILE for each \
             of the others, which its operator makes with `cascade keys generate` and `cascade keys proof`, or take \
             --network regtest, where one is enough",
            name.get_name(),
            params.min_sequencers,
            sequencers.len()
        )));
    }
    let committees = vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers }];
    Ok(Genesis { params, timestamp: TimestampMs(home::unix_ms()), committees, alloc })
}

/// What goes into the configuration file: the role, what was given as flags, and on regtest that other nodes of this
/// machine may be dialled.
fn settings(args: &InitArgs, config: &NodeConfig, genesis: &Genesis) -> toml::Table {
    let whole = toml::Table::try_from(config).expect("a configuration has a TOML form");
    let mut names: Vec<&str> = vec!["role"];
    if genesis.params.network == Network::Regtest {
        names.push("network.allow_private");
    }
    names.extend(args.flags.values().iter().map(|(_, key, _)| key.as_str()));
    let mut settings = toml::Table::new();
    for key in KEYS.iter().filter(|key| names.contains(&key.name) && !["data", "genesis"].contains(&key.name)) {
        match key.name.split_once('.') {
            None => {
                settings.insert(key.name.to_owned(), whole[key.name].clone());
            }
            Some((section, name)) => {
                let value = if key.name == "network.allow_private" && !given(args, key.name) {
                    toml::Value::Boolean(true)
                } else {
                    whole[section][name].clone()
                };
                let table = settings.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                table.as_table_mut().expect("a section is a table").insert(name.to_owned(), value);
            }
        }
    }
    settings
}

fn given(args: &InitArgs, name: &str) -> bool {
    args.flags.values().iter().any(|(_, key, _)| key == name)
}

fn report(args: &InitArgs, config: &NodeConfig, genesis: &Genesis, found: &HomeKeys) -> Result<(), Failure> {
    let files = [(found.node_found, &config.keys.node), (found.bls_found, &config.keys.bls)];
    let summary = Summary {
        home: config.data.clone(),
        node_id: found.keys.identity.node_id().to_string(),
        role: config.role,
        network: genesis.params.network,
        chain_id: genesis.params.chain_id.0,
        genesis_hash: genesis.hash().to_string(),
        keys_found: files.iter().filter(|(found, _)| *found).map(|(_, path)| (*path).clone()).collect(),
    };
    if args.json {
        return output::json(&summary);
    }
    let role = if config.role == Role::Sequencer { "sequencer" } else { "full node" };
    output::line(&format!("home     {}", summary.home.display()))?;
    output::line(&format!("node     {} ({role})", summary.node_id))?;
    output::line(&format!("chain    {} (genesis {})", summary.chain_id, summary.genesis_hash))?;
    for path in &summary.keys_found {
        output::line(&format!("key      {}, which was there", path.display()))?;
    }
    let alone = genesis.committees.iter().all(|committee| committee.sequencers.len() == 1);
    if config.network.bootstrap.is_empty() && !(alone && config.role == Role::Sequencer) {
        output::note("no --bootstrap was given: the node will wait until another one dials it");
    }
    output::note(&format!("next: cascade node --data {}", summary.home.display()));
    Ok(())
}

/// Reads a JSON file of at most 64 MiB.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    const LIMIT: u64 = 64 << 20;
    let failed = |error: &std::io::Error| Failure::io(path.display(), error);
    if std::fs::metadata(path).map_err(|error| failed(&error))?.len() > LIMIT {
        return Err(Failure::usage(format!("{}: longer than 64 MiB", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
