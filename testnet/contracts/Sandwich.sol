// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.0;

interface Pool {
    function fee() external view returns (uint256);
    function coins() external view returns (uint256);
    function tokens() external view returns (uint256);
    function buy(uint256 least) external payable returns (uint256 got);
    function sell(uint256 paid, uint256 least) external returns (uint256 got);
}

/// What an attacker trades with on an Exchange: it holds coins and tokens, and can look at the pool before it acts, wherever
/// in a block it comes to run. It knows what a token is worth and brings the price back to that, or else it only undoes
/// what it did itself.
contract Sandwich {
    address public immutable owner;
    Pool public immutable pool;
    /// What a token is worth: so many coins for so many tokens; for no tokens if nobody knows.
    uint256 public immutable worthCoins;
    uint256 public immutable worthTokens;
    /// Tokens that it has gained and not given back; kept only where it does not know what they are worth.
    int256 private held;

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
        int256 gained = -int256(paid);
        if (buying) {
            gained = int256(pool.buy{value: paid}(0));
        } else {
            pool.sell(paid, 0);
        }
        if (worthTokens == 0) {
            held += gained;
        }
    }

    /// Ends a sandwich. Brings the pool's price back to what a token is worth, as far as that gains, and so takes whatever
    /// others left to gain; or where nobody knows that, gives back the tokens that it gained, or buys those that it lost.
    function close() public {
        require(msg.sender == owner, "Sandwich: not the owner");
        (uint256 coins, uint256 tokens, uint256 kept) = (pool.coins(), pool.tokens(), 1_000_000 - pool.fee());
        if (worthTokens == 0) {
            undo(coins, tokens, kept);
            return;
        }
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
        change(seen, buying, paid, entries);
    }

    /// The same where the next trade may follow from the last one: enters along with what others traded last, or against
    /// it, for so many coins. `buying` is the direction while nobody has traded since the pool held `coins`.
    function lean(bool buying, bool along, uint256 paid, uint256 entries, uint256 coins) external {
        Lurking memory seen = lurking;
        uint256 pooled = pool.coins();
        uint256 last = seen.number == block.number ? seen.coins : coins;
        if (seen.number == block.number && last == pooled) {
            return;
        }
        if (last != pooled) {
            buying = (pooled > last) == along;
        }
        change(seen, buying, buying ? paid : paid * pool.tokens() / pooled, entries);
    }

    /// The same against the way that the pool has gone since it held `coins`, which is where users have named the least that
    /// they take: so far back that those who tolerate 0.5, 1 or 2% less still fail if they go on that way.
    function goBack(uint256 entries, uint256 coins) external {
        Lurking memory seen = lurking;
        uint256 pooled = pool.coins();
        if (seen.number == block.number && seen.coins == pooled) {
            return;
        }
        close();
        uint64 entered = seen.number == block.number ? seen.entered : 0;
        pooled = pool.coins();
        uint256 far = (pooled > coins ? pooled - coins : coins - pooled) * 100_000 / coins;
        if (entered < entries && far > 260) {
            uint256 paid = (far - (far > 2000 ? 1030 : far > 750 ? 520 : 260)) * coins / 100_000;
            bool buying = pooled < coins;
            enter(buying, buying ? paid : paid * pool.tokens() / pooled);
            entered += 1;
        }
        lurking = Lurking(uint64(block.number), entered, uint128(pool.coins()));
    }

    /// Out of what it holds, and in again unless it was often enough.
    function change(Lurking memory seen, bool buying, uint256 paid, uint256 entries) private {
        close();
        uint64 entered = seen.number == block.number ? seen.entered : 0;
        if (entered < entries) {
            enter(buying, paid);
            entered += 1;
        }
        lurking = Lurking(uint64(block.number), entered, uint128(pool.coins()));
    }

    function undo(uint256 coins, uint256 tokens, uint256 kept) private {
        if (held > 0) {
            enter(false, uint256(held));
        } else if (held < 0) {
            uint256 owed = uint256(-held);
            uint256 counted = owed * coins * 1_000_000 / (tokens - owed) + 1;
            enter(true, counted / kept + 1);
        }
        // But for what rounding up bought too much.
        held = 0;
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
