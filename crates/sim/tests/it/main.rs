//! Tests of the simulator, and the runs that CI makes with it.

mod decisions;
mod dispersal;
mod economy;
mod epoch_ends;
mod faults;
mod figures;
mod hunt;
mod planted;
mod runs;
mod scenarios;
mod sealed;
mod twins;
