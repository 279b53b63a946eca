//! The RPC server over a mock node, on the wire.

mod chain;
mod client;
mod events;
mod l2;
mod limits;
mod mock;
mod submit;

use alloy::sol_types::SolValue;
use alloy_primitives::{Address, U256, hex, keccak256};
use cascade_primitives::Height;
use serde_json::Value;

use mock::{Mock, Tx};

/// The ERC-20 of the end-to-end tests.
struct Token {
    address: Address,
}

impl Token {
    /// Deploys it with account 0, whose next nonce is `nonce`, in a block of its own.
    fn deploy(node: &Mock, nonce: u64) -> Self {
        let artifact: Value =
            serde_json::from_str(include_str!("../../../../testnet/contracts/TestToken.json")).unwrap();
        let mut data = hex::decode(artifact["bytecode"].as_str().unwrap()).unwrap();
        data.extend(("Test Token".to_owned(), "TST".to_owned(), U256::from(1000)).abi_encode_params());
        let height = node.produce(vec![Tx { gas: 3_000_000, value: 0, data, ..Tx::new(nonce, None) }.raw(0)]);
        let address = node.receipt(height, 0).contract_address.expect("the token is deployed");
        Self { address }
    }

    fn call(&self, signature: &str, arguments: &impl SolValue) -> Vec<u8> {
        let mut data = keccak256(signature)[..4].to_vec();
        data.extend(arguments.abi_encode());
        data
    }

    /// A transfer by account 0.
    fn transfer(&self, nonce: u64, to: Address, amount: u64) -> Tx {
        let data = self.call("transfer(address,uint256)", &(to, U256::from(amount)));
        Tx { value: 0, data, ..Tx::new(nonce, self.address) }
    }
}

fn hex_of(height: Height) -> String {
    format!("{:#x}", height.0)
}
