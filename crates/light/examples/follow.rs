//! A client that follows and samples a chain made in memory, across the end of an epoch, beside a peer that lies.
//!
//! It needs nothing but the library, so it runs wherever that builds. `./dev lint` builds it for wasm32 and lets node run
//! it; natively: `cargo run -p cascade-light --example follow`. It panics if anything is not as it should be.

#[path = "../tests/it/world.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod world;

use cascade_light::{Availability, Start};
use cascade_primitives::Height;
use world::{Kind, TestChain, World, noise};

fn main() {
    let mut chain = TestChain::new(4, 10, 500, true);
    for _ in 0..8 {
        chain.grow(None);
    }
    let start = Start::Checkpoint(chain.checkpoint(2));
    let mut world = World::new(chain, start, &[Kind::Liar, Kind::Honest, Kind::Honest, Kind::Honest]);
    world.run(1000);
    for seed in 0..6 {
        world.chain.grow(Some(&noise(8 * 8 * 512, seed)));
        world.run(500);
    }
    world.run(2000);
    for height in (9..15).map(Height) {
        let found = world.client.availability(height);
        let right = matches!(found, Some(Availability::Available { confidence }) if confidence >= 0.99);
        assert!(right, "block {height}: {found:?}");
    }
    assert_eq!(world.dropped.len(), 1, "{:?}", world.dropped);
    println!("head {}, {} samples", world.chain.tip().height, world.client.stats().samples);
}
