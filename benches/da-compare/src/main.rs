//! One core, one run: extension and commitment of bodies by Cascade, the codec `reed-solomon-simd` in the same layout, and
//! the extended data square with header roots of `celestia-types`. Each line is the least CPU time of several rounds;
//! the rounds of all contenders are interleaved, so that a busy machine is busy for all of them.

#[path = "../../../crates/da/tests/it/noise.rs"]
mod noise;

use std::{cell::RefCell, hint::black_box, time::Duration};

use cascade_da::{Axis, Extended, Repairer, Sample, Shape, Square, sampling};
use celestia_types::{DataAvailabilityHeader, ExtendedDataSquare};
use cpu_time::ThreadTime;
use noise::noise;

const ROUNDS: usize = 15;
/// Celestia's shares have this size, and these first bytes are their namespace.
const CELESTIA_SHARE: usize = 512;
const NAMESPACE: usize = 29;

/// The same square by `reed-solomon-simd`: rows, then columns.
fn extend_by_simd(shape: &Shape, data: &[u8]) -> Vec<Vec<u8>> {
    let (k, side, size) = (shape.width(), shape.side(), shape.share_size());
    let mut shares = vec![Vec::new(); side * side];
    let code = |line: Vec<&[u8]>| reed_solomon_simd::encode(k, k, line).expect("k shares of an even size");
    for row in 0..k {
        let at = |column: usize| {
            let start = ((row * k + column) * size).min(data.len());
            let mut share = data[start..(start + size).min(data.len())].to_vec();
            share.resize(size, 0);
            share
        };
        let line: Vec<Vec<u8>> = (0..k).map(at).collect();
        let parity = code(line.iter().map(Vec::as_slice).collect());
        for (column, share) in line.into_iter().chain(parity).enumerate() {
            shares[row * side + column] = share;
        }
    }
    for column in 0..side {
        let parity = code((0..k).map(|row| shares[row * side + column].as_slice()).collect());
        for (row, share) in parity.into_iter().enumerate() {
            shares[(k + row) * side + column] = share;
        }
    }
    shares
}

/// k x k shares of Celestia's form, all of one namespace.
fn celestia_shares(k: usize) -> Vec<Vec<u8>> {
    let body = noise(k * k * CELESTIA_SHARE, 1);
    let mut shares: Vec<Vec<u8>> = body.chunks_exact(CELESTIA_SHARE).map(<[u8]>::to_vec).collect();
    for share in &mut shares {
        share[..NAMESPACE].fill(0);
        share[NAMESPACE - 1] = 200;
        // Share version 0, not the start of a sequence.
        share[NAMESPACE] = 0;
    }
    shares
}

/// Repair with a quarter of the shares lost, and samples.
fn use_it(data: &[u8]) {
    let square = Square::new(data).expect("it fits");
    let (shape, header) = (*square.shape(), square.committed());
    let side = shape.side() as u16;
    let mut gone = vec![false; shape.shares()];
    for id in sampling::draw(&shape, shape.shares() / 4, [7; 32]) {
        gone[usize::from(id.row) * shape.side() + usize::from(id.column)] = true;
    }
    let places = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
    let shares: Vec<_> = places
        .filter(|&(row, column)| !gone[usize::from(row) * shape.side() + usize::from(column)])
        .map(|(row, column)| (row, column, square.share_proof(row, column, Axis::Row).expect("inside")))
        .collect();
    let (mut checked, mut repaired) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let mut repairer = Repairer::new(square.commitment().clone());
        let start = ThreadTime::now();
        for (row, column, proof) in &shares {
            repairer.insert(*row, *column, proof).expect("it is the square's");
        }
        checked = checked.min(start.elapsed());
        let start = ThreadTime::now();
        black_box(repairer.repair().expect("enough is known"));
        repaired = repaired.min(start.elapsed());
    }
    let samples: Vec<Sample> = sampling::draw(&shape, 64, [1; 32])
        .iter()
        .map(|id| square.sample(id.row, id.column, id.axis).expect("inside"))
        .collect();
    let times = least(&[("samples", &|| {
        let holds = samples.iter().all(|sample| sample.verify(&header).is_ok());
        assert!(black_box(holds), "they are the square's");
    })]);
    println!("  a quarter lost: check what is left {:.1} ms, repair {:.1} ms", ms(checked), ms(repaired));
    println!("  samples: {:.1} us to verify one, {:.0} a second", ms(times[0].1) * 1e3 / 64.0, 64e3 / ms(times[0].1));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Shows the least time of each contender.
fn report(what: &str, bytes: usize, times: &[(&str, Duration)]) {
    println!("{what}, {} KiB", bytes >> 10);
    for (name, time) in times {
        let rate = bytes as f64 / time.as_secs_f64() / 1e6;
        println!("  {name:<42} {:>9.3} ms {rate:>8.0} MB/s", ms(*time));
    }
}

fn least(contenders: &[(&'static str, &dyn Fn())]) -> Vec<(&'static str, Duration)> {
    let mut best: Vec<_> = contenders.iter().map(|(name, _)| (*name, Duration::MAX)).collect();
    for _ in 0..ROUNDS {
        for ((_, run), (_, best)) in contenders.iter().zip(&mut best) {
            let start = ThreadTime::now();
            run();
            *best = (*best).min(start.elapsed());
        }
    }
    best
}

fn main() {
    for size in [128 << 10, 1 << 20, 8 << 20] {
        let data = noise(size, 1);
        let shape = Shape::of_size(size).expect("it fits");
        let extended = Extended::new(&data).expect("it fits");
        let memory = RefCell::new(Vec::new());
        let times = least(&[
            ("cascade: extend (reed-solomon-erasure)", &|| drop(black_box(Extended::new(&data)))),
            ("the same layout by reed-solomon-simd", &|| drop(black_box(extend_by_simd(&shape, &data)))),
            ("cascade: commit, with a copy of the shares", &|| drop(black_box(extended.clone().commit(&data)))),
            ("cascade: extend and commit", &|| drop(black_box(Square::new(&data)))),
            ("cascade: extend, memory used again", &|| {
                let extended = Extended::reusing(&data, memory.take()).expect("it fits");
                memory.replace(extended.into_buffer());
            }),
            ("cascade: extend and commit, memory used again", &|| {
                let square = Extended::reusing(&data, memory.take()).expect("it fits").commit(&data);
                memory.replace(square.into_buffer().expect("nothing refers to it"));
            }),
        ]);
        report(&format!("k = {}, shares of {} bytes", shape.width(), shape.share_size()), size, &times);
        use_it(&data);
    }
    for k in [16, 32, 64] {
        let size = k * k * CELESTIA_SHARE;
        let (data, shares) = (noise(size, 1), celestia_shares(k));
        let eds = || ExtendedDataSquare::from_ods(shares.clone()).expect("its form is right");
        let square = eds();
        let times = least(&[
            ("cascade: extend and commit", &|| drop(black_box(Square::new(&data)))),
            ("celestia-types: extended data square", &|| drop(black_box(eds()))),
            ("celestia-types: header roots", &|| drop(black_box(DataAvailabilityHeader::from_eds(&square)))),
        ]);
        report(&format!("k = {k}, shares of 512 bytes"), size, &times);
    }
}
