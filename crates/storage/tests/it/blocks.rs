use cascade_execution::{NoOpReason, Outcome, Receipt, State, state::CacheSizes};
use cascade_primitives::{B256, Bytes, Encode, Height, Reveal, SealedBlock, keccak256};
use cascade_storage::{
    ChainDb, ChainDbOptions, FinalBlock, Finality, FoundLog, LogFilter, OpenedBlock, OpenedItem, StorageError,
    TransactionPlace,
};

use crate::chain::{Action, CONTRACT, TestChain, sender, six_blocks};

fn open(path: &std::path::Path) -> ChainDb {
    ChainDb::open(path, ChainDbOptions::default()).unwrap()
}

/// Everything that a chain says must be read back from the database.
pub fn check_all(db: &ChainDb, chain: &TestChain) {
    let tip = chain.blocks.last().map_or(&chain.genesis, |block| &block.block);
    assert_eq!(db.heads().last_final, Some((tip.header.height, tip.hash())));
    assert_eq!(db.block(Height(0)).unwrap().as_ref(), Some(&*chain.genesis));
    for (block, executed) in chain.blocks.iter().zip(&chain.executed) {
        let (height, hash) = (block.block.header.height, block.block.hash());
        assert_eq!(db.block(height).unwrap().as_ref(), Some(&*block.block));
        assert_eq!(db.block_by_hash(&hash).unwrap().as_ref(), Some(&*block.block));
        assert_eq!(db.header(height).unwrap(), Some((hash, block.block.header.clone())));
        assert_eq!(db.height_of(&hash).unwrap(), Some(height));
        assert_eq!(db.stored_block(height).unwrap().unwrap().bytes, block.block.to_bytes());
        assert_eq!(db.finality(height).unwrap(), block.finality);
        if db.heads().executed < Some(height) {
            assert_eq!(db.result(height).unwrap(), None);
            assert_eq!(db.receipts(height).unwrap(), None);
            continue;
        }
        assert_eq!(db.result(height).unwrap(), Some(executed.result));
        assert_eq!(db.executed(height).unwrap().unwrap().bloom, executed.bloom);
        assert_eq!(db.executed(height).unwrap().unwrap().tips, executed.tips);
        assert_eq!(db.receipts(height).unwrap().as_ref(), Some(&executed.receipts));
        for (index, hash) in (0..).zip(&block.transactions) {
            let place = TransactionPlace { height, index };
            assert_eq!(db.transaction_place(hash).unwrap(), Some(place));
            assert_eq!(db.receipt(place).unwrap().as_ref(), Some(&executed.receipts[index as usize]));
        }
        let beyond = TransactionPlace { height, index: u32::try_from(executed.receipts.len()).unwrap() };
        assert_eq!(db.receipt(beyond).unwrap(), None);
    }
    let above = tip.header.height.next();
    assert_eq!(db.block(above).unwrap(), None);
    assert_eq!(db.hash_at(above).unwrap(), None);
    assert_eq!(db.result(above).unwrap(), None);
}

#[test]
fn what_is_written_is_read_back_also_after_every_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = open(dir.path());
    assert!(db.init_genesis(&chain.genesis, &chain.genesis_changes).unwrap());
    assert!(!db.init_genesis(&chain.genesis, &chain.genesis_changes).unwrap());
    drop(db);
    for (n, (block, executed)) in chain.blocks.iter().zip(&chain.executed).enumerate() {
        let db = open(dir.path());
        db.append_final(std::slice::from_ref(block)).unwrap();
        drop(db);
        let db = open(dir.path());
        assert_eq!(db.heads().executed, Some(Height(n as u64)));
        db.commit_executed(executed).unwrap();
    }
    check_all(&open(dir.path()), &chain);
}

#[test]
fn an_item_that_did_nothing_takes_the_name_of_none_that_ran() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = open(dir.path());
    db.init_genesis(&chain.genesis, &chain.genesis_changes).unwrap();
    db.append_final(&chain.blocks).unwrap();
    let raw = Bytes::from_static(b"a transfer to the payer");
    let (envelope, transfer) = (B256::repeat_byte(1), keccak256(&raw));
    let item = |name| OpenedItem { name, payer: sender(0), transaction: raw.clone() };
    let no_op = Outcome::NoOp(NoOpReason::NonceTooLow);
    let place = |block: usize, items: &[(B256, Outcome)]| {
        let mut executed = chain.executed[block].clone();
        let receipt = chain.executed.iter().flat_map(|executed| &executed.receipts).next().expect("a receipt");
        executed.receipts = items.iter().map(|(_, outcome)| Receipt { outcome: *outcome, ..receipt.clone() }).collect();
        let items = items.iter().map(|(name, _)| item(*name)).collect();
        let reveal = Reveal { height: executed.result.height, beacon: [0; 48], values: Vec::new() };
        db.commit_opened(&executed, Some(&OpenedBlock { reveal, items })).unwrap();
        db.transaction_place(&transfer).unwrap().map(|place| (place.height.0, place.index))
    };
    // A deposit that did nothing is found as long as nothing else has its name.
    assert_eq!(place(0, &[(B256::ZERO, no_op), (transfer, no_op)]), Some((1, 1)));
    // The same transfer runs in an envelope; that of a deposit in its block, before or behind it, does not.
    assert_eq!(place(1, &[(transfer, no_op), (envelope, Outcome::Success), (transfer, no_op)]), Some((2, 1)));
    assert_eq!(place(2, &[(transfer, no_op)]), Some((2, 1)), "it stays where it ran");
    assert_eq!(place(3, &[(transfer, Outcome::Reverted)]), Some((4, 0)), "what ran, however it ended, is found");
    assert_eq!(db.transaction_place(&envelope).unwrap().map(|place| place.height), Some(Height(2)));
}

