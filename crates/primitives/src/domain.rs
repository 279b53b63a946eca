//! Every domain tag of the protocol, in one file.
//!
//! A hash or signature of one kind can never be taken for another: each starts with its own tag.
//! Tags end in a version; a change of what is hashed gets a new one.

/// A hash domain: the tag that precedes what is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Domain(&'static str);

impl Domain {
    /// The tag's bytes.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        self.0.as_bytes()
    }
}

macro_rules! domains {
    ($($(#[$doc:meta])* $name:ident = $tag:literal;)*) => {
        $($(#[$doc])* pub const $name: Domain = Domain($tag);)*

        /// All tags, for the test that they differ.
        pub const ALL: &[Domain] = &[$($name),*];
    };
}

domains! {
    /// Hash of a block header.
    HEADER = "cascade/header/1";
    /// Hash over a block's body, which is the data of its square.
    BODY = "cascade/body/2";
    /// Name of a system item while it waits for its block, on one machine.
    SYSTEM_ITEM = "cascade/system-item/1";
    /// Name of anything else on one machine.
    LABEL = "cascade/label/1";
    /// Hash of the genesis file.
    GENESIS = "cascade/genesis/1";
    /// Root of a committee.
    COMMITTEE = "cascade/committee/2";
    /// The members of a committee.
    COMMITTEE_MEMBERS = "cascade/committee-members/2";
    /// Commitment to the public keys of an epoch's threshold schemes.
    EPOCH_KEYS = "cascade/epoch-keys/1";
    /// What belongs to these keys: the keys of all seats' shares.
    KEY_SETS = "cascade/key-sets/1";
    /// Message of a vote.
    VOTE = "cascade/vote/1";
    /// A sequencer's statement that it holds its keys for the next epoch.
    READY = "cascade/ready/2";
    /// Proof that a sequencer's network identity and its BLS key belong together.
    IDENTITY = "cascade/identity/1";
    /// Announcement of a sequencer's addresses (SEQANNOUNCE).
    ANNOUNCE = "cascade/announce/1";
    /// Draw of the leader of a term.
    LEADER = "cascade/leader/1";
    /// Seed of an epoch.
    EPOCH_SEED = "cascade/epoch-seed/2";
    /// PREVRANDAO of a block on a chain without a beacon.
    RANDAO = "cascade/randao/1";
    /// Leaf of a binary Merkle tree.
    MERKLE_LEAF = "cascade/merkle-leaf/1";
    /// Inner node of a binary Merkle tree.
    MERKLE_NODE = "cascade/merkle-node/1";
    /// Bagging of the peaks of a Merkle mountain range.
    MMR_PEAKS = "cascade/mmr-peaks/1";
    /// Key of an account in the state tree.
    STATE_ACCOUNT = "cascade/state-account/1";
    /// Key of a storage slot in the state tree.
    STATE_SLOT = "cascade/state-slot/1";
    /// Leaf of a receipts root.
    RECEIPT = "cascade/receipt/1";
    /// What a header's DA commitment stands for.
    DA_COMMITMENT = "cascade/da-commitment/2";
    /// The coded chunks of a block on their way to the committee.
    DA_CHUNKS = "cascade/da-chunks/1";
    /// What a leader signs of the chunks of its proposal.
    MANIFEST = "cascade/manifest/1";
    /// A published batch of blocks.
    DA_BATCH = "cascade/da-batch/1";
    /// Challenge of the proof that a ciphertext is well formed.
    SEAL_CHALLENGE = "cascade/seal-challenge/1";
    /// Key of a ciphertext's payload.
    SEAL_KEY = "cascade/seal-key/1";
    /// What a ciphertext carries so that it opens under one key alone.
    SEAL_COMMITMENT = "cascade/seal-commitment/1";
    /// A sequencer's decryption shares for a block.
    BLOCK_SHARES = "cascade/block-shares/1";
    /// Message of a block's random beacon.
    BEACON_MESSAGE = "cascade/beacon-message/1";
    /// Value of a block's random beacon.
    BEACON_VALUE = "cascade/beacon-value/1";
    /// A sequencer's encryption key for an epoch.
    RECIPIENT_KEY = "cascade/recipient-key/2";
    /// Challenge of the proof that a sequencer holds its encryption key.
    RECIPIENT_PROOF = "cascade/recipient-proof/2";
    /// What a dealing of key generation is bound to.
    DEALING_CONTEXT = "cascade/dealing-context/1";
    /// Commitment to the ciphertexts of one instance of a dealing.
    DEALING_INSTANCE = "cascade/dealing-instance/1";
    /// Ephemeral key of one instance of a dealing.
    DEALING_SECRET = "cascade/dealing-secret/1";
    /// Pads of the shares in one instance of a dealing.
    DEALING_PAD = "cascade/dealing-pad/1";
    /// First challenge of a dealing: the weights of the shares.
    DEALING_WEIGHTS = "cascade/dealing-weights/1";
    /// Second challenge of a dealing: the instances that are opened.
    DEALING_CHALLENGE = "cascade/dealing-challenge/1";
    /// What the dealer signs.
    DEALING = "cascade/dealing/1";
    /// Derivation of the key under which key shares rest on a disk.
    SHARE_STORE = "cascade/share-store/1";
    /// What the payer of an envelope signs.
    ENVELOPE = "cascade/envelope/1";
    /// What an envelope's ciphertext is bound to.
    ENVELOPE_LABEL = "cascade/envelope.label/1";
    /// An envelope's name.
    ENVELOPE_HASH = "cascade/envelope.hash/1";
    /// The hiding commitment to the transaction in an envelope.
    ENVELOPE_COMMITMENT = "cascade/envelope.commitment/1";
    /// A payer's consent to a deposit.
    DEPOSIT = "cascade/deposit/1";
    /// What opened a block's envelopes.
    REVEAL = "cascade/reveal/1";
    /// The encryption key of a sequencer that announced none.
    ABSENT_RECIPIENT = "cascade/absent-recipient/1";
    /// The key of an opaque payload on a chain that orders bytes.
    OPAQUE = "cascade/opaque/1";
    /// Checksum of a record in the vote log.
    LOG_RECORD = "cascade/log-record/2";
    /// Checksum of a slot of the sign-state file.
    SIGN_STATE = "cascade/sign-state/1";
    /// The certificate that holds a node's TLS key.
    TLS = "cascade/tls/1";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    #[test]
    fn tags_differ_and_none_is_a_prefix_of_another() {
        let tags: BTreeSet<_> = ALL.iter().map(|d| d.as_bytes()).collect();
        assert_eq!(tags.len(), ALL.len());
        for a in &tags {
            for b in &tags {
                assert!(a == b || !b.starts_with(a));
            }
        }
    }
}
