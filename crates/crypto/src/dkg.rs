//! Distributed key generation through the agreed log (decision 10 of the architecture).
//!
//! Members of the current committee, the *dealers*, make the keys of the next committee, the *recipients*, and nobody
//! learns them. One log item of each dealer suffices:
//!
//! ```text
//!   recipient    RecipientKey   its encryption key for the epoch, with a proof that it holds it      [`recipient`]
//!   dealer       Dealing        two secrets shared among all seats, each share encrypted to its
//!                               recipient, with a proof that anybody can check                      [`dealing`]
//!   everybody    KeyGeneration  the first signed dealing of each dealer counts; once dealers with q of
//!                               the current seats are in, the sums of what they dealt are the keys  [`machine`]
//! ```
//!
//! # What holds
//!
//! 1. *Whoever the log has dealt to has its share.* An accepted dealing holds, for each recipient, a ciphertext that is
//!    proven to open to the share that the public key says. So a recipient that was away throughout reads its shares
//!    from the log whenever it comes back, as long as it kept its encryption key; no dealer, helper or complaint is
//!    needed, and a dealer can do nothing after its dealing but be silent.
//! 2. *q-1 seats learn nothing.* A recipient learns its own shares and nothing else, and q-1 points say nothing about
//!    the value at zero of a polynomial of degree q-1. Dealers with q seats take part, so q-1 colluding seats of the
//!    current committee miss the contribution of at least one dealer, of which they know nothing.
//! 3. *It ends.* Honest dealers hold q seats; their dealings are valid, whatever the others do.
//! 4. *A copied dealing opens nothing.* All challenges and pads are bound to chain, genesis, fork, epoch, committee and
//!    dealer. The proof is one of knowledge: two answers to different challenges give the shares away (open instance j
//!    in one and leave it sealed in the other, and its pads and padded shares are both known). So nobody can deal what
//!    it does not know, another's secret or its negative.
//!
//! Whoever deals last sees the others' public values and can choose its own accordingly: it can bias some bits of the
//! public key, never know its secret. ElGamal encryption and BLS signatures keep their security under such a bias
//! (Gurkan et al., ePrint 2021/005, "key-expressable" key generation; for Schnorr signatures Gennaro et al., J. Cryptology
//! 20(1), 2007).
//!
//! # Why publicly verifiable sharing, and why this one
//!
//! Decision 10 leaves two ways. *Asymmetric bivariate sharing* (hbbft's scheme with degree q-1 for the secret and f for
//! recovery) lets f+1 helpers rebuild anybody's share from what they hold; therefore f+1 seats that keep what they
//! should have erased can together rebuild *all* shares, and the promise would be f+1, not q. Its log items:
//! commitments q(f+1), columns S q, and q to S acknowledgements of S values each, for each dealing and both keys.
//! *Publicly verifiable sharing with scalar shares* has neither problem. Groth's (ePrint 2021/339) encrypts each share
//! in 16 chunks of 16 bits with a proof of approximate range, so that a cheated recipient searches for a discrete
//! logarithm; that makes about 1.6 KB for each seat and both keys and the most intricate proof of this code base.
//!
//! We encrypt whole scalars with a hash-derived pad and prove it by *cut and choose* (Camenisch and Damgard, ASIACRYPT
//! 2000; Takahashi and Zaverucha, ePrint 2021/1704, for many recipients at once). Each dealing has 256 instances:
//!
//! ```text
//!   instance j     e_j from a seed,  E_j = e_j G1
//!                  pad h_js = hash(context, j, e_j PK of the seat's recipient)       for each seat s and key
//!                  c_js = share_s + h_js
//!   1. dealer commits   coefficients of both polynomials in G2, all E_j, and a hash of each (salt, c_j)
//!   2. weights w_s      from the hash of that
//!   3. dealer commits   T_j = (sum_s w_s h_js) G1, and X = (sum_s w_s share_s) G1
//!   4. challenge        the hash of that: which 30 instances stay sealed
//!   5. 226 opened       seed and hash of (salt, c_j):        E_j, pads and T_j follow
//!      30 sealed        E_j, salt, c_j:                      T_j = (sum_s w_s c_js) G1 - X follows
//!   verifier            recomputes 3 and 4; checks e(X, G2) = e(G1, sum_s w_s share_s G2) from the coefficients
//! ```
//!
//! A sealed instance that cheats any recipient, c_js /= share_s + h_js, has a T_j that cannot be right both opened and
//! sealed, but for a chance of 1/r over the weights. A dealer cheats a recipient only if *all* 30 sealed instances do,
//! so exactly one of C(256, 30) = 2^129.7 challenges serves it, and each try costs a hash. The recipient tries the
//! sealed instances until one opens to its public share. Shares stay hidden: of an instance either pads or padded shares
//! are shown, never both, and the commitments are salted.
//!
//! Bytes of a dealing, for both keys: 226 x 64 + 30 (84 + 64 S) + 192 q + 298. The last column is computed, not built:
//!
//! | seats | a dealing | q dealings, the epoch's log | the same with bivariate sharing, all acknowledging |
//! |---|---|---|---|
//! | 4 | 26 KB | 77 KB | 8 KB |
//! | 16 | 50 KB | 0.55 MB | 0.39 MB |
//! | 32 | 83 KB | 1.8 MB | 3.0 MB |
//! | 64 | 148 KB | 6.4 MB | 23 MB |
//!
//! Times stand in benches/README.md. Verification is 226 multiplications for each recipient, with a table for each; it
//! needs no secret and no state, so a node checks a dealing when it hears of it and only looks the result up when the
//! log has it. An epoch lasts thousands of blocks; all of this happens in the background of it.

pub mod dealing;
pub mod machine;
pub(crate) mod polynomial;
pub mod recipient;
mod transcript;

pub use dealing::{Dealing, DealingError, INSTANCES, SEALED, VerifiedDealing};
pub use machine::{KeyGeneration, Parameters, ParametersError, Progress, Refusal};
pub use recipient::{RecipientKey, RecipientSecret};

#[cfg(test)]
mod tests;
