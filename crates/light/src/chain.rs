//! What makes a header final for somebody who knows one committee.
//!
//! ```text
//!   epoch e                                          epoch e+1
//!   checkpoint ... tip ..... L  (fillers)            F ........ head
//!   committee e known        |   commit by e         |  opened by e+1
//!                            |   next_committee_root = root(committee e+1) = F.committee_root
//!                            +------- F.parent ------+
//!   head.history_root contains the checkpoint
//! ```
//!
//! - A header is final if the committee of its epoch committed to it, or to a filler above it. Commit certificates need
//!   a quorum of seats, and two quorums share an honest seat.
//! - One *handover* leads from one epoch to the next: the epoch's last block L, final by the old committee; the members
//!   whose root L names; and a certificate of that new committee on L's child F. Any final header of the epoch names a
//!   next committee, but until the epoch has ended that one may still be replaced (after its last extension an epoch drops
//!   candidates that are not ready). The certificate on F settles it: to make one for a committee that never came to be,
//!   or on an L that is not the last block, a quorum of *that* committee would have to lie.
//! - A committee's root binds the public keys of its epoch's threshold schemes too (`cascade_primitives::committee`), and an
//!   epoch ends only once the chain has agreed on those of the next one. So whoever follows handovers knows what to seal
//!   transactions to, and what to check beacons and opened values against ([`Chain::verify_keys`]).
//! - The head's history root (a mountain range over all headers below) contains the checkpoint. So what the
//!   handovers led to is a continuation of what the user trusted, and any older header is proved by one path.
//!
//! All of it follows from fields that headers have (decision 15 of the architecture) and from what the bodies of F and of
//! its child carry: a node serves it without signing or storing anything more.

use std::sync::Arc;

use cascade_crypto::{VoteScheme, scheme, verify_certificate};
use cascade_primitives::{
    B256, BlockHash, Certificate, Committee, Decode, DecodeError, Encode, Epoch, Header, HeaderKind, Height, Member,
    PublicKeys, Reader, SigningContext, ThresholdKeys, TimestampMs, VoteKind, VoteTarget,
    block::{Block, MAX_FILLER_HEADERS, PROTOCOL_VERSION},
    certificate::MAX_MEMBERS,
    codec::encode_list,
    committee_root,
    merkle::MountainProof,
};
use thiserror::Error;

/// Why a certificate does not prove what it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// It says something else, or says it about something else.
    #[error("it does not say what it has to")]
    Target,
    /// It proves nothing at all.
    #[error(transparent)]
    Invalid(#[from] scheme::CertificateError),
}

/// What a user trusts before anything is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The height of a final block; 0 for genesis.
    pub height: Height,
    /// Its hash.
    pub hash: BlockHash,
    /// The root of the committee of its epoch.
    pub committee_root: B256,
}

/// What makes a header final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finality {
    /// A commit certificate of the header, or of the last of `fillers`.
    pub certificate: Certificate,
    /// Fillers above an epoch's last block, up to the one certified; none otherwise.
    pub fillers: Vec<Header>,
}

/// The step from one epoch to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The epoch's last block, L.
    pub last: Header,
    /// What makes it final.
    pub end: Finality,
    /// The first block of the next epoch, F.
    pub first: Header,
    /// A prepare or commit certificate of F.
    pub opened: Certificate,
    /// The members of the next committee; none if they are those of the one before.
    pub members: Option<Vec<Member>>,
    /// How often the next committee was made anew before it took over.
    pub attempt: u32,
    /// The commitment to the threshold keys of the next epoch.
    pub keys: ThresholdKeys,
}

impl Handover {
    /// The handover that two blocks and a certificate of the second one show; none if `first` opens no epoch above
    /// `last`. `committee` is that of the new epoch, `before` that of the old one.
    #[must_use]
    pub fn from_blocks(
        last: &Header,
        first: &Block,
        opened: Certificate,
        before: &Committee,
        committee: &Committee,
    ) -> Option<Self> {
        let certificates = &first.body.certificates;
        let certificate = certificates.commit.clone()?;
        if first.header.epoch != last.epoch.next() || first.header.parent != last.hash() {
            return None;
        }
        let same = before.members() == committee.members();
        Some(Self {
            last: last.clone(),
            end: Finality { certificate, fillers: certificates.fillers.clone() },
            first: first.header.clone(),
            opened,
            members: (!same).then(|| committee.members().to_vec()),
            attempt: committee.attempt(),
            keys: *committee.threshold_keys(),
        })
    }
}

