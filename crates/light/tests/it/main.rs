//! A light client against peers that are honest, slow, poor or hostile.

mod catch_up;
mod codec;
mod evidence;
mod following;
mod hostile;
mod state;
mod trust;
mod unsampled;
mod world;
