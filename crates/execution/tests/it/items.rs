//! What envelopes and deposits do when they run: who pays, what stays as it was, and that everything has one outcome.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, U256, keccak256};
use cascade_execution::{
    ENVELOPE_RECEIPT_TYPE, ExecutedBlock, FEE_LEDGER, FeeAccount, GenesisStateError, NoOpReason, NotRun, OpenFailure,
    OpenedItem, Outcome, Receipt, Withdrawal, execute_items, fee_account, fee_slot, genesis_changes,
    minimum_envelope_charge,
};
use cascade_primitives::{
    ChainParams, EcdsaSignature, Encode, Envelope, Epoch, Fork, Genesis, GenesisAccount, Height, Item,
    RecoveredDeposit, RecoveredEnvelope, RecoveredItem, TimestampMs, TransactionRule, envelope::envelope_gas,
};
use proptest::prelude::*;

use crate::{
    asm::{asm, deploy},
    chain::{Chain, PRODUCER, Tx, ether, params, user},
};

pub const GWEI: u64 = 1_000_000_000;

pub fn encrypted() -> ChainParams {
    ChainParams { transactions: TransactionRule::Encrypted, ..params() }
}

/// Users 0 to `n - 1` have a thousand ether each in their accounts, and ten in the fee ledger.
pub fn chain(n: u64) -> Chain {
    let account = GenesisAccount { balance: ether(1000), fees: ether(10), ..Default::default() };
    Chain::new(encrypted(), (0..n).map(|i| (user(i), account.clone())).collect())
}

/// An envelope of a payer with terms that a test varies.
pub fn envelope(payer: Address, nonce: u64) -> Envelope {
    // Each has a component of its own.
    let component = keccak256([payer.as_slice(), &nonce.to_be_bytes()].concat());
    Envelope {
        chain_id: params().chain_id,
        fork: Fork(0),
        epoch: Epoch(1),
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: 100 * GWEI,
        max_priority_fee_per_gas: 2 * GWEI,
        valid_until: Height(100),
        bucket: 0,
        commitment: B256::repeat_byte(9),
        ciphertext: [component.as_slice(), component.as_slice()].concat().into(),
        signature: EcdsaSignature([0; 65]),
    }
}

pub fn recovered(envelope: Envelope, payer: Address) -> Box<RecoveredEnvelope> {
    let raw = Item::Envelope(envelope.clone()).to_bytes();
    let digest = keccak256(&raw);
    Box::new(RecoveredEnvelope::new(envelope, raw.into(), digest, payer))
}

pub fn deposit(from: Address, nonce: u64, payer: Address, value: U256) -> Box<RecoveredDeposit> {
    let tx = Tx::new(from, nonce, payer).value(value).gas(21_000).sign();
    Box::new(RecoveredDeposit::new(tx, vec![2].into(), payer).unwrap())
}

pub fn opened(payer: Address, nonce: u64, tx: &Tx) -> OpenedItem {
    OpenedItem::Envelope { envelope: recovered(envelope(payer, nonce), payer), opened: Ok(tx.sign()) }
}

pub fn ordered(item: &OpenedItem) -> RecoveredItem {
    match item {
        OpenedItem::Envelope { envelope, .. } => RecoveredItem::Envelope(envelope.clone()),
        OpenedItem::Deposit(deposit) => RecoveredItem::Deposit(deposit.clone()),
    }
}

impl Chain {
    pub fn fees(&self, payer: Address) -> FeeAccount {
        fee_account(&self.view(), &payer).unwrap()
    }

    pub fn execute_items(&self, items: &[OpenedItem]) -> ExecutedBlock {
        execute_items(&self.view(), &self.env(), items).unwrap()
    }

    /// Executes items and makes them part of the chain, with a base fee that stays.
    pub fn run_items(&mut self, items: &[OpenedItem]) -> ExecutedBlock {
        let block = self.execute_items(items);
        self.commit(&block, self.params.block_gas_limit / 2);
        block
    }

