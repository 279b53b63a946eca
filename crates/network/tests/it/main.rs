//! Networks on real sockets of the loopback interface.

mod budget;
mod discovery;
mod helpers;
mod hostile;
mod hostile_siege;
mod hostile_wire;
mod limits;
mod links;
mod raw;
