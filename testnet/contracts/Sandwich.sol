// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.0;

interface Pool {
    function fee() external view returns (uint256);
    function coins() external view returns (uint256);
    function tokens() external view returns (uint256);
    function buy(uint256 least) external payable returns (uint256 got);
    function sell(uint256 paid, uint256 least) external returns (uint256 got);
}

/// What an attacker trades with on an Exchange: it holds coins and tokens, knows what a token is worth, and can look at
/// the pool before it acts, wherever in a block it comes to run.
contract Sandwich {
    address public immutable owner;
    Pool public immutable pool;
    /// What a token is worth: so many coins for so many tokens.
    uint256 public immutable worthCoins;
    uint256 public immutable worthTokens;

    struct Lurking {
        uint64 number;
        uint64 entered;
        uint128 coins;
    }

    /// The block in which it lurks, how often it has entered there, and how it left the pool.
    Lurking private lurking;

    constructor(Pool pool_, uint256 worthCoins_, uint256 worthTokens_) payable {
        owner = msg.sender;
        pool = pool_;
        worthCoins = worthCoins_;
        worthTokens = worthTokens_;
    }

    receive() external payable {}

    /// Trades ahead of somebody: pays coins (or tokens), whatever the price.
    function enter(bool buying, uint256 paid) public {
        require(msg.sender == owner, "Sandwich: not the owner");
        if (paid == 0) {
            return;
        }
        if (buying) {
            pool.buy{value: paid}(0);
        } else {
            pool.sell(paid, 0);
        }
    }

    /// Brings the pool's price back to what a token is worth, as far as that gains: ends a sandwich, and takes whatever
    /// others left to gain.
    function close() public {
        require(msg.sender == owner, "Sandwich: not the owner");
        (uint256 coins, uint256 tokens, uint256 kept) = (pool.coins(), pool.tokens(), 1_000_000 - pool.fee());
        uint256 product = kept * 1_000_000 * coins * tokens;
        gain(true, root(product / worthTokens * worthCoins), coins * 1_000_000, kept);
        gain(false, root(product / worthCoins * worthTokens), tokens * 1_000_000, kept);
    }

    /// One of many that are strewn over a block in the hope that one comes to run before a victim and one after: enters
    /// if nobody has traded since the pool was in order, closes (and enters again) if somebody has.
    function lurk(bool buying, uint256 paid, uint256 entries) external {
        Lurking memory seen = lurking;
        if (seen.number == block.number && seen.coins == pool.coins()) {
            return;
        }
        close();
        uint64 entered = seen.number == block.number ? seen.entered : 0;
        if (entered < entries) {
            enter(buying, paid);
            entered += 1;
        }
        lurking = Lurking(uint64(block.number), entered, uint128(pool.coins()));
    }

    function gain(bool buying, uint256 target, uint256 reserve, uint256 kept) private {
        // Not for the dust that rounding leaves.
        if (target > reserve + reserve / 1_000_000_000) {
            enter(buying, (target - reserve) / kept);
        }
    }

    /// The square root, rounded down.
    function root(uint256 square) private pure returns (uint256 found) {
        if (square == 0) {
            return 0;
        }
        found = 1 << ((bits(square) + 1) / 2);
        while (true) {
            uint256 next = (found + square / found) / 2;
            if (next >= found) {
                return found;
            }
            found = next;
        }
    }

    function bits(uint256 value) private pure returns (uint256 count) {
        while (value > 0) {
            value >>= 16;
            count += 16;
        }
    }
}