    pub fn run_item(&mut self, item: OpenedItem) -> Receipt {
        self.run_items(&[item]).receipts.remove(0)
    }
}

#[test]
fn the_payer_pays_for_gas_and_the_signer_inside_for_nothing_but_the_value() {
    let mut chain = chain(2);
    let (alice, payer) = (user(0), user(1));
    let tx = Tx { max_fee: 7, tip: 7, ..Tx::new(alice, 0, user(9)).value(ether(1)).gas(150_000) };
    let block = chain.run_items(&[opened(payer, 0, &tx)]);
    let receipt = &block.receipts[0];
    assert_eq!((receipt.outcome, receipt.transaction_hash), (Outcome::Success, tx.sign().hash()));
    assert_eq!((receipt.from, receipt.to, receipt.transaction_type), (alice, Some(user(9)), 2));
    // Half of the envelope's limit, not of the limit inside.
    assert_eq!((receipt.gas_used, receipt.evm_gas_used), (100_000, 21_000));
    assert_eq!(receipt.effective_gas_price, u128::from(3 * GWEI));
    let cost = U256::from(100_000) * U256::from(3 * GWEI);
    assert_eq!(chain.fees(payer), FeeAccount { balance: ether(10) - cost, nonce: 1 });
    assert_eq!(chain.fees(alice), FeeAccount { balance: ether(10), nonce: 0 });
    assert_eq!((chain.balance(alice), chain.account(alice).nonce), (ether(999), 1));
    assert_eq!((chain.balance(payer), chain.account(payer).nonce), (ether(1000), 0));
    assert_eq!(chain.balance(user(9)), ether(1));
    assert_eq!(block.burned, U256::from(100_000) * U256::from(GWEI));
    assert_eq!((block.tips, chain.balance(PRODUCER)), (cost - block.burned, cost - block.burned));
    assert_eq!((chain.balance(FEE_LEDGER), chain.account(FEE_LEDGER).nonce), (ether(20) - cost, 1));
}

#[test]
fn the_charge_is_the_gas_used_half_the_limit_or_the_envelopes_gas_whichever_is_most() {
    let mut chain = chain(2);
    let burn = Tx { to: None, ..Tx::new(user(0), 0, None).gas(120_000).data(asm(":loop @loop JUMP")) };
    let cases = [
        // The whole gas inside is used, of an envelope with more.
        (envelope(user(1), 0), burn, 120_000),
        // Used is less than half.
        (envelope(user(1), 1), Tx::new(user(0), 1, user(9)).gas(21_000), 100_000),
        (Envelope { gas_limit: 42_001, ..envelope(user(1), 2) }, Tx::new(user(0), 2, user(9)).gas(30_000), 21_001),
        // A large bucket costs more than half.
        (
            Envelope { gas_limit: 90_000, bucket: 4, ..envelope(user(1), 3) },
            Tx::new(user(0), 3, user(9)).gas(21_000),
            21_000 + 16 * 3840,
        ),
    ];
    for (envelope, tx, charged) in cases {
        let least = minimum_envelope_charge(envelope.gas_limit, envelope.bucket);
        let before = chain.fees(user(1)).balance;
        let receipt =
            chain.run_item(OpenedItem::Envelope { envelope: recovered(envelope, user(1)), opened: Ok(tx.sign()) });
        assert_eq!(receipt.gas_used, charged);
        assert!(receipt.gas_used >= least);
        assert_eq!(before - chain.fees(user(1)).balance, U256::from(charged) * U256::from(3 * GWEI));
    }
}

