//! Golden files: the encodings and hashes that are frozen. A change of one is a change of the protocol.
//!
//! `CASCADE_BLESS=1 cargo test -p cascade-primitives` writes the files anew; the diff then shows what changed.

use std::{fs, path::Path};

use cascade_primitives::{
    Address, B256, Block, BlockHash, BlsPublicKey, BlsSignature, Body, Bytes, Certificate, Certificates, ChainId,
    ChainParams, Committee, DaCommitment, Decode, Deposit, EcdsaSignature, Encode, Epoch, Fork, Genesis,
    GenesisAccount, Header, HeaderKind, Height, L1Origin, Member, MemberIndex, Network, NodeId, PublicKeys, Ready,
    ResultEntry, Reveal, ScheduledCommittee, Seats, SequencerSpec, SignerSet, SigningContext, SystemItem,
    ThresholdKeys, TimestampMs, U256, View, Vote, VoteTarget, block::PROTOCOL_VERSION,
};

fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let found = hex::encode(bytes);
    if std::env::var_os("CASCADE_BLESS").is_some() {
        fs::write(&path, found + "\n").expect("the golden file can be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, expected.trim_end(), "the format of {name} changed: that is another protocol version");
}

fn frozen<T: Encode + Decode + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let bytes = value.to_bytes();
    golden(name, &bytes);
    assert_eq!(&T::from_slice(&bytes).expect("what was encoded decodes"), value);
}

fn certificate(target: VoteTarget) -> Certificate {
    let mut signers = SignerSet::new(5);
    for member in [0, 2, 3, 4] {
        assert!(signers.insert(MemberIndex(member)));
    }
    Certificate { target, signers, signature: BlsSignature([0xab; 96]) }
}

fn block() -> Block {
    let hash = BlockHash([0x11; 32]);
    let ready = Ready {
        epoch: Epoch(3),
        node: NodeId([0x22; 32]),
        keys: ThresholdKeys(Some(B256::repeat_byte(0x99))),
        signature: BlsSignature([0xcd; 96]),
    };
    let body = Body {
        l1_items: Vec::new(),
        system: vec![SystemItem::Ready(ready)],
        certificates: Certificates {
            parent: Some(certificate(VoteTarget::prepare(Epoch(2), View(7), hash))),
            skips: vec![certificate(VoteTarget::skip(Epoch(2), View(8)))],
            commit: Some(certificate(VoteTarget::commit(Epoch(2), View(6), BlockHash([0x33; 32])))),
            fillers: Vec::new(),
        },
        reveals: Vec::new(),
        transactions: vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")],
    };
    let header = Header {
        version: PROTOCOL_VERSION,
        kind: HeaderKind::Block,
        chain_id: ChainId(20252),
        genesis_hash: B256::repeat_byte(0x44),
        fork: Fork(0),
        epoch: Epoch(2),
        view: View(11),
        height: Height(1234),
        parent: hash,
        timestamp: TimestampMs(1_700_000_000_123),
        l1_origin: L1Origin::default(),
        committee_root: B256::repeat_byte(0x55),
        next_committee_root: B256::repeat_byte(0x66),
        history_root: B256::repeat_byte(0x77),
        da: DaCommitment::default(),
        body_root: body.root(),
        base_fee: 7,
        ordered_gas: 42_000,
        results: vec![ResultEntry {
            height: Height(1231),
            state_root: B256::repeat_byte(0x88),
            receipts_root: B256::repeat_byte(0x99),
            gas_used: 21_000,
            beacon: B256::ZERO,
            reveals_root: B256::ZERO,
        }],
    };
    Block { header, body }
}

