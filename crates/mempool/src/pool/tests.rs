use std::collections::BTreeMap;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Signature, TxKind};
use cascade_primitives::{ChainId, Network};
use proptest::prelude::*;

use super::*;
use crate::gas::MAX_INITCODE_BYTES;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
const BASE_FEE: u64 = 100;
const ALL: SelectLimits = SelectLimits { bytes: 8 << 20, gas: 300_000_000, count: 10_000 };

#[derive(Clone, Debug)]
struct Spec {
    sender: u8,
    nonce: u64,
    fee: u128,
    tip: u128,
    gas: u64,
    value: u64,
    input: Vec<u8>,
    create: bool,
}

fn tx(sender: u8, nonce: u64) -> Spec {
    Spec { sender, nonce, fee: 1000, tip: 10, gas: 21_000, value: 0, input: Vec::new(), create: false }
}

impl Spec {
    fn pays(self, fee: u128, tip: u128) -> Self {
        Self { fee, tip, ..self }
    }

    fn gas(self, gas: u64) -> Self {
        Self { gas, ..self }
    }

    fn build(&self) -> RecoveredTransaction {
        let to = if self.create { TxKind::Create } else { TxKind::Call(Address::repeat_byte(0xee)) };
        let unsigned = TxEip1559 {
            chain_id: 20252,
            nonce: self.nonce,
            gas_limit: self.gas,
            max_fee_per_gas: self.fee,
            max_priority_fee_per_gas: self.tip,
            to,
            value: U256::from(self.value),
            access_list: Default::default(),
            input: self.input.clone().into(),
        };
        // The signer is given, so the signature only has to tell the senders' transactions apart.
        let signature = Signature::new(U256::from(self.sender) + U256::from(1), U256::from(1), false);
        let envelope: TxEnvelope = unsigned.into_signed(signature).into();
        let raw = envelope.encoded_2718();
        let decoded = Transaction::decode(raw.into(), ChainId(20252), 1 << 20).unwrap();
        RecoveredTransaction::new(decoded, address(self.sender))
    }
}

fn address(sender: u8) -> Address {
    Address::repeat_byte(sender)
}

/// Accounts of a branch; an address that is not listed is rich and new.
#[derive(Clone, Debug, Default)]
struct Accounts(BTreeMap<Address, AccountState>);

const RICH: AccountState = AccountState {
    nonce: 0,
    balance: U256::from_limbs([u64::MAX, 0, 0, 0]),
    in_flight: 0,
    in_flight_cost: U256::ZERO,
    is_contract: false,
};

impl AccountReader for Accounts {
    fn account(&self, address: &Address) -> AccountState {
        self.0.get(address).copied().unwrap_or(RICH)
    }
}

impl Accounts {
    fn with(sender: u8, account: AccountState) -> Self {
        Self(BTreeMap::from([(address(sender), account)]))
    }
}

fn pool() -> Pool {
    Pool::new(PoolLimits::of(&ChainParams::of(Network::Regtest)))
}

fn admit(pool: &mut Pool, spec: &Spec) -> Result<Admission, AdmissionError> {
    pool.admit(NOW, spec.build(), Source::Local, &Accounts::default())
}

fn take(pool: &mut Pool, specs: &[Spec]) -> Vec<B256> {
    for spec in specs {
        admit(pool, spec).unwrap();
    }
    specs.iter().map(|spec| spec.build().hash()).collect()
}

fn selected(pool: &Pool, limits: SelectLimits, view: &Accounts) -> Vec<(u8, u64)> {
    pool.select(limits, BASE_FEE, view).iter().map(|tx| (tx.sender()[0], tx.nonce())).collect()
}

fn message(result: Result<Admission, AdmissionError>) -> String {
    result.unwrap_err().to_string()
}

/// Checks every relation between the pool's parts.
fn check_parts(pool: &Pool) {
    let entries: Vec<_> = pool.senders.iter().flat_map(|(s, q)| q.txs.iter().map(move |(n, e)| (*s, *n, e))).collect();
    assert_eq!(entries.len(), pool.by_hash.len());
    assert_eq!(entries.len(), pool.by_age.len());
    assert_eq!(entries.iter().map(|(_, _, e)| e.tx.raw().len()).sum::<usize>(), pool.bytes);
    for (sender, nonce, entry) in entries {
        assert_eq!((entry.tx.sender(), entry.tx.nonce()), (sender, nonce));
        assert_eq!(pool.by_hash[&entry.tx.hash()], (sender, nonce));
        assert!(pool.by_age.contains(&(entry.added, entry.sequence, entry.tx.hash())));
    }
    assert!(pool.senders.values().all(|queue| !queue.txs.is_empty()));
    assert!(pool.len() <= pool.limits.count && pool.bytes <= pool.limits.bytes);
}

