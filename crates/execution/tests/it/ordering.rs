//! The reserve rule: what passes it can be paid for when it runs, whatever is in flight.

use std::{collections::VecDeque, sync::Arc};

use alloy_primitives::U256;
use cascade_execution::{
    InFlight, OrderedGas, OrderingCheck, OrderingError, Outcome, PushError, Refusal, check_block_transactions,
    sender_state,
};
use cascade_primitives::{ChainParams, GenesisAccount, Height, RecoveredTransaction};
use proptest::prelude::*;

use crate::{
    asm::asm,
    chain::{Chain, Tx, ether, user},
};

fn refusal(chain: &Chain, in_flight: &InFlight, txs: &[Tx]) -> Result<OrderedGas, (usize, Refusal)> {
    let txs: Vec<_> = txs.iter().map(Tx::sign).collect();
    match check_block_transactions(&chain.params, chain.base_fee, &chain.view(), in_flight, &txs) {
        Ok((gas, _)) => Ok(gas),
        Err(OrderingError::Invalid { index, refusal, .. }) => Err((index, refusal)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_rule_refuses_what_breaks_it() {
    let alloc = [
        (user(0), GenesisAccount { balance: ether(10), nonce: 5, ..Default::default() }),
        (user(1), GenesisAccount { balance: ether(10), code: vec![0].into(), ..Default::default() }),
    ];
    let mut chain = Chain::with_alloc(alloc.into());
    chain.params = ChainParams { block_gas_limit: 1_000_000, sender_tx_limit: 3, ..chain.params };
    let ok = Tx::new(user(0), 5, user(9)).gas(100_000);
    let at = |nonce| Tx { nonce, ..ok.clone() };
    let none = InFlight::empty(Height(0));
    assert_eq!(refusal(&chain, &none, &[at(5), at(6), at(7)]), Ok(OrderedGas(300_000)));
    let cases: Vec<(Vec<Tx>, usize, Refusal)> = vec![
        (vec![at(4)], 0, Refusal::Nonce { found: 4, due: 5 }),
        (vec![at(6)], 0, Refusal::Nonce { found: 6, due: 5 }),
        (vec![at(5), at(7)], 1, Refusal::Nonce { found: 7, due: 6 }),
        (vec![at(5), at(6), at(7), at(8)], 3, Refusal::SenderLimit { limit: 3 }),
        (vec![at(u64::MAX)], 0, Refusal::NonceMax),
        (
            vec![Tx { max_fee: 999_999_999, tip: 0, ..ok.clone() }],
            0,
            Refusal::FeeCap { max_fee: 999_999_999, base_fee: 1_000_000_000 },
        ),
        (vec![ok.clone().gas(20_999)], 0, Refusal::IntrinsicGas { gas_limit: 20_999, needed: 21_000 }),
        (vec![ok.clone().gas(60_999).data(vec![1; 1000])], 0, Refusal::FloorGas { gas_limit: 60_999, needed: 61_000 }),
        (vec![ok.clone().gas(1_000_001)], 0, Refusal::TransactionGas { gas_limit: 1_000_001, limit: 1_000_000 }),
        (vec![ok.clone().gas(950_001), at(6).gas(50_000)], 1, Refusal::BlockGas { gas_limit: 50_000, left: 49_999 }),
        (vec![Tx { to: None, ..ok.clone().data(vec![0; 49_153]) }], 0, Refusal::InitCodeSize { size: 49_153 }),
        (vec![Tx { from: user(1), nonce: 0, ..ok.clone() }], 0, Refusal::SenderIsContract),
        (vec![Tx { chain_id: 1, ..ok.clone() }], 0, Refusal::ChainId { have: Some(1), want: chain.params.chain_id.0 }),
    ];
    for (txs, index, expected) in cases {
        assert_eq!(refusal(&chain, &none, &txs), Err((index, expected)));
    }
    let cost = ok.sign().max_cost();
    let all = at(6).value(ether(10) - cost - cost);
    assert!(refusal(&chain, &none, &[ok.clone(), all.clone()]).is_ok());
    let too_much = Tx { value: all.value + U256::from(1), ..all };
    let expected = Refusal::Reserve { cost: too_much.sign().max_cost(), available: ether(10) - cost };
    assert_eq!(refusal(&chain, &none, &[ok, too_much]), Err((1, expected)));
}

#[test]
fn what_is_in_flight_counts_until_its_result_is_on_the_chain() {
    let mut chain = Chain::with_users(1);
    let tx = |nonce| Tx::new(user(0), nonce, user(9)).value(ether(400));
    let sent = [tx(0).sign()];
    let genesis = InFlight::empty(Height(0));
    let (_, load) = check_block_transactions(&chain.params, 1_000_000_000, &chain.view(), &genesis, &sent).unwrap();
    let branch = genesis.with_block(Arc::new(load));
    assert_eq!((branch.tip(), branch.results_up_to(), branch.sender(&user(0)).count), (Height(1), Height(0), 1));
    let state = sender_state(&chain.view(), &branch, &user(0)).unwrap();
    assert_eq!((state.next_nonce, state.available), (1, ether(1000) - sent[0].max_cost()));
    assert_eq!(refusal(&chain, &branch, &[tx(0)]).unwrap_err().1, Refusal::Nonce { found: 0, due: 1 });
    assert!(refusal(&chain, &branch, &[tx(1)]).is_ok());
    assert!(matches!(refusal(&chain, &branch, &[tx(1), tx(2)]).unwrap_err(), (1, Refusal::Reserve { .. })));
    // Another branch without the block knows nothing of it.
    assert!(refusal(&chain, &genesis, &[tx(0)]).is_ok());

    chain.run(&[tx(0)]);
    let wrong = check_block_transactions(&chain.params, chain.base_fee, &chain.view(), &branch, &[]);
    assert!(matches!(wrong, Err(OrderingError::Basis { view: Height(1), proved: Height(0) })));
    let proved = branch.with_results(Height(1));
    assert_eq!(proved.sender(&user(0)).count, 0);
    assert!(refusal(&chain, &proved, &[tx(1)]).is_ok());
    assert_eq!(proved.with_results(Height(0)), proved, "results are never taken back");
}

#[derive(Clone, Debug)]
struct Candidate {
    from: u64,
    nonce_error: i64,
    to: u64,
    share: u64,
    gas: u64,
    max_fee: u64,
    kind: u64,
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let nonce_error = prop_oneof![9 => Just(0i64), 1 => -2i64..3];
    let candidate =
        (0u64..4, nonce_error, 0u64..6, 0u64..120, 21_000u64..400_000, 900_000_000u64..200_000_000_000, 0u64..6)
            .prop_map(|(from, nonce_error, to, share, gas, max_fee, kind)| Candidate {
                from,
                nonce_error,
                to,
                share,
                gas,
                max_fee,
                kind,
            });
    prop::collection::vec(candidate, 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Blocks are filled by the rule alone while results lag three blocks behind. Then every transaction runs: none is
    /// a no-op. P14: nobody has more in a block than the limit.
    #[test]
    fn p14_and_the_reserve_whatever_passes_the_rule_runs_and_pays(blocks in prop::collection::vec(candidates(), 1..12)) {
        const LAG: u64 = 3;
        let mut chain = Chain::with_users(4);
        chain.params = ChainParams { block_gas_limit: 1_500_000, sender_tx_limit: 2, ..chain.params };
        let mut branch = InFlight::empty(Height(0));
        let mut ordered: VecDeque<(u64, Vec<Tx>, u64)> = VecDeque::new();
        let mut base_fee = chain.base_fee;
        let mut included = 0;
        for candidates in &blocks {
            let height = branch.tip().next();
            let results = height.minus(LAG);
            while chain.height < results {
                execute_next(&mut chain, &mut ordered)?;
            }
            let below = branch.with_results(results);
            let view = chain.state.at(results).unwrap();
            let mut check = OrderingCheck::new(&chain.params, base_fee, &view, &below).unwrap();
            let mut block = Vec::new();
            let mut own = [0u64; 4];
            for candidate in candidates {
                let state = sender_state(&view, &below, &user(candidate.from)).unwrap();
                let tx = candidate.tx(state.next_nonce + own[candidate.from as usize], state.available);
                match check.push(&tx.sign()) {
                    Ok(()) => {
                        own[candidate.from as usize] += 1;
                        block.push(tx);
                    }
                    Err(PushError::Refused(_)) => {}
                    Err(PushError::Store(error)) => panic!("{error}"),
                }
            }
            prop_assert!(own.iter().all(|count| *count <= u64::from(chain.params.sender_tx_limit)));
            let (gas, load) = check.finish();
            // The validator, who sees the finished block, agrees with the builder.
            let signed: Vec<RecoveredTransaction> = block.iter().map(Tx::sign).collect();
            let checked = check_block_transactions(&chain.params, base_fee, &view, &below, &signed).unwrap();
            prop_assert_eq!(&checked, &(gas, load.clone()));
            prop_assert!(gas.0 <= chain.params.block_gas_limit);
            included += block.len();
            ordered.push_back((base_fee, block, gas.0));
            base_fee = cascade_execution::next_base_fee(base_fee, gas.0, &chain.params);
            branch = below.with_block(Arc::new(load));
        }
        while !ordered.is_empty() {
            execute_next(&mut chain, &mut ordered)?;
        }
        let nonces: u64 = (0..4).map(|i| chain.account(user(i)).nonce).sum();
        prop_assert_eq!(nonces, included as u64);
    }
}

fn execute_next(chain: &mut Chain, ordered: &mut VecDeque<(u64, Vec<Tx>, u64)>) -> Result<(), TestCaseError> {
    let (base_fee, block, gas) = ordered.pop_front().unwrap();
    chain.base_fee = base_fee;
    let executed = chain.execute(&block);
    chain.commit(&executed, gas);
    for receipt in &executed.receipts {
        prop_assert!(!matches!(receipt.outcome, Outcome::NoOp(_)), "{:?}", receipt);
    }
    Ok(())
}

impl Candidate {
    /// A transaction that may or may not pass: some take nearly all that the sender has, some more.
    fn tx(&self, due: u64, available: U256) -> Tx {
        let nonce = due.saturating_add_signed(self.nonce_error);
        let value = available * U256::from(self.share) / U256::from(100);
        let tx = Tx::new(user(self.from), nonce, user(self.to)).gas(self.gas).value(value);
        let tx = Tx { max_fee: u128::from(self.max_fee), tip: 1, ..tx };
        match self.kind {
            0 => Tx { to: None, ..tx.data(asm(":loop @loop JUMP")) },
            1 => Tx { to: None, ..tx.data(asm("CALLER SELFDESTRUCT")) },
            2 => Tx { to: None, ..tx.data(asm("PUSH0 PUSH0 REVERT")) },
            3 => Tx { kind: 0, ..tx },
            _ => tx,
        }
    }
}