/// Why keys are not those of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// No header that is known binds the keys of that epoch: it is over, begins later, or its keys are not agreed on.
    #[error("keys of epoch {epoch} are not known here, the newest header is of epoch {now}")]
    Unknown {
        /// The epoch that they are said to be of.
        epoch: Epoch,
        /// The epoch whose committee is known.
        now: Epoch,
    },
    /// The headers of the epoch bind others, or another members root beside them.
    #[error("the headers of the chain bind other keys of epoch {0}, or other members")]
    Wrong(Epoch),
}

/// Why something that a peer sent proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// A header is of another chain or version, or is not what it has to be at its place.
    #[error("header {height}: {what} is wrong")]
    Header {
        /// The header's height.
        height: Height,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A certificate does not hold.
    #[error("the certificate of header {height} does not hold: {error}")]
    Certificate {
        /// The header that it is to make final.
        height: Height,
        /// What is wrong with it.
        error: CertificateError,
    },
    /// The committee given is not the one whose root was expected.
    #[error("the committee has root {found}, expected {expected}")]
    Committee {
        /// The root of the committee given.
        found: B256,
        /// The root expected.
        expected: B256,
    },
    /// Nothing new.
    #[error("the header at {found} is not above {tip}")]
    Old {
        /// The height found.
        found: Height,
        /// The height that is final already.
        tip: Height,
    },
    /// The header's history does not contain the block that it has to.
    #[error("the history of header {height} does not contain block {ancestor}")]
    History {
        /// The header.
        height: Height,
        /// The block that it has to contain.
        ancestor: Height,
    },
}

impl ChainError {
    const fn header(header: &Header, what: &'static str) -> Self {
        Self::Header { height: header.height, what }
    }
}

/// One final header, and the committee that makes the next ones final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    signing: SigningContext,
    tip: Header,
    hash: BlockHash,
    /// Shared: a client keeps the chain as it was at each height that it follows.
    committee: Arc<Committee>,
}

impl Chain {
    /// Starts from a checkpoint with its header and committee, whoever sent them.
    ///
    /// # Errors
    /// [`ChainError`] if they are not those of the checkpoint.
    pub fn start(
        signing: SigningContext,
        checkpoint: &Checkpoint,
        header: Header,
        committee: Committee,
    ) -> Result<Self, ChainError> {
        let hash = header.hash();
        if hash != checkpoint.hash || header.height != checkpoint.height {
            return Err(ChainError::header(&header, "hash"));
        }
        own(&signing, &header)?;
        if header.committee_root != checkpoint.committee_root {
            return Err(ChainError::header(&header, "committee root"));
        }
        if committee.root() != checkpoint.committee_root {
            return Err(ChainError::Committee { found: committee.root(), expected: checkpoint.committee_root });
        }
        Ok(Self { signing, tip: header, hash, committee: Arc::new(committee) })
    }

    /// The newest header known to be final.
    #[must_use]
    pub const fn tip(&self) -> &Header {
        &self.tip
    }

    /// Its hash.
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The committee that makes the next headers final: the tip's, or after a handover that of the next epoch.
    #[must_use]
    pub fn committee(&self) -> &Committee {
        &self.committee
    }

    /// What signatures of this chain are bound to.
    #[must_use]
    pub const fn signing(&self) -> &SigningContext {
        &self.signing
    }

    /// Whether the tip is older than `delay_ms`: then those who signed it may have left with their stake, and its
    /// certificates are worth nothing (weak subjectivity).
    #[must_use]
    pub const fn is_older_than(&self, now: TimestampMs, delay_ms: u64) -> bool {
        self.tip.timestamp.0.saturating_add(delay_ms) < now.0
    }

    /// Takes a run of headers right above the tip, all of the committee's epoch, the last one final.
    ///
    /// # Errors
    /// [`ChainError`]; the tip then stays.
    pub fn extend(
        &mut self,
        verifier: &dyn VoteScheme,
        headers: &[Header],
        finality: &Finality,
    ) -> Result<(), ChainError> {
        let mut below = (self.hash, &self.tip);
        for header in headers {
            self.check_epoch(header)?;
            link(below.0, below.1, header)?;
            below = (header.hash(), header);
        }
        let (hash, last) = below;
        if headers.is_empty() {
            return Err(ChainError::Old { found: last.height, tip: last.height });
        }
        self.check_final(verifier, last, hash, finality)?;
        (self.tip, self.hash) = (last.clone(), hash);
        Ok(())
    }

    /// Takes a final header anywhere above the tip in the committee's epoch, whose history contains an ancestor.
    ///
    /// # Errors
    /// [`ChainError`]; the tip then stays.
    pub fn jump(
        &mut self,
        verifier: &dyn VoteScheme,
        header: Header,
        finality: &Finality,
        ancestor: (Height, BlockHash),
        ancestry: &MountainProof,
    ) -> Result<(), ChainError> {
        if header.height <= self.tip.height {
            return Err(ChainError::Old { found: header.height, tip: self.tip.height });
        }
        self.check_epoch(&header)?;
        let hash = header.hash();
        self.check_final(verifier, &header, hash, finality)?;
        prove_ancestor(&header, ancestor, ancestry)?;
        (self.tip, self.hash) = (header, hash);
        Ok(())
    }

