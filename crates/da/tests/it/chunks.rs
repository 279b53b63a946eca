//! Blocks in coded chunks.

use cascade_da::dispersal::{Assembler, Chunk, DispersalError, Plan, disperse};
use cascade_primitives::{Decode, Encode, merkle};
use proptest::prelude::*;
use reed_solomon_erasure::galois_8::ReedSolomon;

use super::noise;

fn assembler(chunks: &[Chunk], seats: usize) -> Assembler {
    Assembler::new(chunks[0].root, chunks[0].size as usize, seats).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_f_plus_1_chunks_give_the_block(seats in 1usize..70, len in 1usize..20_000, seed: u64) {
        let block = noise(len, seed);
        let chunks = disperse(&block, seats).unwrap();
        prop_assert_eq!(chunks.len(), seats);
        let needed = (seats - 1) / 3 + 1;
        let mut order: Vec<usize> = (0..seats).collect();
        order.sort_by_key(|i| (seed ^ *i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut assembler = assembler(&chunks, seats);
        for (count, &i) in order.iter().take(needed).enumerate() {
            prop_assert_eq!(assembler.rebuild(), Err(DispersalError::Missing { found: count, needed }));
            let sent = Chunk::from_slice(&chunks[i].to_bytes()).unwrap();
            prop_assert_eq!(chunks[i].to_bytes().len(), chunks[i].message_bytes());
            prop_assert!(chunks[i].message_bytes() <= Plan::new(seats, len).unwrap().message_bytes());
            prop_assert_eq!(assembler.insert(&sent), Ok(count + 1 == needed));
            prop_assert_eq!(assembler.insert(&sent), Ok(count + 1 == needed), "twice is as good as once");
        }
        prop_assert_eq!(assembler.rebuild(), Ok(block));
    }

    #[test]
    fn a_chunk_that_is_changed_is_refused_by_name(what in 0usize..7, seed: u64) {
        let chunks = disperse(&noise(1000, seed), 7).unwrap();
        let mut assembler = assembler(&chunks, 7);
        let mut chunk = chunks[3].clone();
        match what {
            0 => chunk.index = 2,
            1 => chunk.index = 7,
            2 => chunk.size += 1,
            3 => chunk.root.0[0] ^= 1,
            4 => { let mut bytes = chunk.bytes.to_vec(); bytes[0] ^= 1; chunk.bytes = bytes.into(); }
            5 => { chunk.path.pop(); }
            _ => chunk.path[0].0[0] ^= 1,
        }
        prop_assert_eq!(assembler.insert(&chunk), Err(DispersalError::Chunk(chunk.index)));
        prop_assert_eq!(assembler.found(), 0);
    }
}

/// The root that `disperse` would give chunks that are no code.
fn root_over(shards: &[Vec<u8>], size: u32) -> cascade_primitives::B256 {
    let leaves: Vec<_> = shards.iter().map(|s| merkle::leaf(s)).collect();
    let mut bytes = size.to_bytes();
    (shards.len() as u16).encode(&mut bytes);
    merkle::root(&leaves).encode(&mut bytes);
    cascade_primitives::hash::tagged(cascade_primitives::domain::DA_CHUNKS, &[&bytes])
}

#[test]
fn chunks_that_are_no_code_are_found_whichever_one_holds() {
    // 7 seats, 3 chunks needed; the leader changes chunk 5 after coding and signs the root over that.
    let mut shards: Vec<Vec<u8>> = (0..7).map(|i| if i < 3 { noise(100, i) } else { vec![0; 100] }).collect();
    ReedSolomon::new(3, 4).unwrap().encode(&mut shards).unwrap();
    let honest = root_over(&shards, 300);
    assert_eq!(disperse(&shards[..3].concat(), 7).unwrap()[0].root, honest);
    shards[5][7] ^= 1;
    let root = root_over(&shards, 300);
    let leaves: Vec<_> = shards.iter().map(|s| merkle::leaf(s)).collect();
    for held in [[0, 1, 2], [0, 1, 5], [3, 4, 6], [4, 5, 6]] {
        let mut assembler = Assembler::new(root, 300, 7).unwrap();
        for i in held {
            let chunk = Chunk {
                root,
                size: 300,
                chunks: 7,
                index: i as u16,
                bytes: shards[i].clone().into(),
                path: merkle::proof(&leaves, i),
            };
            assembler.insert(&chunk).unwrap();
        }
        assert_eq!(assembler.rebuild(), Err(DispersalError::BadCode(root)), "{held:?}");
    }
}

#[test]
fn the_leader_sends_less_than_by_broadcast_and_limits_are_named() {
    for (seats, least) in [(4, 1.9), (16, 5.9), (64, 21.0)] {
        let costs = Plan::new(seats, 1 << 20).unwrap().costs();
        let gain = costs.plain_leader as f64 / costs.coded_leader as f64;
        assert!(gain >= least, "{seats} seats: {gain}");
        assert!(costs.coded_member_receives < 4 << 20);
    }
    assert_eq!(disperse(&[], 4).err(), Some(DispersalError::Size(0)));
    assert_eq!(disperse(&[1], 0).err(), Some(DispersalError::Seats(0)));
    assert_eq!(disperse(&[1], 257).err(), Some(DispersalError::Seats(257)));
    assert!(disperse(&[1], 256).is_ok());
}