#[test]
fn the_errors_are_those_that_geth_users_know() {
    let mut pool = pool();
    let account = AccountState { nonce: 5, balance: U256::from(50_000_000), in_flight: 2, ..AccountState::default() };
    let accounts = Accounts::with(1, account);
    let mut refused = |spec: Spec| message(pool.admit(NOW, spec.build(), Source::Peer, &accounts));
    assert_eq!(refused(tx(1, 6)), "nonce too low: next nonce 7, tx nonce 6");
    assert_eq!(refused(tx(1, 7 + 400)), "nonce too high: next nonce 7, tx nonce 407, allowed below 407");
    assert_eq!(refused(tx(1, u64::MAX)), "nonce has max value");
    assert_eq!(refused(tx(1, 7).gas(20_999)), "intrinsic gas too low: gas 20999, minimum needed 21000");
    assert_eq!(refused(tx(1, 7).gas(300_000_001)), "exceeds block gas limit");
    let input = vec![1; 1000];
    assert_eq!(
        refused(Spec { input: input.clone(), ..tx(1, 7) }.gas(36_999)),
        "intrinsic gas too low: gas 36999, minimum needed 37000"
    );
    assert_eq!(
        refused(Spec { input, ..tx(1, 7) }.gas(60_999)),
        "insufficient gas for floor data gas cost: gas 60999, minimum needed 61000"
    );
    assert_eq!(refused(tx(1, 7).pays(0, 0)), "transaction underpriced: gas fee cap 0, minimum needed 1");
    assert_eq!(
        refused(tx(1, 7).pays(5000, 1)),
        "insufficient funds for gas * price + value: balance 50000000, tx cost 105000000, overshot 55000000"
    );
    let long = Spec { create: true, input: vec![0; MAX_INITCODE_BYTES + 1], ..tx(1, 7) }.gas(2_000_000);
    assert_eq!(refused(long), "max initcode size exceeded: code size 49153, limit 49152");
    assert!(pool.senders.is_empty());
    pool.admit(NOW, tx(1, 7).build(), Source::Peer, &accounts).unwrap();
    let mut refused = |spec: Spec| message(pool.admit(NOW, spec.build(), Source::Peer, &accounts));
    assert_eq!(refused(tx(1, 7)), "already known");
    assert_eq!(refused(tx(1, 7).pays(1099, 11)), "replacement transaction underpriced");
    assert_eq!(refused(tx(1, 7).pays(1100, 10)), "replacement transaction underpriced");
    assert_eq!(
        refused(tx(1, 8).pays(2000, 10)),
        "insufficient funds for gas * price + value: balance 50000000, queued cost 21000000, tx cost 42000000, overshot 13000000"
    );
    pool.admit(NOW, tx(1, 8).build(), Source::Peer, &accounts).unwrap();
    check_parts(&pool);
    let contract = Accounts::with(2, AccountState { is_contract: true, ..RICH });
    let error = pool.admit(NOW, tx(2, 0).build(), Source::Peer, &contract).unwrap_err();
    assert!(error.to_string().starts_with("sender not an eoa"), "{error}");
    take(&mut pool, &[tx(2, 0)]);
    assert_eq!(selected(&pool, ALL, &contract), []);
}

#[test]
fn what_is_in_flight_counts_against_the_balance() {
    let mut pool = pool();
    let cost = U256::from(21_000_000);
    let account = AccountState {
        nonce: 0,
        balance: cost * U256::from(3),
        in_flight: 2,
        in_flight_cost: cost * U256::from(2),
        ..AccountState::default()
    };
    let accounts = Accounts::with(1, account);
    pool.admit(NOW, tx(1, 2).build(), Source::Peer, &accounts).unwrap();
    let error = pool.admit(NOW, tx(1, 3).build(), Source::Peer, &accounts).unwrap_err();
    assert!(matches!(error, AdmissionError::InsufficientFundsForAll { .. }), "{error}");
    assert_eq!(selected(&pool, ALL, &accounts), [(1, 2)]);
    // On a branch on which more is in flight, nothing is left for it.
    let poorer = AccountState { in_flight_cost: cost * U256::from(2) + U256::from(1), ..account };
    assert_eq!(selected(&pool, ALL, &Accounts::with(1, poorer)), []);
}

