//! Host memory that goes to a device.

use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};

/// A small allocation is aligned so that XLA's CPU client can use it in place: it requires 64
/// bytes.
const SMALL_ALIGNMENT: usize = 64;
/// A large one is aligned to the huge pages of x86-64.
const LARGE_ALIGNMENT: usize = 2 << 20;

/// Zeroed bytes on the host, aligned so that a plugin may use them without a copy.
///
/// Large ones come from the operating system as untouched pages: zeroing them costs nothing until
/// they are written. They are huge pages where the system provides them: then reading a matrix once
/// per token does not cost a page table walk every 4 KiB, and filling it costs a page fault only
/// every 2 MiB.
pub struct HostBuffer {
    storage: Storage,
    start: usize,
    len: usize,
}

enum Storage {
    Heap(Vec<u8>),
    Pages(MmapMut),
}

impl HostBuffer {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> HostBuffer {
        if len >= LARGE_ALIGNMENT
            && let Ok(pages) = MmapMut::map_anon(len.saturating_add(LARGE_ALIGNMENT))
        {
            // A kernel without huge pages refuses; the memory works without them.
            let _ = pages.advise(Advice::HugePage);
            return HostBuffer::aligned(Storage::Pages(pages), LARGE_ALIGNMENT, len);
        }
        let storage = vec![0; len.saturating_add(SMALL_ALIGNMENT)];
        HostBuffer::aligned(Storage::Heap(storage), SMALL_ALIGNMENT, len)
    }

    /// The first `len` bytes of the storage from an aligned address on; it is `alignment` longer
    /// than that.
    fn aligned(storage: Storage, alignment: usize, len: usize) -> HostBuffer {
        // Neither kind of storage moves in memory when its owner is moved, so the offset found here
        // holds.
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

impl Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Storage::Heap(bytes) => bytes,
            Storage::Pages(pages) => pages,
        }
    }
}

impl DerefMut for Storage {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Storage::Heap(bytes) => bytes,
            Storage::Pages(pages) => pages,
        }
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

/// Bytes whose ownership passes to a device: a [`HostBuffer`], a mapped file, a part of shared
/// data.
pub trait HostBytes: AsRef<[u8]> + Send + Sync + 'static {}

impl<T: AsRef<[u8]> + Send + Sync + 'static> HostBytes for T {}

/// Where a device buffer's data comes from.
pub enum HostData<'a> {
    /// Bytes that the plugin copies before the call returns.
    Copy(&'a [u8]),
    /// Bytes that the plugin may use in place (where their alignment and layout suit the device).
    /// They are dropped when neither the plugin nor the device buffer needs them any more, which
    /// may be later than the device buffer and on another thread.
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

/// Bytes that several devices are given; those that use them in place share them.
impl From<std::sync::Arc<HostBuffer>> for HostData<'_> {
    fn from(buffer: std::sync::Arc<HostBuffer>) -> Self {
        struct Shared(std::sync::Arc<HostBuffer>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        HostData::Owned(Box::new(Shared(buffer)))
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
        for len in [0, 1, 63, 64, 4095, LARGE_ALIGNMENT, LARGE_ALIGNMENT + 1] {
            let buffer = Box::new(HostBuffer::zeroed(len));
            let moved = *buffer;
            let alignment = if len < LARGE_ALIGNMENT {
                SMALL_ALIGNMENT
            } else {
                LARGE_ALIGNMENT
            };
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