#[test]
fn the_state_has_the_roots_of_the_results() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = std::sync::Arc::new(open(dir.path()));
    chain.write_from(&db, 0);
    let state = State::open(db, CacheSizes::default()).unwrap();
    for executed in &chain.executed {
        let view = state.at(executed.result.height).unwrap();
        assert_eq!(view.root().unwrap(), executed.result.state_root);
    }
    assert_eq!(state.latest().unwrap().account(&sender(0)).unwrap().unwrap().nonce, 3);
    assert!(!state.latest().unwrap().code(&CONTRACT).unwrap().is_empty());
}

#[test]
fn the_order_of_writes_is_enforced() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = open(dir.path());
    let order = |result: Result<_, StorageError>| assert!(matches!(result, Err(StorageError::Order { .. })));
    order(db.append_final(&chain.blocks[..1]).map(|_| ()));
    db.init_genesis(&chain.genesis, &chain.genesis_changes).unwrap();
    order(db.append_final(&chain.blocks[1..2]).map(|_| ()));
    order(db.commit_executed(&chain.executed[0]));
    assert_eq!(db.append_final(&chain.blocks[..3]).unwrap(), 3);
    assert_eq!(db.append_final(&chain.blocks[..4]).unwrap(), 1);
    order(db.commit_executed(&chain.executed[1]));
    db.commit_executed(&chain.executed[0]).unwrap();
    order(db.commit_executed(&chain.executed[0]));
    // Another block at a height that is final.
    let mut other = (**chain.blocks[1].block).clone();
    other.header.timestamp.0 += 1;
    let block = std::sync::Arc::new(SealedBlock::new(other));
    let error = db.append_final(&[FinalBlock { block, finality: None, transactions: Vec::new() }]).unwrap_err();
    assert!(error.to_string().contains("is final"), "{error}");
    // Nothing of a batch with a bad block is kept.
    let mut blocks = chain.blocks[4..].to_vec();
    blocks.reverse();
    order(db.append_final(&blocks).map(|_| ()));
    assert_eq!(db.heads().last_final.unwrap().0, Height(4));
    let mut genesis = (**chain.genesis).clone();
    genesis.header.timestamp.0 += 1;
    let genesis = std::sync::Arc::new(SealedBlock::new(genesis));
    order(db.init_genesis(&genesis, &chain.genesis_changes).map(|_| ()));
}

#[test]
fn ranges_are_of_one_epoch_bounded_and_prove_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = open(dir.path());
    chain.write_from(&db, 0);
    let heights = |from, bytes, count| {
        let range = db.block_range(Height(from), bytes, count).unwrap()?;
        let last = range.blocks.last().unwrap();
        assert!(range.finality.certifies(&last.hash));
        Some(range.blocks.iter().map(|block| block.height.0).collect::<Vec<_>>())
    };
    assert_eq!(heights(1, usize::MAX, usize::MAX), Some(vec![1, 2, 3, 4]));
    assert_eq!(heights(1, 1, usize::MAX), Some(vec![1]));
    assert_eq!(heights(1, usize::MAX, 2), Some(vec![1]));
    assert_eq!(heights(1, usize::MAX, 3), Some(vec![1, 2, 3]));
    // Block 2 has no proof of its own.
    assert_eq!(heights(2, 1, 1), Some(vec![2, 3]));
    assert_eq!(heights(5, 1, 1), Some(vec![5, 6]));
    assert_eq!(heights(7, usize::MAX, 10), None);
    // Once it has one, it stands alone.
    let mut finality = chain.blocks[1].finality.clone().unwrap();
    finality.certificate.target.block = chain.blocks[1].block.hash();
    db.put_finality(Height(2), &finality).unwrap();
    assert_eq!(heights(2, 1, 1), Some(vec![2]));
    assert!(matches!(db.put_finality(Height(7), &finality), Err(StorageError::Order { .. })));
}