#[test]
fn a_replacement_pays_ten_percent_more_in_both() {
    let mut pool = pool();
    let old = take(&mut pool, &[tx(1, 0)])[0];
    let better = tx(1, 0).pays(1100, 11);
    assert_eq!(admit(&mut pool, &better), Ok(Admission::Replaced { old }));
    assert!(!pool.contains(&old));
    assert_eq!(pool.len(), 1);
    // With a tip of zero, the next one has to offer some.
    take(&mut pool, &[tx(2, 0).pays(1000, 0)]);
    assert_eq!(admit(&mut pool, &tx(2, 0).pays(1100, 0)), Err(AdmissionError::ReplacementUnderpriced));
    assert!(admit(&mut pool, &tx(2, 0).pays(1100, 1)).is_ok());
    check_parts(&pool);
}

#[test]
fn a_replacement_needs_the_money_for_the_difference_only() {
    let mut pool = pool();
    let account = AccountState { balance: U256::from(21_000 * 2200), ..AccountState::default() };
    let accounts = Accounts::with(1, account);
    for spec in [tx(1, 0), tx(1, 1)] {
        pool.admit(NOW, spec.build(), Source::Peer, &accounts).unwrap();
    }
    assert!(pool.admit(NOW, tx(1, 1).pays(1200, 20).build(), Source::Peer, &accounts).is_ok());
    assert!(pool.admit(NOW, tx(1, 0).pays(1100, 20).build(), Source::Peer, &accounts).is_err());
}

#[test]
fn a_gap_waits_until_it_is_filled() {
    let mut pool = pool();
    assert_eq!(admit(&mut pool, &tx(1, 1)), Ok(Admission::New { executable: false }));
    assert_eq!(admit(&mut pool, &tx(1, 2)), Ok(Admission::New { executable: false }));
    assert_eq!(selected(&pool, ALL, &Accounts::default()), []);
    assert_eq!(pool.pending_nonce(&address(1), &RICH), 0);
    assert_eq!(pool.status(), PoolStatus { pending: 0, queued: 2, in_flight: 0 });
    assert_eq!(admit(&mut pool, &tx(1, 0)), Ok(Admission::New { executable: true }));
    assert_eq!(selected(&pool, ALL, &Accounts::default()), [(1, 0), (1, 1), (1, 2)]);
    assert_eq!(pool.pending_nonce(&address(1), &RICH), 3);
    assert_eq!(pool.status(), PoolStatus { pending: 3, queued: 0, in_flight: 0 });
}

#[test]
fn the_highest_tip_goes_first_and_arrival_decides_among_equals() {
    let mut pool = pool();
    take(
        &mut pool,
        &[
            tx(1, 0).pays(1000, 10),
            tx(1, 1).pays(1000, 500),
            tx(2, 0).pays(1000, 20),
            // Its fee cap leaves a tip of 15.
            tx(3, 0).pays(115, 115),
            tx(4, 0).pays(1000, 10),
            // Cannot pay the base fee.
            tx(5, 0).pays(99, 99),
        ],
    );
    assert_eq!(selected(&pool, ALL, &Accounts::default()), [(2, 0), (3, 0), (1, 0), (1, 1), (4, 0)]);
    assert_eq!(pool.len(), 6);
}

#[test]
fn a_selection_keeps_its_limits_and_goes_on_past_what_does_not_fit() {
    let mut pool = pool();
    take(&mut pool, &[tx(1, 0).pays(1000, 90).gas(500_000), tx(1, 1).pays(1000, 90), tx(2, 0), tx(3, 0)]);
    let limits = SelectLimits { gas: 50_000, ..ALL };
    assert_eq!(selected(&pool, limits, &Accounts::default()), [(2, 0), (3, 0)]);
    assert_eq!(selected(&pool, SelectLimits { count: 1, ..ALL }, &Accounts::default()), [(1, 0)]);
    let size = tx(2, 0).build().raw().len();
    assert_eq!(selected(&pool, SelectLimits { bytes: 2 * size + 10, ..ALL }, &Accounts::default()).len(), 2);
}