#[test]
fn contracts_see_the_price_that_the_envelope_pays() {
    let mut chain = chain(2);
    let code = deploy("", &asm("GASPRICE PUSH0 SSTORE STOP"));
    let contract = chain.run_item(opened(user(1), 0, &Tx::new(user(0), 0, None).data(code))).contract_address.unwrap();
    for (nonce, kind) in [(1, 0), (2, 1), (3, 2)] {
        let max_fee_per_gas = GWEI + 10 * nonce;
        let terms = Envelope { max_fee_per_gas, max_priority_fee_per_gas: GWEI, ..envelope(user(1), nonce) };
        let capped = recovered(terms, user(1));
        let tx = Tx { kind, max_fee: 1, tip: 1, ..Tx::new(user(0), nonce, contract).gas(100_000) };
        let receipt = chain.run_item(OpenedItem::Envelope { envelope: capped, opened: Ok(tx.sign()) });
        assert_eq!(receipt.outcome, Outcome::Success);
        assert_eq!(chain.slot(contract, 0), U256::from(max_fee_per_gas));
    }
}

#[test]
fn what_cannot_start_is_charged_the_least_and_names_its_reason() {
    let contract = GenesisAccount { balance: ether(10), code: vec![0].into(), ..Default::default() };
    let account = GenesisAccount { balance: ether(1000), fees: ether(10), ..Default::default() };
    let chain = Chain::new(encrypted(), [(user(0), account.clone()), (user(1), account), (user(2), contract)].into());
    let ok = Tx::new(user(0), 0, user(9));
    let cases: Vec<(Result<Tx, OpenFailure>, NotRun)> = vec![
        (Err(OpenFailure::Undecryptable), NotRun::Undecryptable),
        (Err(OpenFailure::Commitment), NotRun::Commitment),
        (Err(OpenFailure::NotATransaction), NotRun::NotATransaction),
        (Err(OpenFailure::GasLimit), NotRun::GasLimit),
        (Ok(ok.clone().gas(200_001)), NotRun::GasLimit),
        (Ok(Tx { nonce: 1, ..ok.clone() }), NotRun::NonceTooHigh),
        (Ok(Tx { nonce: u64::MAX, ..ok.clone() }), NotRun::NonceMax),
        (Ok(ok.clone().value(ether(1000) + U256::from(1))), NotRun::InsufficientFunds),
        (Ok(ok.clone().gas(20_999)), NotRun::IntrinsicGas),
        (Ok(ok.clone().gas(60_999).data(vec![1; 1000])), NotRun::FloorGas),
        (Ok(Tx { from: user(2), ..ok.clone() }), NotRun::SenderIsContract),
        (Ok(Tx { to: None, ..ok.clone().data(vec![0; 49_153]) }), NotRun::InitCodeSize),
        (Ok(Tx { chain_id: 1, ..ok.clone() }), NotRun::NotATransaction),
    ];
    let cost = U256::from(100_000) * U256::from(3 * GWEI);
    for (inside, reason) in cases {
        let mut chain = chain.reopened(Default::default());
        let envelope = recovered(envelope(user(1), 0), user(1));
        let (hash, inside) = (envelope.hash(), inside.map(|tx| tx.sign()));
        let block = chain.run_items(&[OpenedItem::Envelope { envelope, opened: inside }]);
        let receipt = &block.receipts[0];
        assert_eq!(receipt.outcome, Outcome::Charged(reason));
        assert_eq!((receipt.transaction_hash, receipt.from, receipt.to), (hash, user(1), None));
        assert_eq!(receipt.transaction_type, ENVELOPE_RECEIPT_TYPE);
        assert_eq!((receipt.gas_used, receipt.evm_gas_used), (100_000, 0));
        assert_eq!(chain.fees(user(1)), FeeAccount { balance: ether(10) - cost, nonce: 1 }, "{reason}");
        assert_eq!((chain.balance(user(0)), chain.account(user(0)).nonce), (ether(1000), 0), "{reason}");
    }
    let mut chain = chain;
    let all = ok.value(ether(1000));
    assert_eq!(chain.run_item(opened(user(1), 0, &all)).outcome, Outcome::Success, "no gas is kept back of the value");
    assert_eq!(chain.run_item(opened(user(1), 1, &all)).outcome, Outcome::Charged(NotRun::NonceTooLow));
}

