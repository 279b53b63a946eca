//! A small assembler, so that the contracts of the tests can be read.
//!
//! Words are opcodes, hex literals with their push (`PUSH4 0x01020304`), labels (`:here`, which is a JUMPDEST) and
//! references to labels (`@here`, which is a PUSH1).

use std::collections::HashMap;

const OPCODES: &[(&str, u8)] = &[
    ("STOP", 0x00),
    ("ADD", 0x01),
    ("SUB", 0x03),
    ("LT", 0x10),
    ("EQ", 0x14),
    ("ISZERO", 0x15),
    ("SHR", 0x1c),
    ("ADDRESS", 0x30),
    ("CALLER", 0x33),
    ("CALLDATALOAD", 0x35),
    ("CALLDATASIZE", 0x36),
    ("CALLDATACOPY", 0x37),
    ("GASPRICE", 0x3a),
    ("BLOCKHASH", 0x40),
    ("COINBASE", 0x41),
    ("TIMESTAMP", 0x42),
    ("NUMBER", 0x43),
    ("PREVRANDAO", 0x44),
    ("GASLIMIT", 0x45),
    ("CHAINID", 0x46),
    ("SELFBALANCE", 0x47),
    ("BASEFEE", 0x48),
    ("BLOBBASEFEE", 0x4a),
    ("POP", 0x50),
    ("MLOAD", 0x51),
    ("MSTORE", 0x52),
    ("SLOAD", 0x54),
    ("SSTORE", 0x55),
    ("JUMP", 0x56),
    ("JUMPI", 0x57),
    ("GAS", 0x5a),
    ("TLOAD", 0x5c),
    ("TSTORE", 0x5d),
    ("PUSH0", 0x5f),
    ("DUP1", 0x80),
    ("DUP2", 0x81),
    ("SWAP1", 0x90),
    ("LOG1", 0xa1),
    ("LOG3", 0xa3),
    ("CREATE", 0xf0),
    ("CALL", 0xf1),
    ("RETURN", 0xf3),
    ("CREATE2", 0xf5),
    ("REVERT", 0xfd),
    ("INVALID", 0xfe),
    ("SELFDESTRUCT", 0xff),
];

/// Assembles a program.
pub fn asm(program: &str) -> Vec<u8> {
    let (mut code, mut labels, mut references) = (Vec::new(), HashMap::new(), Vec::new());
    for word in program.split_whitespace() {
        if let Some(label) = word.strip_prefix(':') {
            labels.insert(label, u8::try_from(code.len()).unwrap());
            code.push(0x5b);
        } else if let Some(label) = word.strip_prefix('@') {
            references.push((code.len() + 1, label));
            code.extend([0x60, 0]);
        } else if let Some(digits) = word.strip_prefix("0x") {
            code.extend(alloy_primitives::hex::decode(digits).unwrap());
        } else if let Some(length) = word.strip_prefix("PUSH").filter(|length| *length != "0") {
            code.push(0x5f + length.parse::<u8>().unwrap());
        } else {
            code.push(OPCODES.iter().find(|(name, _)| *name == word).unwrap_or_else(|| panic!("{word}")).1);
        }
    }
    for (at, label) in references {
        code[at] = labels[label];
    }
    code
}

/// Init code that runs `constructor` and deploys `runtime`.
pub fn deploy(constructor: &str, runtime: &[u8]) -> Vec<u8> {
    let mut code = asm(constructor);
    let offset = u8::try_from(code.len() + 12).unwrap();
    let [high, low] = u16::try_from(runtime.len()).unwrap().to_be_bytes();
    code.extend([0x61, high, low, 0x80, 0x60, offset, 0x60, 0, 0x39, 0x60, 0, 0xf3]);
    code.extend(runtime);
    code
}

/// An ERC-20 token whose creator has a million: `balanceOf`, `transfer`, the `Transfer` event.
pub fn token() -> Vec<u8> {
    let runtime = asm("
        PUSH0 CALLDATALOAD PUSH1 0xe0 SHR
        DUP1 PUSH4 0x70a08231 EQ @balance JUMPI
        DUP1 PUSH4 0xa9059cbb EQ @transfer JUMPI
        PUSH0 PUSH0 REVERT
        :balance PUSH1 0x04 CALLDATALOAD SLOAD PUSH0 MSTORE PUSH1 0x20 PUSH0 RETURN
        :transfer
            PUSH1 0x24 CALLDATALOAD CALLER SLOAD
            DUP2 DUP2 LT @fail JUMPI
            DUP2 SWAP1 SUB CALLER SSTORE
            PUSH1 0x04 CALLDATALOAD SLOAD DUP2 ADD PUSH1 0x04 CALLDATALOAD SSTORE
            PUSH0 MSTORE
            PUSH1 0x04 CALLDATALOAD CALLER
            PUSH32 0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef
            PUSH1 0x20 PUSH0 LOG3
            PUSH1 0x01 PUSH0 MSTORE PUSH1 0x20 PUSH0 RETURN
        :fail PUSH0 PUSH0 REVERT");
    deploy("PUSH3 0x0f4240 CALLER SSTORE", &runtime)
}

/// Calldata of a function with word arguments.
pub fn calldata(selector: [u8; 4], arguments: &[alloy_primitives::U256]) -> Vec<u8> {
    let mut data = selector.to_vec();
    for argument in arguments {
        data.extend(argument.to_be_bytes::<32>());
    }
    data
}
