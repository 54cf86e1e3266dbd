//! The largest sizes that an npz file of numpy's can have.

/// How far deflate can compress: 258 bytes into two bits.
pub(super) const MAX_RATIO: u64 = 1032;
/// The longest dictionary that is read, in bytes, as in numpy.
pub(super) const MAX_HEADER: usize = 10_000;
/// The most dimensions of an array, as in numpy.
pub(super) const MAX_RANK: usize = 64;