#[test]
fn what_the_ordering_rules_exclude_does_nothing_and_costs_nothing() {
    let mut chain = chain(2);
    chain.run_items(&[opened(user(1), 0, &Tx::new(user(0), 0, user(9)))]);
    let root = chain.view().root().unwrap();
    let ok = envelope(user(1), 1);
    let limit = chain.params.block_gas_limit;
    let cases = [
        (Envelope { nonce: 0, ..ok.clone() }, NoOpReason::NonceTooLow),
        (Envelope { nonce: 2, ..ok.clone() }, NoOpReason::NonceTooHigh),
        (Envelope { nonce: u64::MAX, ..ok.clone() }, NoOpReason::NonceMax),
        (Envelope { max_fee_per_gas: 50_000 * GWEI, ..ok.clone() }, NoOpReason::InsufficientFunds),
        (Envelope { max_fee_per_gas: u64::MAX, gas_limit: limit, ..ok.clone() }, NoOpReason::InsufficientFunds),
        (Envelope { max_fee_per_gas: GWEI - 1, max_priority_fee_per_gas: 0, ..ok.clone() }, NoOpReason::FeeCapTooLow),
        (Envelope { max_fee_per_gas: 2 * GWEI - 1, ..ok.clone() }, NoOpReason::TipAboveFeeCap),
        (Envelope { gas_limit: 20_999, ..ok.clone() }, NoOpReason::IntrinsicGas),
        (Envelope { gas_limit: envelope_gas(3) - 1, bucket: 3, ..ok.clone() }, NoOpReason::IntrinsicGas),
        (Envelope { bucket: 255, ..ok.clone() }, NoOpReason::IntrinsicGas),
        (Envelope { gas_limit: limit + 1, ..ok.clone() }, NoOpReason::BlockGasLimit),
        (Envelope { chain_id: cascade_primitives::ChainId(1), ..ok.clone() }, NoOpReason::ChainId),
    ];
    for (terms, reason) in cases {
        let tx = Tx::new(user(0), 1, user(9)).value(ether(1)).gas(20_000).sign();
        let envelope = recovered(terms, user(1));
        let hash = envelope.hash();
        let block = chain.execute_items(&[OpenedItem::Envelope { envelope, opened: Ok(tx) }]);
        let receipt = &block.receipts[0];
        assert_eq!((receipt.outcome, receipt.transaction_hash), (Outcome::NoOp(reason), hash));
        assert_eq!((receipt.gas_used, block.result.gas_used, receipt.from), (0, 0, user(1)));
        assert_eq!(block.result.state_root, root, "{reason}");
    }
    let good = OpenedItem::Envelope { envelope: recovered(ok, user(1)), opened: Err(OpenFailure::Undecryptable) };
    assert_eq!(chain.run_item(good).outcome, Outcome::Charged(NotRun::Undecryptable));
}

#[test]
fn a_deposit_moves_its_value_from_an_account_into_the_ledger() {
    let mut chain = chain(2);
    let payer = user(7);
    let receipt = chain.run_item(OpenedItem::Deposit(deposit(user(0), 0, payer, ether(3))));
    let cost = U256::from(21_000) * U256::from(receipt.effective_gas_price);
    assert_eq!((receipt.outcome, receipt.from, receipt.to), (Outcome::Success, user(0), Some(payer)));
    assert_eq!(chain.balance(user(0)), ether(997) - cost);
    assert_eq!(chain.fees(payer), FeeAccount { balance: ether(3), nonce: 0 });
    assert_eq!((chain.balance(payer), chain.balance(FEE_LEDGER)), (U256::ZERO, ether(23)));
    // What the payer's account had stays there, also when it pays for itself.
    chain.run_item(OpenedItem::Deposit(deposit(user(1), 0, user(1), ether(5))));
    assert_eq!((chain.fees(user(1)).balance, chain.balance(user(1))), (ether(15), ether(995) - cost));
    // It pays for an envelope at once.
    let tx = Tx::new(user(0), 1, user(9));
    assert_eq!(chain.run_item(opened(payer, 0, &tx)).outcome, Outcome::Success);
    // One that cannot run moves nothing.
    let poor = chain.run_item(OpenedItem::Deposit(deposit(user(9), 0, payer, ether(1))));
    assert_eq!(poor.outcome, Outcome::NoOp(NoOpReason::InsufficientFunds));
    let twice = chain.run_item(OpenedItem::Deposit(deposit(user(0), 0, payer, ether(3))));
    assert_eq!(twice.outcome, Outcome::NoOp(NoOpReason::NonceTooLow));
    assert_eq!(chain.balance(FEE_LEDGER), (0..8).map(|i| chain.fees(user(i)).balance).sum::<U256>());
}