#[test]
fn what_is_ordered_is_not_selected_again_unless_its_branch_is_abandoned() {
    let mut pool = pool();
    let hashes = take(&mut pool, &[tx(1, 0), tx(1, 1), tx(2, 0)]);
    pool.on_ordered(&hashes[..1]);
    let flown = AccountState { in_flight: 1, in_flight_cost: U256::from(21_000_000), ..RICH };
    let branch = Accounts::with(1, flown);
    assert_eq!(selected(&pool, ALL, &branch), [(1, 1), (2, 0)]);
    pool.on_unordered(&hashes[..1]);
    assert_eq!(selected(&pool, ALL, &Accounts::default()), [(1, 0), (1, 1), (2, 0)]);
    // The branch decides, whatever the pool was told.
    assert_eq!(selected(&pool, ALL, &branch), [(1, 1), (2, 0)]);
}

#[test]
fn what_is_executed_or_not_affordable_any_more_goes() {
    let mut pool = pool();
    take(&mut pool, &[tx(1, 0), tx(1, 1), tx(1, 2).pays(2000, 10), tx(2, 0)]);
    let account = AccountState { nonce: 1, balance: U256::from(21_000 * 1500), ..AccountState::default() };
    assert_eq!(pool.on_executed([(address(1), account), (address(9), account)]), 2);
    assert_eq!(pool.of_sender(&address(1)).map(|tx| tx.nonce()).collect::<Vec<_>>(), [1]);
    check_parts(&pool);
    let account = AccountState { nonce: 9, ..account };
    pool.on_executed([(address(1), account), (address(2), account)]);
    assert!(pool.is_empty());
    check_parts(&pool);
}

#[test]
fn a_sender_has_a_limit_in_the_pool() {
    let limits = PoolLimits { sender_pool_txs: 4, ..PoolLimits::of(&ChainParams::of(Network::Regtest)) };
    let mut pool = Pool::new(limits);
    take(&mut pool, &[tx(1, 0), tx(1, 1), tx(1, 2), tx(1, 3)]);
    let next = AccountState { nonce: 0, in_flight: 1, ..RICH };
    let error = pool.admit(NOW, tx(1, 4).build(), Source::Peer, &Accounts::with(1, next)).unwrap_err();
    assert_eq!(error, AdmissionError::AccountLimit { pooled: 4, limit: 4 });
    assert_eq!(error.to_string(), "account limit exceeded: pooled 4 txs, limit 4");
}

fn small(count: usize) -> Pool {
    Pool::new(PoolLimits { count, ..PoolLimits::of(&ChainParams::of(Network::Regtest)) })
}

#[test]
fn a_full_pool_gives_up_the_cheapest_and_only_for_something_better() {
    let mut pool = small(3);
    take(&mut pool, &[tx(1, 0).pays(1000, 30), tx(2, 0).pays(1000, 20), tx(3, 0).pays(1000, 25)]);
    assert_eq!(message(admit(&mut pool, &tx(4, 0).pays(1000, 20))), "txpool is full");
    assert!(admit(&mut pool, &tx(4, 0).pays(1000, 21)).is_ok());
    assert_eq!(pool.of_sender(&address(2)).count(), 0);
    assert_eq!(pool.len(), 3);
    check_parts(&pool);
}

#[test]
fn a_sender_loses_its_last_nonce_first_and_a_cheap_first_one_makes_the_rest_cheap() {
    let mut pool = small(4);
    take(
        &mut pool,
        &[tx(1, 0).pays(1000, 5), tx(1, 1).pays(1000, 900), tx(2, 0).pays(1000, 20), tx(3, 0).pays(1000, 20)],
    );
    take(&mut pool, &[tx(4, 0).pays(1000, 6)]);
    assert_eq!(pool.of_sender(&address(1)).map(|tx| tx.nonce()).collect::<Vec<_>>(), [0]);
    take(&mut pool, &[tx(5, 0).pays(1000, 7)]);
    assert_eq!(pool.of_sender(&address(1)).count(), 0);
    check_parts(&pool);
}

