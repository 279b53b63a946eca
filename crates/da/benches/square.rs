//! Extension, commitment, repair and verification of squares.
//!
//! `cargo bench -p cascade-da` runs them on one core.

#[path = "../tests/it/noise.rs"]
mod noise;

use cascade_da::{Axis, Extended, Repairer, Square, sampling};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use noise::noise;

const SIZES: [(&str, usize); 3] = [("128 KiB", 128 << 10), ("1 MiB", 1 << 20), ("8 MiB", 8 << 20)];

fn encode(c: &mut Criterion) {
    for (name, size) in SIZES {
        let data = noise(size, 1);
        let mut group = c.benchmark_group(format!("square {name}"));
        group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
        group.bench_function("extend (Reed-Solomon)", |b| b.iter(|| Extended::new(&data).expect("it fits")));
        let extended = Extended::new(&data).expect("it fits");
        group.bench_function("commit (hashes)", |b| {
            b.iter_batched(|| extended.clone(), |extended| extended.commit(&data), BatchSize::LargeInput);
        });
        group.bench_function("extend and commit", |b| b.iter(|| Square::new(&data).expect("it fits")));
        let mut buffer = Vec::new();
        group.bench_function("extend and commit, memory used again", |b| {
            b.iter(|| {
                let extended = Extended::reusing(&data, std::mem::take(&mut buffer)).expect("it fits");
                buffer = extended.commit(&data).into_buffer().expect("nothing refers to it");
            });
        });
    }
}

fn repair(c: &mut Criterion) {
    for (name, size) in SIZES {
        let square = Square::new(&noise(size, 1)).expect("it fits");
        let shape = *square.shape();
        let mut gone = vec![false; shape.shares()];
        for id in sampling::draw(&shape, shape.shares() / 4, [7; 32]) {
            gone[usize::from(id.row) * shape.side() + usize::from(id.column)] = true;
        }
        let side = shape.side() as u16;
        let places = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
        let shares: Vec<_> = places
            .filter(|&(row, column)| !gone[usize::from(row) * shape.side() + usize::from(column)])
            .map(|(row, column)| (row, column, square.share_proof(row, column, Axis::Row).expect("inside")))
            .collect();
        let filled = || {
            let mut repairer = Repairer::new(square.commitment().clone());
            for (row, column, proof) in &shares {
                repairer.insert(*row, *column, proof).expect("it is the square's");
            }
            repairer
        };
        let mut group = c.benchmark_group(format!("repair {name}, 25% lost"));
        group.throughput(Throughput::Bytes(size as u64)).sample_size(10);
        group.bench_function("take and check the shares", |b| b.iter(filled));
        group.bench_function("decode", |b| {
            b.iter_batched(filled, |mut repairer| repairer.repair().expect("it is repaired"), BatchSize::LargeInput);
        });
    }
}

fn samples(c: &mut Criterion) {
    for (name, size) in SIZES {
        let square = Square::new(&noise(size, 1)).expect("it fits");
        let header = square.committed();
        let samples: Vec<_> = sampling::draw(square.shape(), 64, [1; 32])
            .iter()
            .map(|id| square.sample(id.row, id.column, id.axis).expect("inside"))
            .collect();
        let mut group = c.benchmark_group(format!("samples of {name}"));
        group.throughput(Throughput::Elements(64));
        group.bench_function("verify 64", |b| {
            b.iter(|| samples.iter().all(|sample| sample.verify(&header).is_ok()));
        });
        group.bench_function("answer 64", |b| {
            b.iter(|| samples.iter().filter_map(|s| square.sample(s.row, s.column, s.proof.axis)).count());
        });
    }
}

criterion_group!(benches, encode, repair, samples);
criterion_main!(benches);
