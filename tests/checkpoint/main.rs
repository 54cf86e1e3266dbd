//! The checkpoint reader, through the library: what Flax writes is read, and whatever else is there is named.

mod chunks;
mod encode;
mod expected;
mod flax;
mod index;
mod malformed;
mod mangled;
mod reading;