#[test]
fn blocks_votes_and_committees_keep_their_encoding() {
    let block = block();
    frozen("block", &block);
    golden("block-hash", block.header.hash().as_bytes());
    let target = VoteTarget::commit(Epoch(2), View(6), BlockHash([0x33; 32]));
    let context = SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(0x44), fork: Fork(0) };
    golden("vote-digest", target.digest(&context).as_slice());
    golden("skip-digest", VoteTarget::skip(Epoch(2), View(6)).digest(&context).as_slice());
    frozen("vote", &Vote { target, signer: MemberIndex(3), signature: BlsSignature([0xef; 96]) });
    frozen("certificate", &certificate(target));
    let member = |i: u8| Member {
        node: NodeId([i; 32]),
        bls_key: BlsPublicKey([i; 48]),
        address: Address::repeat_byte(i),
        seats: Seats(u32::from(i)),
        lead_weight: 700,
    };
    let committee = Committee::new(Epoch(2), (1..=4).map(member).collect(), ThresholdKeys::default()).unwrap();
    frozen("committee", &committee);
    golden("committee-root", committee.root().as_slice());
    let keys = PublicKeys {
        epoch: Epoch(2),
        encryption: [1; 48],
        decryption: [2; 96],
        beacon: [3; 96],
        key_sets: B256::repeat_byte(4),
    };
    golden("public-keys-commitment", keys.commitment().0.unwrap().as_slice());
    let bound = committee.with_keys(keys.commitment());
    golden("committee-again-root", committee.clone().with_attempt(1).root().as_slice());
    frozen("committee-with-keys", &bound);
    golden("committee-with-keys-root", bound.root().as_slice());
}

#[test]
fn what_encrypted_chains_write_keeps_its_encoding() {
    let context = SigningContext { chain_id: ChainId(20252), genesis_hash: B256::repeat_byte(0x44), fork: Fork(1) };
    let node = NodeId([0x22; 32]);
    let keys = [ThresholdKeys::default(), ThresholdKeys(Some(B256::repeat_byte(0x99)))];
    for (name, keys) in ["ready-digest-without-keys", "ready-digest"].iter().zip(keys) {
        golden(name, Ready::digest(&context, Epoch(3), &node, &B256::repeat_byte(0x55), &keys).as_slice());
    }
    let consent = EcdsaSignature([7; 65]);
    frozen("deposit", &Deposit { transaction: Bytes::from_static(b"transfer"), consent });
    golden("deposit-digest", Deposit::digest(&context, &B256::repeat_byte(0x66)).as_slice());
    let reveal = Reveal { height: Height(7), beacon: [3; 48], values: vec![[4; 48], [5; 48]] };
    frozen("reveal", &reveal);
    let items =
        [SystemItem::RecipientKey(Bytes::from_static(b"key")), SystemItem::Dealing(Bytes::from_static(b"dealing"))];
    for (name, item) in ["system-recipient-key", "system-dealing"].iter().zip(items) {
        frozen(name, &item);
    }
}

#[test]
fn genesis_keeps_its_hash() {
    let spec = |i: u8| SequencerSpec {
        node: NodeId([i; 32]),
        bls_key: BlsPublicKey([i; 48]),
        bls_proof: BlsSignature([i; 96]),
        address: Address::repeat_byte(i),
        stake: 100,
        hat: 80,
    };
    let account = GenesisAccount {
        balance: U256::from(10_u64.pow(18)),
        nonce: 1,
        code: vec![0x60, 0x00].into(),
        storage: [(B256::repeat_byte(1), B256::repeat_byte(2))].into(),
        ..GenesisAccount::default()
    };
    for (name, network) in [
        ("genesis-mainnet", Network::Mainnet),
        ("genesis-testnet", Network::Testnet),
        ("genesis-regtest", Network::Regtest),
    ] {
        let genesis = Genesis {
            params: ChainParams::of(network),
            timestamp: TimestampMs(1_700_000_000_000),
            committees: vec![ScheduledCommittee { from_epoch: Epoch(0), sequencers: (1..=3).map(spec).collect() }],
            alloc: [(Address::repeat_byte(9), account.clone())].into(),
        };
        assert_eq!(genesis.check(), Ok(()));
        golden(name, genesis.hash().as_slice());
        let text = serde_json::to_string_pretty(&genesis).unwrap();
        assert_eq!(serde_json::from_str::<Genesis>(&text).unwrap(), genesis);
    }
}
