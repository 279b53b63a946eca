//! The reserve rule on an encrypted chain: envelopes that pass it can be paid for, whatever they hide.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy_primitives::{Address, U256};
use cascade_execution::{
    BlockLoad, InFlight, ItemCheck, OpenedItem, OrderedGas, OrderingError, Outcome, PushError, Refusal,
    check_block_items, next_base_fee, payer_state,
};
use cascade_primitives::{
    ChainId, ChainParams, Envelope, Epoch, GenesisAccount, Height, RecoveredItem, envelope::envelope_gas,
};
use proptest::prelude::*;

use crate::{
    chain::{Chain, Tx, ether, user},
    items::{Due, GWEI, Thing, deposit, encrypted, envelope, ordered, recovered, things},
};

const HEIGHT: Height = Height(50);

fn refusal(chain: &Chain, in_flight: &InFlight, items: &[RecoveredItem]) -> Result<OrderedGas, (usize, Refusal)> {
    let (params, view) = (&chain.params, chain.view());
    match check_block_items(params, chain.base_fee, HEIGHT, Epoch(1), &view, in_flight, items) {
        Ok((gas, load)) => {
            assert_eq!(load, BlockLoad::of_items(items));
            Ok(gas)
        }
        Err(OrderingError::Invalid { index, refusal, .. }) => Err((index, refusal)),
        Err(other) => panic!("{other}"),
    }
}

fn by(payer: Address, terms: Envelope) -> RecoveredItem {
    RecoveredItem::Envelope(recovered(terms, payer))
}

fn put(from: Address, nonce: u64, value: U256) -> RecoveredItem {
    RecoveredItem::Deposit(deposit(from, nonce, user(7), value))
}

fn small_chain() -> Chain {
    let alloc = [
        (user(0), GenesisAccount { balance: ether(10), nonce: 5, fees: ether(1), ..Default::default() }),
        (user(1), GenesisAccount { balance: ether(10), code: vec![0].into(), ..Default::default() }),
        (user(2), GenesisAccount { balance: ether(10), fees: ether(1), ..Default::default() }),
    ];
    let params = ChainParams { block_gas_limit: 1_000_000, sender_tx_limit: 3, max_validity: 50, ..encrypted() };
    Chain::new(params, alloc.into())
}

