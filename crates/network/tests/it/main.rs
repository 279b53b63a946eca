//! Networks on real sockets of the loopback interface.

mod discovery;
mod helpers;
mod hostile;
mod limits;
mod links;
mod raw;
