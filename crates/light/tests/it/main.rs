//! A light client against peers that are honest, slow, poor or hostile.

mod catch_up;
mod codec;
mod following;
mod trust;
mod world;