#[test]
fn each_rule_refuses_what_breaks_it() {
    let chain = small_chain();
    let (payer, none) = (user(0), InFlight::empty(Height(0)));
    let ok = Envelope { gas_limit: 100_000, max_fee_per_gas: 4 * GWEI, ..envelope(payer, 0) };
    let at = |nonce| Envelope { nonce, ciphertext: envelope(payer, nonce).ciphertext, ..ok.clone() };
    let good = [by(payer, at(0)), put(payer, 5, ether(1)), by(payer, at(1)), by(payer, at(2))];
    assert_eq!(refusal(&chain, &none, &good), Ok(OrderedGas(321_000)), "the account and the payer are two");
    let (height, limit) = (HEIGHT, Height(100));
    let alone: Vec<(Envelope, Refusal)> = vec![
        (at(1), Refusal::Nonce { found: 1, due: 0 }),
        (at(u64::MAX), Refusal::NonceMax),
        (Envelope { epoch: Epoch(2), ..at(0) }, Refusal::Epoch { found: Epoch(2), epoch: Epoch(1) }),
        (Envelope { epoch: Epoch(0), ..at(0) }, Refusal::NoKey(Epoch(0))),
        (Envelope { chain_id: ChainId(1), ..at(0) }, Refusal::ChainId { have: Some(1), want: ok.chain_id.0 }),
        (Envelope { valid_until: Height(49), ..at(0) }, Refusal::Expired { valid_until: Height(49), height }),
        (
            Envelope { valid_until: Height(101), ..at(0) },
            Refusal::ValidTooLong { valid_until: Height(101), height, limit },
        ),
        (Envelope { max_fee_per_gas: 1, ..at(0) }, Refusal::TipAboveFeeCap { tip: 2 * GWEI, max: 1 }),
        (
            Envelope { max_fee_per_gas: GWEI - 1, max_priority_fee_per_gas: 0, ..at(0) },
            Refusal::FeeCap { max_fee: u128::from(GWEI - 1), base_fee: GWEI },
        ),
        (Envelope { gas_limit: 20_999, ..at(0) }, Refusal::IntrinsicGas { gas_limit: 20_999, needed: 21_000 }),
        (Envelope { bucket: 9, ..at(0) }, Refusal::IntrinsicGas { gas_limit: 100_000, needed: envelope_gas(9) }),
        (Envelope { bucket: 10, ..at(0) }, Refusal::IntrinsicGas { gas_limit: 100_000, needed: u64::MAX }),
        (
            Envelope { gas_limit: 1_000_001, ..at(0) },
            Refusal::TransactionGas { gas_limit: 1_000_001, limit: 1_000_000 },
        ),
        (
            Envelope { max_fee_per_gas: 10_001 * GWEI, ..at(0) },
            Refusal::Reserve { cost: U256::from(100_000) * U256::from(10_001 * GWEI), available: ether(1) },
        ),
    ];
    for (terms, expected) in alone {
        assert_eq!(refusal(&chain, &none, &[by(payer, terms)]), Err((0, expected)));
    }
    for valid_until in [HEIGHT, limit] {
        assert!(refusal(&chain, &none, &[by(payer, Envelope { valid_until, ..at(0) })]).is_ok());
    }
    let copied = Envelope { ciphertext: at(0).ciphertext, ..envelope(user(2), 0) };
    let late = put(user(2), 0, ether(1));
    let cost = deposit(user(2), 0, user(7), ether(10)).transaction().max_cost();
    let cases: Vec<(Vec<RecoveredItem>, usize, Refusal)> = vec![
        (vec![by(payer, at(0)), by(payer, at(2))], 1, Refusal::Nonce { found: 2, due: 1 }),
        ((0..4).map(|nonce| by(payer, at(nonce))).collect(), 3, Refusal::SenderLimit { limit: 3 }),
        (vec![by(payer, at(0)), by(user(2), copied)], 1, Refusal::SameComponent),
        (
            vec![by(payer, Envelope { gas_limit: 979_001, max_fee_per_gas: 2 * GWEI, ..at(0) }), late.clone()],
            1,
            Refusal::BlockGas { gas_limit: 21_000, left: 20_999 },
        ),
        (vec![late.clone(), late], 1, Refusal::DepositInFlight),
        (vec![put(user(2), 1, U256::ZERO)], 0, Refusal::Nonce { found: 1, due: 0 }),
        (vec![put(user(1), 0, U256::ZERO)], 0, Refusal::SenderIsContract),
        (vec![put(user(2), 0, ether(10))], 0, Refusal::Reserve { cost, available: ether(10) }),
    ];
    for (items, index, expected) in cases {
        assert_eq!(refusal(&chain, &none, &items), Err((index, expected)));
    }
}

#[test]
fn an_epoch_without_a_key_takes_nothing() {
    let chain = small_chain();
    let (view, none) = (chain.view(), InFlight::empty(Height(0)));
    let mut check = ItemCheck::new(&chain.params, chain.base_fee, HEIGHT, Epoch(0), &view, &none).unwrap();
    for item in [put(user(2), 0, ether(1)), by(user(0), envelope(user(0), 0))] {
        assert!(matches!(check.push(&item), Err(PushError::Refused(Refusal::NoKey(Epoch(0))))));
    }
    assert!(check.finish().1.is_empty());
}