    /// Goes on to the next epoch. The tip becomes the last block of the old one.
    ///
    /// # Errors
    /// [`ChainError`]; nothing then changes.
    pub fn hand_over(&mut self, verifier: &dyn VoteScheme, handover: &Handover) -> Result<(), ChainError> {
        let Handover { last, end, first, opened, members, attempt, keys } = handover;
        if last.height < self.tip.height {
            return Err(ChainError::Old { found: last.height, tip: self.tip.height });
        }
        self.check_epoch(last)?;
        let hash = last.hash();
        if last.height == self.tip.height && hash != self.hash {
            return Err(ChainError::header(last, "hash"));
        }
        self.check_final(verifier, last, hash, end)?;
        let expected = last.next_committee_root;
        let members = members.clone().unwrap_or_else(|| self.committee.members().to_vec());
        let next = Committee::new(self.committee.epoch().next(), members, *keys)
            .map(|next| next.with_attempt(*attempt))
            .map_err(|_| ChainError::Committee { found: B256::ZERO, expected })?;
        if next.root() != expected {
            return Err(ChainError::Committee { found: next.root(), expected });
        }
        own(&self.signing, first)?;
        if first.epoch != next.epoch() || first.committee_root != next.root() {
            return Err(ChainError::header(first, "epoch or committee root"));
        }
        link(hash, last, first)?;
        let target = &opened.target;
        if target.block != first.hash() || target.view != first.view || target.kind == VoteKind::Skip {
            return Err(ChainError::Certificate { height: first.height, error: CertificateError::Target });
        }
        verify_certificate(verifier, &self.signing, &next, opened)
            .map_err(|error| ChainError::Certificate { height: first.height, error: error.into() })?;
        (self.tip, self.hash, self.committee) = (last.clone(), hash, Arc::new(next));
        Ok(())
    }

    /// The chain as it was when this header was its tip. The caller took the header from a run that [`Self::extend`] or
    /// [`Self::jump`] accepted, and no epoch has ended since.
    pub(crate) fn at(&self, header: &Header) -> Self {
        let (signing, committee) = (self.signing, Arc::clone(&self.committee));
        Self { signing, tip: header.clone(), hash: header.hash(), committee }
    }

    /// Whether a header that is not above the tip is final, as far as the committee that is known can tell: headers of
    /// epochs that are over pass.
    ///
    /// # Errors
    /// [`ChainError`] if it is not.
    pub(crate) fn check_old(
        &self,
        verifier: &dyn VoteScheme,
        header: &Header,
        finality: &Finality,
    ) -> Result<(), ChainError> {
        own(&self.signing, header)?;
        if header.epoch < self.committee.epoch() {
            return Ok(());
        }
        self.check_epoch(header)?;
        self.check_final(verifier, header, header.hash(), finality)
    }

    /// Checks that these are the public keys of an epoch and the members root of its committee: of the one whose committee is
    /// known, or of the next one, as soon as the newest header binds them.
    ///
    /// # Errors
    /// [`KeyError`] if the headers bind others, or do not say.
    pub fn verify_keys(&self, keys: &PublicKeys, members_root: &B256) -> Result<(), KeyError> {
        let (now, commitment) = (self.committee.epoch(), keys.commitment());
        let unknown = KeyError::Unknown { epoch: keys.epoch, now };
        if keys.epoch == now {
            let right =
                *members_root == self.committee.members_root() && commitment == *self.committee.threshold_keys();
            return if right { Ok(()) } else { Err(KeyError::Wrong(now)) };
        }
        // While the next root binds no keys, or is of a committee that was made anew since, nothing can be said of any.
        let next = self.tip.epoch == now && keys.epoch == now.next();
        let bound = next && self.tip.next_committee_root == committee_root(members_root, &commitment);
        if bound { Ok(()) } else { Err(unknown) }
    }

    /// Whether the header is of this chain and of the epoch whose committee is known.
    fn check_epoch(&self, header: &Header) -> Result<(), ChainError> {
        own(&self.signing, header)?;
        if header.epoch != self.committee.epoch() || header.committee_root != self.committee.root() {
            return Err(ChainError::header(header, "epoch or committee root"));
        }
        Ok(())
    }

