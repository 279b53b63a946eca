//! The way of transactions into the pool, off the actors' threads.
//!
//! ```text
//!  rpc ----> Submitter --+                                  spawn_blocking            content actor
//!                        +--> check (known? fee? gas?) --> recover signers --> Admit: nonce, reserve, room
//!  peers --> pump -------+    pool's lock, briefly          no lock, proofs too    pool's lock
//! ```
//!
//! An envelope's proof takes longer than all the rest, so what is asked of its payer (nonce, balance, limits) is asked before
//! that, and again when it is admitted: who cannot pay costs a node the recovery of a signature and no more. Such refusals
//! do not show whether an honest peer would have given the item on, so now and then one proof is checked all the same
//! ([`Admitter::is_sealed`]). Proofs are checked many at a time ([`super::proofs`]).
//!
//! The signer of a transaction is recovered here, once on a node, and kept with it in the pool; validation and execution
//! of the blocks that carry it find it there by its hash. What the pool knows or refuses anyway costs no recovery. While
//! signers are recovered nobody waits for the pool.

use bytes::Bytes;
use cascade_crypto::ecdsa;
use cascade_mempool::Source;
use cascade_primitives::{B256, Transaction};

use super::{
    content::ContentActor,
    mail::Addr,
    messages::{Admit, Admitted, Candidate},
    pool::SharedPool,
    proofs::Proofs,
};
use crate::rpc::backend::SubmitError;

/// Transactions whose signers are recovered on the spot, since handing them to another thread costs as much.
const ON_THE_SPOT: usize = 2;

/// Brings transactions and payloads into the pool. Cheap to clone.
#[derive(Clone)]
pub struct Admitter {
    pool: SharedPool,
    content: Addr<ContentActor>,
    proofs: Proofs,
}

/// A transaction's hash, or why it was not taken.
pub type Submitted = Result<B256, SubmitError>;

impl Admitter {
    /// The way into a pool.
    #[must_use]
    pub const fn new(pool: SharedPool, content: Addr<ContentActor>, proofs: Proofs) -> Self {
        Self { pool, content, proofs }
    }

    /// Whether an item's signatures and proof hold, as far as this node can tell, whoever pays. None if the node stops.
    pub async fn is_sealed(&self, raw: Bytes) -> Option<bool> {
        self.proofs.is_sealed(raw).await
    }

    /// Takes what can be taken. Answers one result for each candidate, in order, or nothing if the node stops.
    pub async fn admit(&self, candidates: Vec<Candidate>, source: Source) -> Option<Vec<Submitted>> {
        let checked = self.pool.lock().check(candidates);
        let mut results: Vec<Option<Submitted>> = Vec::with_capacity(checked.len());
        let (mut unsigned, mut ready, mut sealed) = (Vec::new(), Vec::new(), Vec::new());
        for (place, checked) in checked.into_iter().enumerate() {
            match checked {
                Ok(Candidate::Plain(transaction)) => unsigned.push((place, transaction)),
                Ok(Candidate::Item(raw)) => sealed.push((place, raw)),
                Ok(Candidate::Opaque(payload)) => ready.push((place, Admitted::Opaque(payload))),
                Err(error) => {
                    results.push(Some(Err(error)));
                    continue;
                }
            }
            results.push(None);
        }
        for (place, recovered) in recover(unsigned).await? {
            match recovered {
                Ok(transaction) => ready.push((place, Admitted::Plain(transaction))),
                Err(error) => results[place] = Some(Err(error)),
            }
        }
        let (places, sealed): (Vec<_>, Vec<_>) = sealed.into_iter().unzip();
        for (place, checked) in places.into_iter().zip(self.proofs.check(sealed, source).await?) {
            match checked {
                Ok(checked) => ready.push((place, Admitted::Item(Box::new(checked)))),
                Err(error) => results[place] = Some(Err(error)),
            }
        }
        if !ready.is_empty() {
            let (places, candidates): (Vec<_>, Vec<_>) = ready.into_iter().unzip();
            let answers = self.content.send(Admit { candidates, source }).await.ok()?;
            for (place, answer) in places.into_iter().zip(answers) {
                results[place] = Some(answer);
            }
        }
        Some(results.into_iter().map(|result| result.expect("every place was filled")).collect())
    }
}

type Recovered = Result<Box<cascade_primitives::RecoveredTransaction>, SubmitError>;

async fn recover(unsigned: Vec<(usize, Box<Transaction>)>) -> Option<Vec<(usize, Recovered)>> {
    let on_the_spot = unsigned.len() <= ON_THE_SPOT;
    let work = move || {
        let (places, transactions): (Vec<_>, Vec<_>) = unsigned.into_iter().map(|(place, tx)| (place, *tx)).unzip();
        let recovered = ecdsa::recover_all(transactions).into_iter();
        let recovered = recovered.map(|result| result.map(Box::new).map_err(SubmitError::from));
        places.into_iter().zip(recovered).collect::<Vec<_>>()
    };
    if on_the_spot { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}
