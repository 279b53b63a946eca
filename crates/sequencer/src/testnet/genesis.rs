//! The genesis of a local cluster, and the schedule of its committees.
//!
//! ```toml
//! [params]                 # any constant of the genesis, beside those of regtest
//! epoch_length = 30
//!
//! [[committee]]
//! from_epoch = 0
//! members = [{ node = 0 }, { node = 1 }, { node = 2 }, { node = 3 }]
//!
//! [[committee]]            # node 0 leaves, node 4 joins, node 1 weighs more
//! from_epoch = 1
//! members = [{ node = 1, stake = 40 }, { node = 2 }, { node = 3 }, { node = 4 }]
//! ```

use std::{collections::BTreeMap, path::Path};

use alloy_primitives::{Address, U256};
use cascade_primitives::{
    ChainParams, Epoch, Genesis, GenesisAccount, Network, ScheduledCommittee, TimestampMs, TransactionRule,
};
use serde::Deserialize;

use super::accounts;
use crate::{
    cli::Failure,
    home::{NewKeys, unix_ms},
    wallet::Wallet,
};

/// Wei of 10,000 CAS, which every funded account of a regtest chain starts with.
pub(crate) fn account_balance() -> U256 {
    U256::from(10_000) * U256::from(10).pow(U256::from(18))
}

/// Which nodes vote in which epochs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Constants that differ from regtest's.
    #[serde(default)]
    pub params: toml::Table,
    /// Committees; none means that all nodes vote with equal weight.
    #[serde(default)]
    pub committee: Vec<Committee>,
}

/// The sequencers from an epoch on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Committee {
    /// The first epoch that they vote in.
    pub from_epoch: u64,
    /// Who they are.
    pub members: Vec<Member>,
}

/// A sequencer of a committee.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its number in the cluster, from 0.
    pub node: usize,
    /// Its stake in CAS; by default the least.
    pub stake: Option<u64>,
    /// Its HAT score; by default 100.
    pub hat: Option<u8>,
}

impl Schedule {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.params.is_empty() && self.committee.is_empty()
    }

    /// Reads a schedule file.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::io(path.display(), &error))?;
        toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }

    fn params(&self, rule: TransactionRule) -> Result<ChainParams, Failure> {
        let regtest = ChainParams {
            transactions: rule,
            data_squares: rule != TransactionRule::Opaque,
            ..ChainParams::of(Network::Regtest)
        };
        let mut table = toml::Table::try_from(&regtest).expect("constants have a TOML form");
        table.extend(self.params.clone());
        let params: ChainParams =
            table.try_into().map_err(|error| Failure::usage(format!("schedule: [params]: {error}")))?;
        if params.network != Network::Regtest {
            return Err(Failure::usage("schedule: [params]: network must be regtest: its keys are public"));
        }
        Ok(params)
    }
}

/// The genesis of nodes with these keys.
///
/// # Errors
/// If the schedule names a node that is not there, or breaks a rule of genesis files.
pub fn build(
    keys: &[NewKeys],
    rule: TransactionRule,
    schedule: &Schedule,
    load_accounts: u64,
) -> Result<Genesis, Failure> {
    let params = schedule.params(rule)?;
    let all = Committee {
        from_epoch: 0,
        members: (0..keys.len()).map(|node| Member { node, stake: None, hat: None }).collect(),
    };
    let committees: Vec<&Committee> =
        if schedule.committee.is_empty() { vec![&all] } else { schedule.committee.iter().collect() };
    let committees = committees
        .into_iter()
        .map(|committee| {
            let spec = |member: &Member| {
                let keys = keys.get(member.node).ok_or_else(|| {
                    Failure::usage(format!(
                        "schedule: there is no node {}; nodes are 0 to {}",
                        member.node,
                        keys.len() - 1
                    ))
                })?;
                keys.spec(fee_account(member.node), member.stake.unwrap_or(params.min_stake), member.hat.unwrap_or(100))
            };
            let sequencers = committee.members.iter().map(spec).collect::<Result<_, _>>()?;
            Ok(ScheduledCommittee { from_epoch: Epoch(committee.from_epoch), sequencers })
        })
        .collect::<Result<_, Failure>>()?;
    let encrypted = params.transactions == TransactionRule::Encrypted;
    let fees = if encrypted { account_balance() } else { U256::ZERO };
    let account = GenesisAccount { balance: account_balance(), fees, ..GenesisAccount::default() };
    let funded = accounts::dev_accounts().iter().map(Wallet::address);
    let funded = funded.chain([accounts::probe_account().address()]);
    let funded = funded.chain(encrypted.then(|| accounts::proxy_account().address()));
    let funded = funded.chain(accounts::load_accounts(load_accounts).map(|wallet| wallet.address()));
    let alloc: BTreeMap<Address, GenesisAccount> = funded.map(|address| (address, account.clone())).collect();
    let genesis = Genesis { params, timestamp: TimestampMs(unix_ms()), committees, alloc };
    genesis.check().map_err(|error| Failure::usage(format!("the genesis of this cluster: {error}")))?;
    Ok(genesis)
}

/// The address that a node's fees go to: not one of the funded accounts, whose balances tests look at.
fn fee_account(node: usize) -> Address {
    Wallet::public("fees", node as u64).address()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    fn keys(n: usize) -> Vec<NewKeys> {
        (0..n).map(|_| NewKeys::generate(Role::Sequencer).unwrap()).collect()
    }

    #[test]
    fn without_a_schedule_all_nodes_vote_alike() {
        let genesis = build(&keys(4), TransactionRule::Plain, &Schedule::default(), 3).unwrap();
        let committee = &genesis.committees[0].sequencers;
        assert_eq!(committee.len(), 4);
        assert!(committee.iter().all(|s| (s.stake, s.hat) == (10, 100)));
        assert_eq!(genesis.alloc.len(), 20 + 1 + 3);
    }

    #[test]
    fn a_schedule_changes_committees_and_constants() {
        let schedule: Schedule = toml::from_str(
            "[params]\nepoch_length = 30\n[[committee]]\nfrom_epoch = 0\nmembers = [{ node = 0 }, { node = 1 }]\n\
             [[committee]]\nfrom_epoch = 2\nmembers = [{ node = 1, stake = 40 }, { node = 2, hat = 60 }]\n",
        )
        .unwrap();
        let keys = keys(3);
        let genesis = build(&keys, TransactionRule::Opaque, &schedule, 0).unwrap();
        assert_eq!((genesis.params.epoch_length, genesis.params.transactions), (30, TransactionRule::Opaque));
        let second = genesis.sequencers(Epoch(2));
        assert_eq!(second[0].node, keys[1].identity.node_id());
        assert_eq!((second[0].stake, second[1].hat), (40, 60));
        assert!(build(&keys[..2], TransactionRule::Plain, &schedule, 0).unwrap_err().message.contains("no node 2"));
    }

    #[test]
    fn a_schedule_cannot_leave_regtest() {
        let schedule: Schedule = toml::from_str("[params]\nnetwork = \"mainnet\"\n").unwrap();
        assert!(build(&keys(4), TransactionRule::Plain, &schedule, 0).is_err());
    }
}
