//! Committing a block of 500 transfers between accounts anywhere in a state of 100,000 and of 1,000,000 accounts on disk:
//! `update` computes the new pages of the tree and the roots, `store` writes them with the values to RocksDB.

use std::time::{Duration, Instant};

use cascade_benches::Chain;
use cascade_storage::{ChainDb, ChainDbOptions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const TRANSFERS: usize = 500;

fn state_tree(c: &mut Criterion) {
    let mut group = c.benchmark_group("state_tree");
    group.sample_size(20).throughput(Throughput::Elements(TRANSFERS as u64));
    for accounts in [100_000, 1_000_000] {
        let dir = tempfile::tempdir().expect("a directory for the database");
        let db = ChainDb::open(dir.path().join("db"), ChainDbOptions::default()).expect("an empty database");
        let mut chain = Chain::new(db, accounts);
        let mut commit = |update: &mut Duration, store: &mut Duration| {
            let transfers = chain.transfers(TRANSFERS);
            let parent = chain.view();
            let run = chain.run(&parent, &transfers);
            let started = Instant::now();
            let block = run.seal().expect("a database that works");
            *update += started.elapsed();
            let started = Instant::now();
            chain.commit(&block);
            *store += started.elapsed();
        };
        for (name, parts) in [("update", [true, false]), ("store", [false, true]), ("commit", [true, true])] {
            group.bench_function(format!("{name}, {accounts} accounts"), |b| {
                b.iter_custom(|blocks| {
                    let [mut update, mut store] = [Duration::ZERO; 2];
                    for _ in 0..blocks {
                        commit(&mut update, &mut store);
                    }
                    let take = |part: bool, time: Duration| if part { time } else { Duration::ZERO };
                    take(parts[0], update) + take(parts[1], store)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, state_tree);
criterion_main!(benches);
