//! Accounts that everybody knows the keys of.

use std::sync::LazyLock;

use alloy_primitives::Address;

use crate::wallet::Wallet;

/// The mnemonic that development tools have in common. Its accounts are refused outside regtest.
pub const DEV_MNEMONIC: &str = "test test test test test test test test test test test junk";

/// Keys at m/44'/60'/0'/0/i of [`DEV_MNEMONIC`].
const DEV_KEYS: [&str; 20] = [
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
    "8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
    "92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
    "4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
    "dbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97",
    "2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6",
    "f214f2b2cd398c806f84e317254e0f0b801d0643303237d97a22a48e01628897",
    "701b615bbdfb9de65240bc28bd21bbc0d996645a3dd57e7b12bc2bdf6f192c82",
    "a267530f49f8280200edf313ee7af6b827f2a8bce2897751d06a843f644967b1",
    "47c99abed3324a2707c28affff1267e45918ec8c3f20b8aa892e8b065d2942dd",
    "c526ee95bf44d8fc405a158bb884d9d1238d99f0612e9f33d006bb0789009aaa",
    "8166f546bab6da521a8369cab06c5d2b9e46670292d85c875ee9ec20e84ffb61",
    "ea6c44ac03bff858b476bba40716402b03e41b8e97e276d1baec7c37d42484a0",
    "689af8efa8c651a91ad287602527f3af2fe9f6501a7ac4b061667b5a93e037fd",
    "de9be858da4a475276426320d5e9262ecfc3ba460bfac56360bfa6c4c28b4ee0",
    "df57089febbacf7ba0bc227dafbffa9fc08a93fdc68e1e42411a14efcf23656e",
];

static DEV_ACCOUNTS: LazyLock<Vec<Wallet>> = LazyLock::new(|| {
    let wallet = |key: &&str| {
        let mut secret = [0; 32];
        hex::decode_to_slice(key, &mut secret).expect("the keys in the table are hex");
        Wallet::new(secret).expect("the keys in the table are keys")
    };
    DEV_KEYS.iter().map(wallet).collect()
});

/// The first accounts of [`DEV_MNEMONIC`].
#[must_use]
pub fn dev_accounts() -> &'static [Wallet] {
    &DEV_ACCOUNTS
}

/// The account that a testnet's probe transfers come from.
#[must_use]
pub fn probe_account() -> Wallet {
    Wallet::public("probe", 0)
}

/// The payer of a testnet's proxy.
#[must_use]
pub fn proxy_account() -> Wallet {
    Wallet::public("proxy", 0)
}

/// The accounts that `cascade bench load` sends from.
pub fn load_accounts(count: u64) -> impl Iterator<Item = Wallet> {
    (0..count).map(|index| Wallet::public("load", index))
}

/// Whether the key of an address is one of the development mnemonic's.
#[must_use]
pub fn is_public(address: &Address) -> bool {
    DEV_ACCOUNTS.iter().any(|wallet| wallet.address() == *address)
        || [probe_account(), proxy_account()].iter().any(|wallet| wallet.address() == *address)
}

#[cfg(test)]
mod tests {
    use alloy::signers::local::{MnemonicBuilder, coins_bip39::English};

    use super::*;

    #[test]
    fn the_accounts_are_those_of_the_mnemonic() {
        for (index, wallet) in dev_accounts().iter().enumerate() {
            let signer = MnemonicBuilder::<English>::default()
                .phrase(DEV_MNEMONIC)
                .index(index as u32)
                .unwrap()
                .build()
                .unwrap();
            assert_eq!(signer.address(), wallet.address());
            assert!(is_public(&wallet.address()));
        }
        assert!(!is_public(&Address::ZERO));
    }
}