#[test]
fn what_payers_and_senders_have_in_flight_is_kept_apart() {
    let chain = small_chain();
    let genesis = InFlight::empty(Height(0));
    let terms = Envelope { max_fee_per_gas: 3000 * GWEI, ..envelope(user(2), 0) };
    let items = [by(user(2), terms.clone()), put(user(0), 5, ether(1))];
    let branch = genesis.with_block(Arc::new(BlockLoad::of_items(&items)));
    assert_eq!((branch.payer(&user(2)).count, branch.sender(&user(2)).count), (1, 0));
    assert_eq!((branch.payer(&user(0)).count, branch.sender(&user(0)).count), (0, 1));
    let state = payer_state(&chain.view(), &branch, &user(2)).unwrap();
    let cost = U256::from(200_000) * U256::from(3000 * GWEI);
    assert_eq!((state.next_nonce, state.available), (1, ether(1) - cost));
    let again = by(user(2), Envelope { nonce: 1, ..terms });
    let expected = Refusal::Reserve { cost, available: ether(1) - cost };
    assert_eq!(refusal(&chain, &branch, &[again]), Err((0, expected)));
    assert_eq!(refusal(&chain, &branch, &[put(user(0), 6, ether(1))]), Err((0, Refusal::DepositInFlight)));
    let cheap = Envelope { max_fee_per_gas: 4 * GWEI, ..envelope(user(0), 0) };
    assert!(refusal(&chain, &branch, &[by(user(0), cheap), put(user(2), 0, ether(1))]).is_ok());
    let proved = branch.with_results(Height(1));
    assert_eq!((proved.payer(&user(2)), proved.sender(&user(0))), Default::default());
    let other = ItemCheck::new(&chain.params, GWEI, HEIGHT, Epoch(1), &chain.view(), &proved).map(|_| ());
    assert!(matches!(other, Err(OrderingError::Basis { view: Height(0), proved: Height(1) })));
}

/// An order that keeps each payer's envelopes in the order of their nonces, as the shuffle does.
fn shuffled(mut items: Vec<OpenedItem>, seed: u64) -> Vec<OpenedItem> {
    let place = |i: usize| alloy_primitives::keccak256((seed ^ (i as u64) << 32).to_be_bytes());
    let owner = |item: &OpenedItem| match item {
        OpenedItem::Envelope { envelope, .. } => (true, envelope.payer()),
        OpenedItem::Deposit(deposit) => (false, deposit.transaction().sender()),
    };
    let mut places: Vec<usize> = (0..items.len()).collect();
    places.sort_by_key(|i| place(*i));
    let mut queues: BTreeMap<_, VecDeque<OpenedItem>> = BTreeMap::new();
    let owners: Vec<_> = places.iter().map(|i| owner(&items[*i])).collect();
    for item in items.drain(..) {
        queues.entry(owner(&item)).or_default().push_back(item);
    }
    owners.iter().map(|owner| queues.get_mut(owner).unwrap().pop_front().unwrap()).collect()
}

struct Ordered {
    base_fee: u64,
    items: Vec<OpenedItem>,
    gas: u64,
}

fn execute_next(chain: &mut Chain, ordered: &mut VecDeque<Ordered>, tally: &mut Tally) -> Result<(), TestCaseError> {
    let Ordered { base_fee, items, gas } = ordered.pop_front().unwrap();
    chain.base_fee = base_fee;
    let block = chain.execute_items(&items);
    chain.commit(&block, gas);
    for (item, receipt) in items.iter().zip(&block.receipts) {
        let failed = matches!(receipt.outcome, Outcome::NoOp(_));
        match item {
            OpenedItem::Envelope { .. } => {
                prop_assert!(!failed, "{:?}", receipt);
                prop_assert!(receipt.gas_used >= 21_000);
                if !matches!(receipt.outcome, Outcome::Charged(_)) {
                    tally.entry(receipt.from).or_default().0 += 1;
                }
            }
            OpenedItem::Deposit(_) if failed => tally.entry(receipt.from).or_default().1 += 1,
            OpenedItem::Deposit(_) => {}
        }
    }
    Ok(())
}

