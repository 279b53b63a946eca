//! A light client against peers that are honest, slow, poor or hostile.

mod catch_up;
mod codec;
mod following;
mod state;
mod trust;
mod world;
