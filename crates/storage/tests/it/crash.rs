//! Crashes: the database's log cut anywhere, as after a loss of power.

use std::path::{Path, PathBuf};

use cascade_execution::{State, state::CacheSizes};
use cascade_primitives::Height;
use cascade_storage::{ChainDb, ChainDbOptions, StorageError};

use crate::{blocks::check_all, chain::six_blocks};

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn newest_log(dir: &Path) -> PathBuf {
    let logs = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap()
}

#[test]
fn a_log_cut_anywhere_leaves_whole_batches_that_fit_together_and_the_rest_can_follow() {
    let source = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = ChainDb::open(source.path(), ChainDbOptions::default()).unwrap();
    chain.write_from(&db, 0);
    // What the files are right now, without anything that closing the database would do.
    db.sync().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(source.path(), crashed.path());
    let length = std::fs::metadata(newest_log(crashed.path())).unwrap().len();
    let mut seen = std::collections::BTreeSet::new();
    for step in 0..=24 {
        let dir = tempfile::tempdir().unwrap();
        copy(crashed.path(), dir.path());
        let log = std::fs::OpenOptions::new().write(true).open(newest_log(dir.path())).unwrap();
        log.set_len(length * step / 24).unwrap();
        let db = ChainDb::open(dir.path(), ChainDbOptions::default()).unwrap();
        let heads = db.heads();
        seen.insert((heads.last_final.map(|(height, _)| height), heads.executed));
        db.init_genesis(&chain.genesis, &chain.genesis_changes).unwrap();
        db.append_final(&chain.blocks).unwrap();
        let executed = db.heads().executed.unwrap();
        assert!(heads.executed.is_none() || heads.executed == Some(executed));
        for block in &chain.executed[usize::try_from(executed.0).unwrap()..] {
            db.commit_executed(block).unwrap();
        }
        check_all(&db, &chain);
        let state = State::open(std::sync::Arc::new(db), CacheSizes::default()).unwrap();
        assert_eq!(state.at(Height(6)).unwrap().root().unwrap(), chain.executed[5].result.state_root);
    }
    assert!(seen.len() > 5, "the cuts left {seen:?}");
}

#[test]
fn damage_to_a_table_is_an_error_and_not_an_absence() {
    let dir = tempfile::tempdir().unwrap();
    let chain = six_blocks();
    let db = ChainDb::open(dir.path(), ChainDbOptions::default()).unwrap();
    chain.write_from(&db, 0);
    db.flush().unwrap();
    drop(db);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst" || extension == "blob") {
            let mut bytes = std::fs::read(&path).unwrap();
            let half = bytes.len() / 2;
            for byte in &mut bytes[..half] {
                *byte ^= 0x55;
            }
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let read = ChainDb::open(dir.path(), ChainDbOptions::default()).and_then(|db| db.block(Height(3)).map(|_| ()));
    assert!(matches!(read, Err(StorageError::Corrupt { .. })), "{read:?}");
}
