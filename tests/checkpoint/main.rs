//! The checkpoint reader, through the library: what Flax writes is read, and whatever else is there
//! is named.

mod chunks;
mod encode;
mod expected;
mod flax;
mod foreign;
mod index;
mod malformed;
mod mangled;
mod mangled_forms;
mod namings;
mod npz;
mod orbax;
mod reading;
mod safetensors;
mod samples;
mod untidy;
