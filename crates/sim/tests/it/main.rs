//! Tests of the simulator, and the runs that CI makes with it.

mod planted;
mod runs;
mod scenarios;
