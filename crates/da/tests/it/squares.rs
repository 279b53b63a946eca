//! Proofs, repair and bad encodings.

use cascade_da::{
    Axis, BadEncoding, BadLine, CommitmentError, Committed, FraudError, Line, RepairError, Repairer, Shape, Square,
    sampling,
};
use cascade_primitives::{B256, Decode as _, Encode as _, block::body_root};
use proptest::prelude::*;

use super::{body, noise, repairer};

/// A square with shares changed after encoding, committed to as it is.
fn tampered(square: &Square, changes: &[(u16, u16)]) -> Square {
    let mut shares = square.shares().to_vec();
    let (side, size) = (square.shape().side(), square.shape().share_size());
    for &(row, column) in changes {
        shares[(usize::from(row) * side + usize::from(column)) * size] ^= 1;
    }
    Square::commit_unchecked(*square.shape(), shares, square.commitment().body_root())
}

fn convicted(mut repairer: Repairer) -> BadEncoding {
    match repairer.repair() {
        Err(RepairError::BadEncoding(proof)) => *proof,
        other => panic!("a bad square was not convicted: {:?}", other.map(|_| ())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_share_and_line_leads_to_the_header(len in 0usize..20_000, seed: u64) {
        let data = noise(len, seed);
        let square = Square::new(&data).unwrap();
        let header = square.committed();
        prop_assert_eq!(square.data(), data);
        let side = square.shape().side() as u16;
        for row in 0..side {
            for column in 0..side {
                for axis in [Axis::Row, Axis::Column] {
                    prop_assert_eq!(square.sample(row, column, axis).unwrap().verify(&header), Ok(()));
                }
            }
            for line in [Line::row(row), Line::column(row)] {
                let whole = square.line(line).unwrap().verify(&header).unwrap();
                prop_assert_eq!(whole.len(), usize::from(side) * square.shape().share_size());
            }
        }
        prop_assert!(square.sample(side, 0, Axis::Row).is_none() && square.line(Line::row(side)).is_none());
    }

    #[test]
    fn memory_that_is_used_again_leaves_no_trace(first in 0usize..20_000, second in 0usize..20_000, seed: u64) {
        let buffer = Square::new(&noise(first, seed)).unwrap().into_buffer().unwrap();
        let data = noise(second, seed ^ 1);
        let square = cascade_da::Extended::reusing(&data, buffer).unwrap().commit(&data);
        prop_assert_eq!(&square, &Square::new(&data).unwrap());
        let share = square.share(0, 0);
        prop_assert!(square.into_buffer().is_none(), "the share still refers to it");
        drop(share);
    }

    #[test]
    fn a_sample_that_differs_anywhere_is_refused(seed: u64, what in 0usize..9, row in 0u16..8, column in 0u16..8, axis: bool) {
        let square = Square::new(&body(4, seed)).unwrap();
        let header = square.committed();
        let axis = if axis { Axis::Row } else { Axis::Column };
        let mut sample = square.sample(row, column, axis).unwrap();
        let mut other: Committed = header;
        match what {
            0 => sample.row ^= 1,
            1 => sample.column ^= 1,
            2 => sample.proof.axis = sample.proof.axis.other(),
            3 => sample.proof.path[0].0[0] ^= 1,
            4 => { let mut share = sample.proof.share.to_vec(); share[511] ^= 1; sample.proof.share = share.into(); }
            5 => sample.root.root.0[3] ^= 1,
            6 => other.body_root.0[3] ^= 1,
            7 => { sample.root.path.pop(); }
            _ => other.da.data_size += 1,
        }
        prop_assert!(sample.verify(&other).is_err());
    }

    #[test]
    fn repair_gives_the_square_back_from_any_three_quarters_and_more(seed: u64, len in 1usize..40_000, lost in 0usize..100) {
        // Fewer than (k+1)^2 missing shares can always be repaired, wherever they are.
        let data = noise(len, seed);
        let square = Square::new(&data).unwrap();
        let most = sampling::withheld(square.shape()) - 1;
        let gone = sampling::draw(square.shape(), lost * (most + 1) / 100, noise(32, seed).try_into().unwrap());
        let gone: std::collections::BTreeSet<_> = gone.iter().map(|s| (s.row, s.column)).collect();
        let mut repairer = repairer(&square, |row, column| !gone.contains(&(row, column)));
        let repaired = repairer.repair();
        prop_assert_eq!(repaired.as_ref(), Ok(&square));
    }

    #[test]
    fn a_wrong_share_anywhere_is_convicted_from_the_header_alone(
        seed: u64, width in 1u32..4, at: (prop::sample::Index, prop::sample::Index), keep in 0u8..3,
    ) {
        let honest = Square::new(&body(1 << width, seed)).unwrap();
        let side = honest.shape().side();
        let (row, column) = (at.0.index(side) as u16, at.1.index(side) as u16);
        let square = tampered(&honest, &[(row, column)]);
        // All shares; all but one quarter without the wrong one; a random three quarters or more.
        let half = side as u16 / 2;
        let proof = convicted(repairer(&square, |r, c| match keep {
            0 => true,
            1 => !(r / half == 1 - row / half && c / half == 1 - column / half),
            _ => (r * 7 + c * 3) % 5 != 0 || (r, c) == (row, column) || side < 8,
        }));
        prop_assert_eq!(proof.verify(&square.committed()), Ok(()));
        prop_assert_eq!(&BadEncoding::from_slice(&proof.to_bytes()).unwrap(), &proof);
        prop_assert_eq!(proof.encoded_len(), proof.to_bytes().len());
        // It convicts nobody else, and not when a bit of it is changed.
        prop_assert!(proof.verify(&honest.committed()).is_err());
        let BadEncoding::Line(mut line) = proof else { panic!("a line is wrong: {proof}") };
        line.shares[0].proof.path[0].0[0] ^= 1;
        let forged = BadEncoding::Line(line);
        prop_assert!(forged.verify(&square.committed()).is_err());
    }
}

#[test]
fn a_corner_of_k_plus_1_squared_is_lost_and_with_one_share_back_it_is_not() {
    for width in [1u16, 2, 16, 64] {
        let square = Square::new(&body(width.into(), 3)).unwrap();
        let (side, corner) = (2 * width, width + 1);
        let mut repairer = repairer(&square, |row, column| row >= corner || column >= corner);
        match repairer.repair() {
            Err(RepairError::Missing(missing)) => {
                assert_eq!(missing.shares, sampling::withheld(square.shape()));
                assert_eq!(missing.rows, (0..corner).collect::<Vec<_>>());
                assert_eq!(missing.columns, (0..corner).collect::<Vec<_>>());
            }
            other => panic!("width {width}: {:?}", other.map(|_| ())),
        }
        assert!(side >= corner);
        repairer.insert(0, 0, &square.share_proof(0, 0, Axis::Row).unwrap()).unwrap();
        assert_eq!(repairer.repair().as_ref(), Ok(&square), "width {width}");
    }
}

#[test]
fn lines_repair_as_well_as_shares() {
    let square = Square::new(&body(8, 1)).unwrap();
    let mut repairer = repairer(&square, |_, _| false);
    for row in 4..11 {
        repairer.insert_line(&square.line(Line::row(row)).unwrap()).unwrap();
    }
    assert!(matches!(repairer.repair(), Err(RepairError::Missing(_))));
    repairer.insert_line(&square.line(Line::row(15)).unwrap()).unwrap();
    assert_eq!(repairer.repair().as_ref(), Ok(&square));
}

#[test]
fn shares_that_the_header_does_not_contain_are_refused_by_name() {
    let (square, other) = (Square::new(&body(4, 1)).unwrap(), Square::new(&body(4, 2)).unwrap());
    let mut repairer = repairer(&square, |_, _| false);
    let wrong = other.share_proof(0, 0, Axis::Row).unwrap();
    assert!(matches!(repairer.insert(0, 0, &wrong), Err(CommitmentError::Root { .. })));
    let right = square.share_proof(0, 0, Axis::Row).unwrap();
    assert!(matches!(repairer.insert(0, 1, &right), Err(CommitmentError::Root { .. })));
    assert!(matches!(repairer.insert(8, 0, &right), Err(CommitmentError::Outside { index: 8, .. })));
    assert_eq!(repairer.insert(0, 0, &right), Ok(true));
    assert_eq!(repairer.insert(0, 0, &right), Ok(false));
    assert!(repairer.insert_line(&other.line(Line::row(0)).unwrap()).is_err());
}

#[test]
fn rows_and_columns_that_disagree_are_convicted() {
    // The leader commits to row roots of one body and column roots of another.
    let (a, b) = (Square::new(&body(4, 1)).unwrap(), Square::new(&body(4, 2)).unwrap());
    let side = a.shape().side();
    let roots: Vec<B256> =
        a.commitment().roots()[..side].iter().chain(&b.commitment().roots()[side..]).copied().collect();
    // A commitment of that kind cannot be made by `Square`, so its root is found by trial.
    let mut header = a.committed();
    let Err(CommitmentError::Root { found, .. }) = Repairer::open(&header, roots.clone()) else {
        panic!("these are not the roots of a")
    };
    header.da.root = found;
    let mut repairer = Repairer::open(&header, roots.clone()).unwrap();
    for row in 0..4 {
        for column in 0..4 {
            repairer.insert(row, column, &a.share_proof(row, column, Axis::Row).unwrap()).unwrap();
        }
    }
    assert_eq!(convicted(repairer).verify(&header), Ok(()), "columns decode to something else than their roots");

    let mut repairer = Repairer::open(&header, roots).unwrap();
    for column in 0..3 {
        repairer.insert(0, column, &a.share_proof(0, column, Axis::Row).unwrap()).unwrap();
    }
    assert!(matches!(repairer.repair(), Err(RepairError::Missing(_))));
    assert_eq!(repairer.insert(0, 0, &b.share_proof(0, 0, Axis::Column).unwrap()), Ok(false));
    assert!(matches!(repairer.repair(), Err(RepairError::Missing(_))), "two shares that disagree do not convict alone");
    repairer.insert(0, 3, &a.share_proof(0, 3, Axis::Row).unwrap()).unwrap();
    assert_eq!(convicted(repairer).verify(&header), Ok(()));
}

#[test]
fn an_honest_square_cannot_be_accused() {
    let square = Square::new(&body(4, 5)).unwrap();
    let header = square.committed();
    for axis in [Axis::Row, Axis::Column] {
        for first in 0..4 {
            let shares = (first..first + 4)
                .map(|place| cascade_da::fraud::Witness { place, proof: square.share_proof(2, place, axis).unwrap() });
            let mut proof =
                BadLine { line: Line::row(2), roots: square.commitment().roots().to_vec(), shares: shares.collect() };
            let verify = |proof: &BadLine| BadEncoding::Line(proof.clone()).verify(&header);
            assert_eq!(verify(&proof), Err(FraudError::Honest(Line::row(2))));
            proof.shares[1] = proof.shares[0].clone();
            assert_eq!(verify(&proof), Err(FraudError::Order(first)));
            proof.shares.pop();
            assert!(matches!(verify(&proof), Err(FraudError::Commitment(CommitmentError::Count { .. }))));
        }
    }
    let data = square.data();
    assert_eq!(BadEncoding::Body(data.clone().into()).verify(&header), Err(FraudError::HonestBody));
    for data in [noise(data.len(), 6), data[1..].to_vec()] {
        let refused = BadEncoding::Body(data.into()).verify(&header);
        assert!(matches!(refused, Err(FraudError::Commitment(_))), "{refused:?}");
    }
}

/// A quorum that certifies a body and the square of something else: samples of it hold, and whoever repairs it convicts.
#[test]
fn a_well_encoded_square_of_something_else_is_convicted() {
    for (size, seed) in [(1000, 1), (9000, 2), (300_000, 3)] {
        let data = noise(size, seed);
        let shape = Shape::of_size(size).unwrap();
        // Another content, and the right one with something behind it.
        let mut padded = data.clone();
        padded.resize(shape.width() * shape.width() * shape.share_size(), 0);
        let other = Square::new(&noise(size, seed + 9)).unwrap().shares().to_vec();
        let mut lies = vec![other];
        if padded.len() > size {
            *padded.last_mut().unwrap() = 1;
            // Encoded as data of its whole length, it has the same shape.
            let longer = Square::new(&padded).unwrap();
            assert_eq!((longer.shape().width(), longer.shape().share_size()), (shape.width(), shape.share_size()));
            lies.push(longer.shares().to_vec());
        }
        assert!(size == 9000 || lies.len() == 2, "{size} bytes have padding");
        for shares in lies {
            let lying = Square::commit_unchecked(shape, shares, body_root(&data));
            let header = lying.committed();
            assert_eq!(lying.sample(1, 0, Axis::Column).unwrap().verify(&header), Ok(()));
            let corner = shape.width() as u16;
            let proof = convicted(repairer(&lying, |row, column| row < corner && column < corner));
            assert!(matches!(proof, BadEncoding::Body(_)), "{proof}");
            assert_eq!(proof.verify(&header), Ok(()));
            assert_eq!(
                (BadEncoding::from_slice(&proof.to_bytes()).as_ref(), proof.encoded_len()),
                (Ok(&proof), proof.to_bytes().len())
            );
            assert!(proof.verify(&Square::new(&data).unwrap().committed()).is_err());
        }
    }
}

/// The body root is the header's: what is proved under one proves nothing under another.
#[test]
fn a_square_proves_nothing_to_a_header_with_another_body_root() {
    let square = Square::new(&body(4, 1)).unwrap();
    let header = Committed { body_root: B256::ZERO, ..square.committed() };
    let roots = square.commitment().roots().to_vec();
    assert!(matches!(Repairer::open(&header, roots), Err(CommitmentError::Root { .. })));
    assert!(square.sample(0, 0, Axis::Row).unwrap().verify(&header).is_err());
    assert!(square.line(Line::row(0)).unwrap().verify(&header).is_err());
}

#[test]
fn a_bad_encoding_proof_of_the_largest_body_is_small() {
    let honest = Square::new(&noise(8 << 20, 1)).unwrap();
    let square = tampered(&honest, &[(3, 100)]);
    let mut repairer = repairer(&square, |row, _| row == 3);
    let Err(RepairError::BadEncoding(proof)) = repairer.repair() else { panic!("row 3 is no codeword") };
    assert_eq!(proof.verify(&square.committed()), Ok(()));
    let bytes = proof.to_bytes().len();
    assert!(bytes < 160_000, "{bytes} bytes");
}
