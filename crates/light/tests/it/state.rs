//! What is proved against roots that the chain carries.

use cascade_light::{Start, StateError, StateEvidence};
use cascade_primitives::{B256, Height, merkle};

use super::world::{Kind, TestChain, World, leaves};

/// A toy state: five leaves of a Merkle tree.
struct Leaf {
    leaf: B256,
    index: usize,
    path: Vec<B256>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path leads elsewhere")]
struct Elsewhere;

impl StateEvidence for Leaf {
    type Value = B256;
    type Error = Elsewhere;

    fn verify(&self, root: &B256) -> Result<B256, Elsewhere> {
        merkle::verify(root, &self.leaf, self.index, 5, &self.path).then_some(self.leaf).ok_or(Elsewhere)
    }
}

fn world() -> World {
    let mut chain = TestChain::new(4, 30, 500, false);
    for _ in 0..10 {
        chain.grow(None);
    }
    let start = Start::Checkpoint(chain.checkpoint(5));
    let mut world = World::new(chain, start, &[Kind::Honest]);
    world.run(1000);
    for _ in 0..5 {
        world.chain.grow(None);
        world.run(500);
    }
    world
}

#[test]
fn values_are_proved_against_the_root_of_their_own_block() {
    let world = world();
    let proof = |height| Leaf { leaf: leaves(height)[2], index: 2, path: merkle::proof(&leaves(height), 2) };
    assert_eq!(world.client.verify_state(Height(11), &proof(11)), Ok(leaves(11)[2]));
    let refused = world.client.verify_state(Height(12), &proof(11));
    assert_eq!(refused, Err(StateError::Proof { height: Height(12), error: Elsewhere }));
    let unknown = world.client.verify_state(Height(13), &proof(13));
    assert_eq!(unknown, Err(StateError::Unknown { height: Height(13), newest: Some(Height(12)) }));

    let receipt = |height, index| {
        let path = merkle::proof(&leaves(11), 4);
        world.client.verify_receipt(Height(height), &leaves(11)[4], (index, 5), &path).is_ok()
    };
    assert!(receipt(11, 4) && !receipt(11, 3) && !receipt(12, 4));
}

#[test]
fn old_headers_are_proved_by_the_history() {
    let world = world();
    let hashes = &world.chain.hashes;
    let tip = world.client.chain().unwrap().tip().height;
    let mut range = merkle::MountainRange::default();
    for hash in &hashes[..tip.0 as usize] {
        range.push(*hash);
    }
    let prove =
        |index| range.prove(index, |first, level| merkle::subtree_root(first, level, &mut |i| hashes[i as usize]));
    let header = &world.chain.headers[&Height(3)];
    assert_eq!(world.client.verify_header(header, &prove(3).unwrap()), Ok(()));
    assert!(world.client.verify_header(header, &prove(4).unwrap()).is_err());
    let mut forged = header.clone();
    forged.results[0].state_root = B256::repeat_byte(1);
    assert!(world.client.verify_header(&forged, &prove(3).unwrap()).is_err());
}
