//! Golden files: what nodes tell each other of shares and of what opens a block. `CASCADE_BLESS=1` writes them anew.

use std::{fs, path::Path, sync::Arc};

use cascade_crypto::threshold::BlockShares;
use cascade_mempool::reveal::RevealMessage;
use cascade_primitives::{
    BlsSignature, Bytes, Certificate, Decode as _, Encode as _, Epoch, Fork, Height, MemberIndex, Reveal, SignerSet,
    View, VoteTarget,
};

use crate::reveals::hash_of;

fn frozen(name: &str, message: &RevealMessage) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let bytes = message.to_bytes();
    let found: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if std::env::var_os("CASCADE_BLESS").is_some() {
        fs::write(&path, found + "\n").expect("the golden file can be written");
        return;
    }
    let wanted = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, wanted.trim_end(), "the format of {name} changed: that is another protocol version");
    assert_eq!(&RevealMessage::from_slice(&bytes).unwrap(), message);
}

#[test]
fn messages_of_shares_and_reveals_keep_their_encoding() {
    let shares = BlockShares {
        fork: Fork(1),
        epoch: Epoch(2),
        height: Height(3),
        block: hash_of(3),
        member: MemberIndex(4),
        beacon: Bytes::from_static(&[5; 96]),
        decryption: Bytes::from_static(&[6; 192]),
    };
    let target = VoteTarget::commit(Epoch(2), View(9), hash_of(3));
    let certificate = Certificate { target, signers: SignerSet::new(4), signature: BlsSignature([7; 96]) };
    frozen("message-shares", &RevealMessage::Shares(Arc::new(shares), Arc::new(certificate)));
    let reveal = Reveal { height: Height(3), beacon: [8; 48], values: vec![[9; 48], [10; 48]] };
    frozen("message-reveal", &RevealMessage::Reveal(Arc::new(reveal)));
    frozen("message-request", &RevealMessage::Request(Height(3)));
}