#[test]
fn a_newcomer_does_not_push_out_what_it_stands_on() {
    let mut pool = small(2);
    take(&mut pool, &[tx(1, 0).pays(1000, 1), tx(2, 0).pays(1000, 50)]);
    assert_eq!(admit(&mut pool, &tx(1, 1).pays(1000, 900)), Err(AdmissionError::Full));
    assert_eq!(pool.of_sender(&address(1)).count(), 1);
    // Replacing needs no room.
    assert!(admit(&mut pool, &tx(1, 0).pays(1100, 2)).is_ok());
    check_parts(&pool);
}

#[test]
fn what_waits_for_a_gap_is_worth_less_than_anything_that_does_not() {
    let mut pool = small(2);
    take(&mut pool, &[tx(1, 5).pays(1000, 900), tx(2, 0).pays(1000, 50)]);
    take(&mut pool, &[tx(3, 0).pays(1000, 1)]);
    assert_eq!(pool.of_sender(&address(1)).count(), 0);
    assert_eq!(admit(&mut pool, &tx(4, 7).pays(1000, 900)), Err(AdmissionError::Full));
}

#[test]
fn a_full_pool_in_bytes_makes_room_or_stays_as_it_was() {
    let size = tx(1, 0).build().raw().len();
    let limits = PoolLimits { bytes: 4 * size + 8, ..PoolLimits::of(&ChainParams::of(Network::Regtest)) };
    let mut pool = Pool::new(limits);
    take(
        &mut pool,
        &[tx(1, 0).pays(1000, 20), tx(2, 0).pays(1000, 20), tx(3, 0).pays(1000, 20), tx(4, 0).pays(1000, 90)],
    );
    let large = |tip| Spec { input: vec![0; 2 * size], ..tx(5, 0) }.pays(1000, tip).gas(100_000);
    assert!(admit(&mut pool, &large(30)).is_ok());
    assert_eq!(pool.len(), 2);
    check_parts(&pool);
    let larger = Spec { input: vec![0; 3 * size], ..tx(6, 0) }.pays(1000, 40).gas(100_000);
    let before: Vec<_> = pool.iter().map(|tx| tx.hash()).collect();
    assert_eq!(admit(&mut pool, &larger), Err(AdmissionError::Full));
    assert_eq!(pool.iter().map(|tx| tx.hash()).collect::<Vec<_>>(), before);
    check_parts(&pool);
}

#[test]
fn time_drops_what_waits_too_long_and_gives_out_again_what_was_not_ordered() {
    let mut pool = pool();
    let hashes = take(&mut pool, &[tx(1, 0), tx(2, 0)]);
    pool.admit(NOW, tx(3, 0).build(), Source::Peer, &Accounts::default()).unwrap();
    let size = tx(1, 0).build().raw().len();
    assert_eq!(pool.take_new_for_gossip(size).len(), 1);
    assert_eq!(pool.take_new_for_gossip(1).len(), 1);
    assert!(pool.take_new_for_gossip(1 << 20).is_empty());
    pool.on_ordered(&hashes[..1]);
    assert_eq!(pool.on_tick(NOW.plus(9_999)), 0);
    assert!(pool.take_new_for_gossip(1 << 20).is_empty());
    pool.on_tick(NOW.plus(10_000));
    let again: Vec<_> = pool.take_new_for_gossip(1 << 20).iter().map(|tx| tx.hash()).collect();
    assert_eq!(again, hashes[1..]);
    assert_eq!(pool.on_tick(NOW.plus(3 * 3_600_000)), 3);
    assert!(pool.is_empty());
    check_parts(&pool);
}