/// With nothing left in it the ledger's account would be empty and its slots, nonces among them, out of reach.
#[test]
fn an_empty_ledger_remembers_nonces() {
    let (price, gas) = (GWEI, 200_000);
    let fees = U256::from(price) * U256::from(gas);
    let alloc = [(user(1), GenesisAccount { fees, ..Default::default() })];
    let mut chain = Chain::new(encrypted(), alloc.into());
    let terms = Envelope { max_fee_per_gas: price, max_priority_fee_per_gas: 0, ..envelope(user(1), 0) };
    let burn = Tx { from: user(0), to: None, ..Tx::new(user(0), 0, None).gas(gas).data(asm(":loop @loop JUMP")) };
    let item = OpenedItem::Envelope { envelope: recovered(terms, user(1)), opened: Ok(burn.sign()) };
    let receipt = chain.run_item(item.clone());
    assert_eq!(receipt.gas_used, gas);
    assert_eq!(chain.fees(user(1)), FeeAccount { balance: U256::ZERO, nonce: 1 });
    assert_eq!((chain.balance(FEE_LEDGER), chain.account(FEE_LEDGER).nonce), (U256::ZERO, 1));
    chain.run_item(OpenedItem::Deposit(deposit(user(0), 1, user(1), U256::ZERO)));
    assert_eq!(chain.run_item(item).outcome, Outcome::NoOp(NoOpReason::NonceTooLow));
}

#[test]
fn hidden_transactions_cannot_write_the_ledger() {
    let mut chain = chain(2);
    let slot: [u8; 32] = fee_slot(&user(1)).to_be_bytes();
    let write = |data: Vec<u8>| Tx::new(user(0), 0, FEE_LEDGER).gas(150_000).value(ether(1)).data(data);
    let receipt = chain.run_item(opened(user(1), 0, &write(slot.to_vec())));
    assert_eq!(receipt.outcome, Outcome::Success, "a transfer to an address without code");
    let cost = U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
    assert_eq!(chain.fees(user(1)).balance, ether(10) - cost, "the wei is the ledger's and nobody's entry");
    assert_eq!(chain.balance(FEE_LEDGER), ether(21) - cost);
    assert!(chain.view().code(&FEE_LEDGER).unwrap().is_empty());
}

#[test]
fn the_ledger_is_proved_like_any_slot() {
    let mut chain = chain(2);
    chain.run_items(&[opened(user(1), 0, &Tx::new(user(0), 0, user(9)))]);
    let (view, root) = (chain.view(), chain.view().root().unwrap());
    for (payer, expected) in [(user(1), chain.fees(user(1))), (user(5), FeeAccount::default())] {
        let proof = view.prove_slot(&FEE_LEDGER, &fee_slot(&payer)).unwrap();
        let value = proof.verify_slot(&root, &FEE_LEDGER, &fee_slot(&payer)).unwrap();
        assert_eq!(FeeAccount::from_slot(&value), Some(expected));
    }
}

