// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.0;

/// A constant-product exchange between the chain's coin and a token of its own: coins x tokens never falls.
/// For tests and for measuring what an attacker earns on it; the deployer owns all tokens that are not in the pool.
contract Exchange {
    /// What stays in the pool of what is paid, in millionths.
    uint256 public immutable fee;
    /// The pool.
    uint256 public coins;
    uint256 public tokens;

    mapping(address owner => uint256) public balanceOf;

    event Trade(address indexed trader, bool buying, uint256 paid, uint256 got);

    error TooLittle(uint256 got, uint256 least);

    constructor(uint256 supply, uint256 pooled, uint256 fee_) payable {
        fee = fee_;
        coins = msg.value;
        tokens = pooled;
        balanceOf[msg.sender] = supply - pooled;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        balanceOf[msg.sender] -= value;
        balanceOf[to] += value;
        return true;
    }

    /// Pays coins for at least so many tokens.
    function buy(uint256 least) external payable returns (uint256 got) {
        got = output(msg.value, coins, tokens);
        if (got < least) {
            revert TooLittle(got, least);
        }
        coins += msg.value;
        tokens -= got;
        balanceOf[msg.sender] += got;
        emit Trade(msg.sender, true, msg.value, got);
    }

    /// Pays tokens for at least so many coins.
    function sell(uint256 paid, uint256 least) external returns (uint256 got) {
        got = output(paid, tokens, coins);
        if (got < least) {
            revert TooLittle(got, least);
        }
        balanceOf[msg.sender] -= paid;
        tokens += paid;
        coins -= got;
        emit Trade(msg.sender, false, paid, got);
        (bool taken,) = msg.sender.call{value: got}("");
        require(taken, "Exchange: coins refused");
    }

    function output(uint256 paid, uint256 from, uint256 to) private view returns (uint256) {
        uint256 counted = paid * (1_000_000 - fee);
        return to * counted / (from * 1_000_000 + counted);
    }
}