/// For each account: transactions from inside envelopes that ran, and deposits that did nothing.
type Tally = BTreeMap<Address, (u64, u64)>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Blocks are filled by the rule alone while results lag three blocks behind, and run in shuffled order. Hidden
    /// transactions spend all that their senders have, use nonces that deposits count on, and pay each other. Then every
    /// envelope is charged, and no account has more deposits that do nothing than transactions that somebody paid for.
    #[test]
    fn p14_and_the_reserve_whatever_envelopes_hide_they_are_paid(
        blocks in prop::collection::vec((things(0..14), any::<u64>()), 1..10),
    ) {
        const LAG: u64 = 3;
        let account = GenesisAccount { balance: ether(1000), fees: ether(10), ..Default::default() };
        let params = ChainParams { block_gas_limit: 1_500_000, sender_tx_limit: 3, ..encrypted() };
        let mut chain = Chain::new(params, (0..4).map(|i| (user(i), account.clone())).collect());
        let mut branch = InFlight::empty(Height(0));
        let (mut pending, mut tally) = (VecDeque::new(), Tally::new());
        let mut base_fee = chain.base_fee;
        let mut envelopes = 0;
        for (things, seed) in &blocks {
            let height = branch.tip().next();
            let results = height.minus(LAG);
            while chain.height < results {
                execute_next(&mut chain, &mut pending, &mut tally)?;
            }
            let below = branch.with_results(results);
            let view = chain.state.at(results).unwrap();
            let mut check = ItemCheck::new(&chain.params, base_fee, height, Epoch(1), &view, &below).unwrap();
            let mut due = Due::of(&chain);
            for i in 0..4 {
                due.payers[i] += below.payer(&user(i as u64)).count;
                due.accounts[i] += below.sender(&user(i as u64)).count;
            }
            let mut block = Vec::new();
            for thing in things {
                let item = due.item(thing);
                match check.push(&ordered(&item)) {
                    Ok(()) => {
                        due.count(thing);
                        envelopes += u64::from(matches!(thing, Thing::Sealed { .. }));
                        block.push(item);
                    }
                    Err(PushError::Refused(_)) => {}
                    Err(PushError::Store(error)) => panic!("{error}"),
                }
            }
            let (gas, load) = check.finish();
            let items: Vec<_> = block.iter().map(ordered).collect();
            let checked = check_block_items(&chain.params, base_fee, height, Epoch(1), &view, &below, &items).unwrap();
            prop_assert_eq!(&checked, &(gas, load.clone()));
            pending.push_back(Ordered { base_fee, items: shuffled(block, *seed), gas: gas.0 });
            base_fee = next_base_fee(base_fee, gas.0, &chain.params);
            branch = below.with_block(Arc::new(load));
        }
        while !pending.is_empty() {
            execute_next(&mut chain, &mut pending, &mut tally)?;
        }
        let nonces: u64 = (0..4).map(|i| chain.fees(user(i)).nonce).sum();
        prop_assert_eq!(nonces, envelopes);
        for (sender, (ran, failed)) in tally {
            prop_assert!(failed <= ran, "{} has {} deposits that did nothing, {} transactions ran", sender, failed, ran);
        }
    }
}

#[test]
fn a_deposit_that_a_hidden_transaction_overtakes_does_nothing() {
    let mut chain = small_chain();
    let hidden = Tx::new(user(2), 0, user(9)).value(ether(9)).sign();
    let sealed = Envelope { max_fee_per_gas: 4 * GWEI, ..envelope(user(0), 0) };
    let items = [
        OpenedItem::Envelope { envelope: recovered(sealed, user(0)), opened: Ok(hidden) },
        OpenedItem::Deposit(deposit(user(2), 0, user(7), ether(5))),
    ];
    let plain: Vec<_> = items.iter().map(ordered).collect();
    assert!(refusal(&chain, &InFlight::empty(Height(0)), &plain).is_ok());
    let block = chain.run_items(&items);
    assert_eq!(block.receipts[0].outcome, Outcome::Success);
    assert!(matches!(block.receipts[1].outcome, Outcome::NoOp(_)));
    assert_eq!((chain.fees(user(7)).balance, chain.balance(user(2))), (U256::ZERO, ether(1)));
}