fn specs() -> impl Strategy<Value = Spec> {
    (0_u8..6, 0_u64..12, 50_u128..400, 0_u128..200, 0_usize..3).prop_map(|(sender, nonce, fee, tip, size)| Spec {
        input: vec![0; size * 40],
        ..tx(sender, nonce).pays(fee, tip.min(fee)).gas(30_000)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_refused_beforehand_is_what_would_be_refused(
        specs in prop::collection::vec(specs(), 1..120),
        money in 0_u64..60_000_000,
    ) {
        let mut pool = Pool::new(PoolLimits { count: 30, sender_pool_txs: 8, ..pool().limits });
        let account = AccountState { nonce: 1, balance: U256::from(money), ..RICH };
        let accounts = Accounts((0..6_u8).map(|sender| (address(sender), account)).collect());
        for spec in &specs {
            let before = pool.precheck(&spec.build(), &account);
            match pool.admit(NOW, spec.build(), Source::Local, &accounts).map(drop) {
                Err(AdmissionError::Full) => prop_assert_eq!(before, Ok(())),
                after => prop_assert_eq!(before, after),
            }
        }
    }

    /// P14, and the rest of what makes a block valid: nonces without gap from the branch's next one, reserves, limits.
    #[test]
    fn every_selection_keeps_the_limit_of_a_sender_and_the_ordering_rules(
        specs in prop::collection::vec(specs(), 1..120),
        limit in 1_u32..5,
        flying in prop::collection::vec(0_u64..4, 6),
        money in prop::collection::vec(0_u64..60_000_000, 6),
        ordered in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        gas in 20_000_u64..1_000_000,
        bytes in 100_usize..5000,
        count in 0_usize..30,
    ) {
        let mut pool = Pool::new(PoolLimits { sender_block_txs: limit, count: 30, ..pool().limits });
        let mut hashes = Vec::new();
        for spec in &specs {
            if admit(&mut pool, spec).is_ok() {
                hashes.push(spec.build().hash());
            }
            check_parts(&pool);
        }
        if !hashes.is_empty() {
            pool.on_ordered(ordered.iter().map(|index| index.get(&hashes)));
        }
        let view = Accounts((0..6_u8).map(|sender| {
            let i = usize::from(sender);
            let account = AccountState {
                nonce: 1, balance: U256::from(money[i]), in_flight: flying[i], in_flight_cost: U256::from(10_000 * flying[i]), is_contract: false,
            };
            (address(sender), account)
        }).collect());
        let limits = SelectLimits { bytes, gas, count };
        let block = pool.select(limits, BASE_FEE, &view);
        prop_assert!(block.len() <= count);
        prop_assert!(block.iter().map(|tx| tx.gas_limit()).sum::<u64>() <= gas);
        prop_assert!(block.iter().map(|tx| tx.raw().len()).sum::<usize>() <= bytes);
        let mut seen: BTreeMap<Address, (u32, u64, U256)> = BTreeMap::new();
        for tx in &block {
            let account = view.account(&tx.sender());
            let (taken, next, left) =
                seen.entry(tx.sender()).or_insert((0, account.next_nonce(), account.available()));
            *taken += 1;
            prop_assert!(*taken <= limit, "P14: {} transactions of one sender", taken);
            prop_assert_eq!(tx.nonce(), *next);
            *next += 1;
            prop_assert!(tx.max_cost() <= *left);
            *left -= tx.max_cost();
            prop_assert!(tx.max_fee_per_gas() >= u128::from(BASE_FEE));
        }
        // The same pool and the same branch give the same block.
        let again: Vec<_> = pool.select(limits, BASE_FEE, &view).iter().map(|tx| tx.hash()).collect();
        prop_assert_eq!(block.iter().map(|tx| tx.hash()).collect::<Vec<_>>(), again);
    }

    /// Two pools that saw the same things in the same order select the same.
    #[test]
    fn a_selection_depends_on_content_and_arrival_alone(specs in prop::collection::vec(specs(), 1..60)) {
        let (mut a, mut b) = (small(20), small(20));
        for spec in &specs {
            prop_assert_eq!(admit(&mut a, spec), admit(&mut b, spec));
        }
        let view = Accounts::default();
        prop_assert_eq!(selected(&a, ALL, &view), selected(&b, ALL, &view));
    }

    /// No sender is ever left with a gap by the pool itself.
    #[test]
    fn eviction_makes_no_gaps(fees in prop::collection::vec((0_u8..8, 0_u128..50), 1..150)) {
        let mut pool = small(10);
        let mut next = [0_u64; 8];
        for (sender, tip) in fees {
            let i = usize::from(sender);
            next[i] = pool.pending_nonce(&address(sender), &RICH);
            let _ = admit(&mut pool, &tx(sender, next[i]).pays(1000, tip));
            check_parts(&pool);
            prop_assert_eq!(pool.status().queued, 0);
        }
    }
}