#[test]
fn genesis_gives_fees_on_encrypted_chains_alone_and_counts_them() {
    let changes = |params: &ChainParams, alloc: BTreeMap<_, _>| {
        let params = params.clone();
        genesis_changes(&Genesis { params, timestamp: TimestampMs(0), committees: Vec::new(), alloc })
    };
    let fees = |fees| GenesisAccount { fees, ..Default::default() };
    let one = || BTreeMap::from([(user(0), fees(U256::from(1)))]);
    assert!(matches!(changes(&params(), one()), Err(GenesisStateError::Fees(address)) if address == user(0)));
    assert!(changes(&encrypted(), one()).is_ok());
    let reserved = BTreeMap::from([(FEE_LEDGER, GenesisAccount { code: vec![0].into(), ..Default::default() })]);
    assert!(matches!(changes(&encrypted(), reserved.clone()), Err(GenesisStateError::Reserved)));
    assert!(changes(&params(), reserved).is_ok(), "an address like any other");
    let half = U256::from(1) << 127;
    let both = |rest: U256| {
        let rich = GenesisAccount { balance: half, ..Default::default() };
        BTreeMap::from([(user(0), fees(half - rest)), (user(1), rich)])
    };
    assert!(matches!(changes(&encrypted(), both(U256::ZERO)), Err(GenesisStateError::Supply)));
    assert!(changes(&encrypted(), both(U256::from(1))).is_ok());
}

/// One random item; payers and senders are the same few users, so that they get in each other's way.
#[derive(Clone, Debug)]
pub enum Thing {
    Sealed { payer: u64, error: i64, gas: u64, max_fee: u64, tip: u64, bucket: u8, inside: Inside },
    Deposit { from: u64, error: i64, payer: u64, share: u64 },
}

#[derive(Clone, Debug)]
pub enum Inside {
    Broken(u8),
    /// Out of the ledger: by the payer itself unless `from` says otherwise; `share` in hundredths of what is reserved, all
    /// if there is none.
    Withdraw {
        from: Option<u64>,
        error: i64,
        to: u64,
        share: Option<u64>,
        gas: u64,
        value: bool,
    },
    Tx {
        from: u64,
        error: i64,
        to: u64,
        share: u64,
        gas: u64,
        kind: u8,
    },
}