    fn check_final(
        &self,
        verifier: &dyn VoteScheme,
        header: &Header,
        hash: BlockHash,
        finality: &Finality,
    ) -> Result<(), ChainError> {
        let (mut reached, mut view) = (hash, header.view);
        for filler in &finality.fillers {
            if filler.parent != reached || filler.kind != HeaderKind::Filler || filler.epoch != header.epoch {
                return Err(ChainError::header(filler, "place as a filler"));
            }
            (reached, view) = (filler.hash(), filler.view);
        }
        let certificate = &finality.certificate;
        let refused = |error: CertificateError| ChainError::Certificate { height: header.height, error };
        if certificate.target != VoteTarget::commit(header.epoch, view, reached) {
            return Err(refused(CertificateError::Target));
        }
        verify_certificate(verifier, &self.signing, &self.committee, certificate).map_err(|error| refused(error.into()))
    }
}

/// Whether a header's history contains a block.
///
/// # Errors
/// [`ChainError::History`] if the path does not show it.
pub fn prove_ancestor(
    header: &Header,
    (height, hash): (Height, BlockHash),
    proof: &MountainProof,
) -> Result<(), ChainError> {
    if proof.verify(&header.history_root, &hash.into(), height.0) {
        Ok(())
    } else {
        Err(ChainError::History { height: header.height, ancestor: height })
    }
}

fn own(signing: &SigningContext, header: &Header) -> Result<(), ChainError> {
    let fields = [
        ("version", header.version == PROTOCOL_VERSION),
        ("chain id", header.chain_id == signing.chain_id),
        ("genesis hash", header.genesis_hash == signing.genesis_hash),
        ("fork", header.fork == signing.fork),
        ("kind", header.kind == HeaderKind::Block),
    ];
    match fields.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(ChainError::header(header, what)),
        None => Ok(()),
    }
}

fn link(below: BlockHash, parent: &Header, header: &Header) -> Result<(), ChainError> {
    let fields = [
        ("height", header.height == parent.height.next()),
        ("parent", header.parent == below),
        ("timestamp", header.timestamp > parent.timestamp),
    ];
    match fields.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(ChainError::header(header, what)),
        None => Ok(()),
    }
}

impl Encode for Checkpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        self.hash.encode(out);
        self.committee_root.encode(out);
    }
}

impl Decode for Checkpoint {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.field("checkpoint");
        Ok(Self { height: Height::decode(r)?, hash: BlockHash::decode(r)?, committee_root: B256::decode(r)? })
    }
}

impl Encode for Finality {
    fn encode(&self, out: &mut Vec<u8>) {
        self.certificate.encode(out);
        encode_list(&self.fillers, out);
    }
}

impl Decode for Finality {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { certificate: Certificate::decode(r)?, fillers: r.field("filler headers").list(MAX_FILLER_HEADERS)? })
    }
}

impl Encode for Handover {
    fn encode(&self, out: &mut Vec<u8>) {
        self.last.encode(out);
        self.end.encode(out);
        self.first.encode(out);
        self.opened.encode(out);
        self.members.is_some().encode(out);
        if let Some(members) = &self.members {
            encode_list(members, out);
        }
        self.attempt.encode(out);
        self.keys.encode(out);
    }
}

impl Decode for Handover {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            last: Header::decode(r.field("handover"))?,
            end: Finality::decode(r)?,
            first: Header::decode(r)?,
            opened: Certificate::decode(r)?,
            members: bool::decode(r.field("next committee"))?.then(|| r.list(MAX_MEMBERS)).transpose()?,
            attempt: u32::decode(r)?,
            keys: ThresholdKeys::decode(r)?,
        })
    }
}

/// What a light client keeps between runs: the tip and the committee. Checked again when it is loaded.
impl Encode for Chain {
    fn encode(&self, out: &mut Vec<u8>) {
        self.tip.encode(out);
        self.committee.encode(out);
    }
}

impl Chain {
    /// Reads what [`Encode`] wrote, for a chain with this context.
    ///
    /// The bytes come from the user's own disk: they are trusted like a checkpoint, and the caller checks their age like
    /// that of one.
    ///
    /// # Errors
    /// [`DecodeError`] if they are damaged, or of another chain.
    pub fn restore(signing: SigningContext, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (tip, committee) = (Header::decode(&mut r)?, Committee::decode(&mut r)?);
        r.finish()?;
        let of_tip = committee.epoch() == tip.epoch && committee.root() == tip.committee_root;
        let of_next = committee.epoch() == tip.epoch.next() && committee.root() == tip.next_committee_root;
        if own(&signing, &tip).is_err() || !(of_tip || of_next) {
            r.field("saved state of a light client");
            return Err(r.error(cascade_primitives::DecodeErrorKind::NotCanonical(
                "it is of another chain, or its committee is not the header's",
            )));
        }
        Ok(Self { signing, hash: tip.hash(), tip, committee: Arc::new(committee) })
    }
}
