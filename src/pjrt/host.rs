//! Host memory that goes to a device.

use std::ops::{Deref, DerefMut};

/// A small allocation is aligned so that XLA's CPU client can use it in place: it asks for 64 bytes.
const SMALL_ALIGNMENT: usize = 64;
/// A large one begins on a page, which transfers to accelerators prefer.
const LARGE_ALIGNMENT: usize = 4096;
/// Where large begins: here the alignment costs a sixteenth at most.
const LARGE: usize = 64 * 1024;

/// Zeroed bytes on the host, aligned so that a plugin may use them without a copy.
///
/// Large ones come from the operating system as untouched pages: zeroing them costs nothing until they are written.
pub struct HostBuffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl HostBuffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> HostBuffer {
        let alignment = if len < LARGE {
            SMALL_ALIGNMENT
        } else {
            LARGE_ALIGNMENT
        };
        // A Vec keeps its allocation when it moves, so the offset found here holds.
        let storage = vec![0; len.saturating_add(alignment)];
        let start = storage.as_ptr().align_offset(alignment).min(alignment);
        HostBuffer {
            storage,
            start,
            len,
        }
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl From<&[u8]> for HostBuffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = HostBuffer::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

impl Deref for HostBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for HostBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBuffer")
            .field("len", &self.len)
            .finish()
    }
}

/// Bytes that are given away to a device: a [`HostBuffer`], a file in memory, a part of something shared.
pub trait HostBytes: AsRef<[u8]> + Send + Sync + 'static {}

impl<T: AsRef<[u8]> + Send + Sync + 'static> HostBytes for T {}

/// Where a device buffer's data comes from.
pub enum HostData<'a> {
    /// Bytes that the plugin copies before the call returns.
    Copy(&'a [u8]),
    /// Bytes that the plugin may use in place (where they are aligned and laid out as the device wants them), and that are
    /// dropped when neither it nor the device buffer needs them any more: perhaps later than the device buffer, and on
    /// another thread.
    Owned(Box<dyn HostBytes>),
}

impl HostData<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            HostData::Copy(bytes) => bytes,
            HostData::Owned(owner) => (**owner).as_ref(),
        }
    }
}

impl<'a> From<&'a [u8]> for HostData<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        HostData::Copy(bytes)
    }
}

impl From<HostBuffer> for HostData<'_> {
    fn from(buffer: HostBuffer) -> Self {
        HostData::Owned(Box::new(buffer))
    }
}

impl std::fmt::Debug for HostData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, len) = match self {
            HostData::Copy(bytes) => ("Copy", bytes.len()),
            HostData::Owned(owner) => ("Owned", (**owner).as_ref().len()),
        };
        f.debug_tuple(name).field(&len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_buffers_are_zeroed_and_aligned_and_stay_so_when_moved() {
        for len in [0, 1, 63, 64, 4095, LARGE, LARGE + 1] {
            let buffer = Box::new(HostBuffer::zeroed(len));
            let moved = *buffer;
            let alignment = if len < LARGE { 64 } else { 4096 };
            assert_eq!(moved.as_ptr() as usize % alignment, 0, "{len} bytes");
            assert_eq!(moved.len(), len);
            assert!(moved.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_host_buffer_holds_what_is_written_to_it() {
        let mut buffer = HostBuffer::from([1, 2, 3].as_slice());
        buffer[1] = 7;
        assert_eq!(&*buffer, [1, 7, 3]);
    }
}