pub fn things(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Thing>> {
    let error = || prop_oneof![8 => Just(0i64), 1 => -1i64..3];
    let inside = prop_oneof![
        1 => (0u8..4).prop_map(Inside::Broken),
        3 => (prop::option::weighted(0.15, 0u64..4), error(), 0u64..7, prop::option::of(0u64..120), 20_000u64..60_000,
            prop::bool::weighted(0.1)).prop_map(|(from, error, to, share, gas, value)|
                Inside::Withdraw { from, error, to, share, gas, value }),
        6 => (0u64..4, error(), 0u64..7, 0u64..120, 20_000u64..250_000, 0u8..8)
            .prop_map(|(from, error, to, share, gas, kind)| Inside::Tx { from, error, to, share, gas, kind }),
    ];
    // Ten ether are in the ledger: the dearest cost up to fifteen, and some really pay their cap.
    let fee = prop_oneof![GWEI - 10..100 * GWEI, 20_000 * GWEI..60_000 * GWEI];
    let tip = prop_oneof![Just(2 * GWEI), Just(u64::MAX)];
    let sealed = (0u64..4, error(), 20_000u64..250_000, fee, tip, 0u8..5, inside).prop_map(
        |(payer, error, gas, max_fee, tip, bucket, inside)| {
            let tip = tip.min(max_fee);
            Thing::Sealed { payer, error, gas, max_fee, tip, bucket, inside }
        },
    );
    let deposit = (0u64..4, error(), 0u64..6, 0u64..120).prop_map(|(from, error, payer, share)| Thing::Deposit {
        from,
        error,
        payer,
        share,
    });
    prop::collection::vec(prop_oneof![4 => sealed, 1 => deposit], count)
}

/// What turns random things into items: the nonces that are due, and the balances that shares are of.
pub struct Due {
    pub accounts: [u64; 4],
    pub payers: [u64; 4],
    pub balances: [U256; 4],
}

impl Due {
    pub fn of(chain: &Chain) -> Self {
        let each = |i: usize| user(i as u64);
        Self {
            accounts: std::array::from_fn(|i| chain.account(each(i)).nonce),
            payers: std::array::from_fn(|i| chain.fees(each(i)).nonce),
            balances: std::array::from_fn(|i| chain.balance(each(i))),
        }
    }

    fn part(&self, user: u64, share: u64) -> U256 {
        self.balances[user as usize] * U256::from(share) / U256::from(100)
    }

    fn target(to: u64) -> Address {
        if to == 6 { FEE_LEDGER } else { user(to) }
    }

    /// The item, with the nonces that follow from those before it; not counted yet.
    pub fn item(&self, thing: &Thing) -> OpenedItem {
        match *thing {
            Thing::Deposit { from, error, payer, share } => {
                let nonce = self.accounts[from as usize].saturating_add_signed(error);
                OpenedItem::Deposit(deposit(user(from), nonce, user(payer), self.part(from, share)))
            }
            Thing::Sealed { payer, error, gas, max_fee, tip, bucket, ref inside } => {
                let terms = Envelope {
                    gas_limit: gas,
                    max_fee_per_gas: max_fee,
                    max_priority_fee_per_gas: tip,
                    bucket,
                    ..envelope(user(payer), self.payers[payer as usize].saturating_add_signed(error))
                };
                let opened = match *inside {
                    Inside::Broken(0) => Err(OpenFailure::Undecryptable),
                    Inside::Broken(1) => Err(OpenFailure::Commitment),
                    Inside::Broken(2) => Err(OpenFailure::NotATransaction),
                    Inside::Broken(_) => Err(OpenFailure::GasLimit),
                    Inside::Withdraw { from, error, to, share, gas: limit, value } => {
                        let from = from.unwrap_or(payer);
                        let nonce = self.accounts[from as usize].saturating_add_signed(error);
                        let reserved = U256::from(gas) * U256::from(max_fee);
                        let amount = share.map(|share| reserved * U256::from(share) / U256::from(100));
                        let data = Withdrawal { to: Self::target(to), amount }.call_data();
                        let tx = Tx::new(user(from), nonce, FEE_LEDGER).gas(limit).value(U256::from(u8::from(value)));
                        Ok(tx.data(data).sign())
                    }
                    Inside::Tx { from, error, to, share, gas, kind } => {
                        let nonce = self.accounts[from as usize].saturating_add_signed(error);
                        let tx = Tx::new(user(from), nonce, Self::target(to)).gas(gas).value(self.part(from, share));
                        Ok(match kind {
                            0 => Tx { to: None, ..tx.data(asm(":loop @loop JUMP")) },
                            1 => Tx { to: None, ..tx.data(asm("CALLER SELFDESTRUCT")) },
                            2 => Tx { to: None, ..tx.data(asm("PUSH2 0xfee5 SELFDESTRUCT")) },
                            3 => Tx { to: None, ..tx.data(asm("PUSH0 PUSH0 REVERT")) },
                            4 => Tx { kind: 0, max_fee: 0, ..tx },
                            _ => tx,
                        }
                        .sign())
                    }
                };
                OpenedItem::Envelope { envelope: recovered(terms, user(payer)), opened }
            }
        }
    }

    /// Counts an item as if it ran.
    pub fn count(&mut self, thing: &Thing) {
        match *thing {
            Thing::Deposit { from, .. } => self.accounts[from as usize] += 1,
            Thing::Sealed { payer, ref inside, .. } => {
                self.payers[payer as usize] += 1;
                match *inside {
                    Inside::Tx { from, .. } => self.accounts[from as usize] += 1,
                    Inside::Withdraw { from, .. } => self.accounts[from.unwrap_or(payer) as usize] += 1,
                    Inside::Broken(_) => {}
                }
            }
        }
    }
}

/// What a receipt says was withdrawn; none if nothing was.
pub fn withdrawn(receipt: &Receipt) -> Option<U256> {
    let log = receipt.logs.iter().find(|log| log.address == FEE_LEDGER)?;
    Some(U256::from_be_slice(&log.data.data))
}

/// Wei that are in the ledger's account and in no entry, because somebody sent them there.
fn stray(chain: &Chain) -> U256 {
    let entries: U256 = (0..8).map(|i| chain.fees(user(i)).balance).sum();
    chain.balance(FEE_LEDGER).checked_sub(entries).expect("the ledger's account covers its entries")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any list, also one that no rule let through: one outcome for each item, the same on every run; every wei is
    /// accounted for; nonces of the ledger count what was charged.
    #[test]
    fn any_items_have_one_outcome_and_no_wei_is_made_or_lost(blocks in prop::collection::vec(things(1..25), 1..4)) {
        let mut chain = chain(4);
        let everybody: BTreeSet<Address> = (0..8).map(user)
            .chain([PRODUCER, FEE_LEDGER])
            .chain((0..4).flat_map(|i| (0..100).map(move |nonce| user(i).create(nonce))))
            .collect();
        let supply = |chain: &Chain| everybody.iter().map(|a| chain.balance(*a)).sum::<U256>();
        for things in &blocks {
            let mut due = Due::of(&chain);
            let items: Vec<_> = things.iter().map(|thing| {
                let item = due.item(thing);
                due.count(thing);
                item
            }).collect();
            let before = supply(&chain);
            let (producer, lost) = (chain.balance(PRODUCER), stray(&chain));
            let nonces: u64 = (0..4).map(|i| chain.fees(user(i)).nonce).sum();
            let entries_before: U256 = (0..8).map(|i| chain.fees(user(i)).balance).sum();
            let again = chain.execute_items(&items);
            let cold = chain.reopened(cascade_execution::CacheSizes { values: 2, nodes: 2, codes: 2 });
            prop_assert_eq!(&again, &cold.execute_items(&items));
            let block = chain.run_items(&items);
            prop_assert_eq!(&block, &again);
            prop_assert_eq!(block.receipts.len(), items.len());
            prop_assert_eq!(before, supply(&chain) + block.burned);
            prop_assert_eq!(chain.balance(PRODUCER), producer + block.tips);
            prop_assert!(stray(&chain) >= lost);
            let mut charged = 0;
            let mut gas = 0;
            let mut entries = entries_before;
            for (item, receipt) in items.iter().zip(&block.receipts) {
                gas += receipt.gas_used;
                prop_assert_eq!(receipt.cumulative_gas_used, gas);
                let fee = U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
                match item {
                    OpenedItem::Envelope { envelope, .. } => {
                        let taken = fee + withdrawn(receipt).unwrap_or_default();
                        prop_assert!(taken <= envelope.max_cost(), "no more than was reserved");
                        entries -= taken;
                    }
                    OpenedItem::Deposit(deposit) if receipt.outcome.is_success() => {
                        entries += deposit.transaction().value();
                    }
                    OpenedItem::Deposit(_) => {}
                }
                if let OpenedItem::Envelope { envelope, .. } = item {
                    if matches!(receipt.outcome, Outcome::NoOp(_)) {
                        prop_assert_eq!(receipt.gas_used, 0);
                    } else {
                        charged += 1;
                        let least = minimum_envelope_charge(envelope.gas_limit, envelope.bucket);
                        prop_assert!(receipt.gas_used >= least && receipt.gas_used <= envelope.gas_limit);
                        prop_assert!(receipt.gas_used >= receipt.evm_gas_used);
                    }
                }
            }
            prop_assert_eq!(block.result.gas_used, gas);
            prop_assert_eq!(entries, (0..8).map(|i| chain.fees(user(i)).balance).sum::<U256>());
            let now: u64 = (0..4).map(|i| chain.fees(user(i)).nonce).sum();
            prop_assert_eq!(now, nonces + charged);
        }
    }
}