#[test]
fn a_proof_through_fillers_counts_as_the_block_s_own() {
    let chain = six_blocks();
    let Finality { certificate, .. } = chain.blocks[1].finality.clone().unwrap();
    let fillers = vec![chain.blocks[2].block.header.clone()];
    assert!(Finality { certificate, fillers }.certifies(&chain.blocks[1].block.hash()));
}

#[test]
fn logs_are_those_that_a_naive_search_finds() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = open(dir.path());
    chain.write_from(&db, 0);
    let topic = |n| B256::with_last_byte(n);
    let filters = [
        LogFilter::default(),
        LogFilter { addresses: vec![CONTRACT], ..LogFilter::default() },
        LogFilter { addresses: vec![sender(0)], ..LogFilter::default() },
        LogFilter { topics: [vec![topic(1), topic(3)], vec![], vec![], vec![]], ..LogFilter::default() },
        LogFilter { topics: [vec![], vec![topic(1)], vec![], vec![]], ..LogFilter::default() },
        LogFilter { topics: [vec![topic(99)], vec![], vec![], vec![]], ..LogFilter::default() },
    ];
    let mut total = 0;
    for filter in &filters {
        let mut expected = Vec::new();
        for (block, executed) in chain.blocks.iter().zip(&chain.executed) {
            let mut log_index = 0;
            for (transaction_index, receipt) in (0..).zip(&executed.receipts) {
                for log in &receipt.logs {
                    if filter.matches(log) {
                        expected.push(FoundLog {
                            height: executed.result.height,
                            block_hash: block.block.hash(),
                            transaction_hash: block.transactions[transaction_index as usize],
                            transaction_index,
                            log_index,
                            log: log.clone(),
                        });
                    }
                    log_index += 1;
                }
            }
        }
        let page = db.logs(Height(0)..=Height(100), filter, 1000).unwrap();
        assert_eq!((page.logs, page.next), (expected.clone(), None));
        total += expected.len();
        // In pages, nothing is lost or doubled.
        let (mut logs, mut from) = (Vec::new(), Some(Height(0)));
        while let Some(start) = from {
            let page = db.logs(start..=Height(100), filter, 1).unwrap();
            logs.extend(page.logs);
            from = page.next;
        }
        assert_eq!(logs, expected);
    }
    assert!(total > 10, "the filters found {total} logs");
}

#[test]
fn a_revert_of_execution_keeps_the_blocks_and_another_result_can_follow() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = open(dir.path());
    chain.write_from(&db, 0);
    db.revert_executed(Height(2)).unwrap();
    assert_eq!(db.heads().executed, Some(Height(2)));
    check_all(&db, &chain);
    for executed in &chain.executed[2..] {
        db.commit_executed(executed).unwrap();
    }
    check_all(&db, &chain);
}

#[test]
fn a_revert_of_blocks_leaves_the_chain_below_and_another_one_can_follow() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = six_blocks();
    let db = open(dir.path());
    chain.write_from(&db, 0);
    let gone: Vec<_> = chain.blocks[3..].iter().flat_map(|block| block.transactions.clone()).collect();
    db.revert_to(Height(3)).unwrap();
    chain.truncate(3);
    check_all(&db, &chain);
    assert!(!gone.is_empty());
    for hash in gone {
        assert_eq!(db.transaction_place(&hash).unwrap(), None);
    }
    assert_eq!(db.state_counts().unwrap(), chain.store.counts());
    chain.push(5, true, &[Action::Write(0, 7, 7), Action::Transfer(2, 9)]);
    chain.write_from(&db, 3);
    drop(db);
    check_all(&open(dir.path()), &chain);
}

#[test]
fn a_chain_without_execution_keeps_results_alone() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = open(dir.path());
    db.init_genesis(&chain.genesis, &chain.genesis_changes).unwrap();
    db.append_final(&chain.blocks).unwrap();
    for executed in &chain.executed {
        db.commit_result(&executed.result).unwrap();
    }
    assert_eq!(db.heads().executed, Some(Height(6)));
    assert_eq!(db.heads().state, Some((Height(0), Height(0))));
    assert_eq!(db.result(Height(4)).unwrap(), Some(chain.executed[3].result));
    assert!(matches!(db.commit_result(&chain.executed[5].result), Err(StorageError::Order { .. })));
    db.revert_executed(Height(1)).unwrap();
    assert_eq!(db.result(Height(2)).unwrap(), None);
}

#[test]
fn two_processes_cannot_open_one_database() {
    let dir = tempfile::tempdir().unwrap();
    let _db = open(dir.path());
    let error = ChainDb::open(dir.path(), ChainDbOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
}
