//! Sending arrays to a device.

use hlo::ElementType;
use pjrt_sys::*;

use super::abi::{Padded, call, list};
use super::buffer::Buffer;
use super::device::Device;
use super::element_type;
use super::error::Result;
use super::event::Event;
use super::host::{HostBytes, HostData};
use super::layout::{self, dense_layout};
use super::options::TransferOptions;

impl Buffer {
    /// Sends an array to a device: dense on the host and on the device, the last dimension fastest,
    /// in this machine's byte order.
    ///
    /// The transfer may still be in progress when this returns: see [`Buffer::ready`].
    ///
    /// # Errors
    /// Where dimensions and bytes do not fit each other, or the plugin fails (out of memory).
    pub fn from_host<'a>(
        device: &Device,
        data: impl Into<HostData<'a>>,
        dims: &[i64],
        element_type: ElementType,
    ) -> Result<Buffer> {
        let options = TransferOptions::default();
        Buffer::from_host_with(device, data, dims, element_type, &options)
    }

    /// [`Buffer::from_host`] with layouts.
    ///
    /// # Errors
    /// As there; and where a layout does not fit the dimensions.
    pub fn from_host_with<'a>(
        device: &Device,
        data: impl Into<HostData<'a>>,
        dims: &[i64],
        element_type: ElementType,
        options: &TransferOptions,
    ) -> Result<Buffer> {
        let mut data = Source::from(data.into());
        layout::check_size(data.bytes().len(), dims, element_type, options)?;
        let mut strides = options.host_byte_strides.as_deref();
        let order = options.device_minor_to_major.as_deref();
        if let Some(order) = order {
            layout::check_order(order, dims)?;
        }
        let client = device.client();
        if let Some(order) = order
            && !client.lays_out()
        {
            // The plugin would record the layout but copy the elements unchanged, so they are
            // arranged here.
            let arranged = layout::arrange(data.bytes(), dims, element_type, strides, order);
            data = Source::from(HostData::from(arranged));
            strides = None;
        }
        let strides = strides.unwrap_or_default();
        let mut layout = order.map(dense_layout);

        let mut args = Padded::<PJRT_Client_BufferFromHostBuffer_Args>::new();
        args.client = client.raw();
        args.data = data.bytes().as_ptr().cast();
        args.type_ = element_type::to_raw(element_type);
        args.dims = list(dims);
        args.num_dims = dims.len();
        args.byte_strides = list(strides);
        args.num_byte_strides = strides.len();
        args.host_buffer_semantics = match data {
            Source::Borrowed(_) => {
                PJRT_HostBufferSemantics_PJRT_HostBufferSemantics_kImmutableOnlyDuringCall
            }
            Source::Owned(_) => {
                PJRT_HostBufferSemantics_PJRT_HostBufferSemantics_kImmutableZeroCopy
            }
        };
        args.device = device.raw();
        if let Some(layout) = &mut layout {
            args.device_layout = layout.as_mut_ptr();
        }
        let api = client.api();
        // SAFETY: the device keeps its client alive; dims, strides and layout live through the
        // call; the data is as long as check_size has ensured, and lives through the call
        // (borrowed) or until the plugin reports that it is done with it (owned: see below). The
        // plugin hands event and buffer over.
        let (done, buffer) = unsafe {
            // On failure there is neither a buffer nor an event: the plugin has let go of the data,
            // and it is dropped.
            call!(api, PJRT_Client_BufferFromHostBuffer, &mut args)?;
            (
                Event::from_raw(client, args.done_with_host_buffer),
                Buffer::from_raw(client, args.buffer),
            )
        };
        if let Source::Owned(owned) = data {
            // If the plugin refuses the callback, the bytes are leaked: it may be using them.
            done.on_ready(move |_| drop(owned))?;
        }
        buffer
    }
}

/// Where the bytes of a transfer come from.
enum Source<'a> {
    Borrowed(&'a [u8]),
    Owned(OwnedBytes),
}

impl Source<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::Borrowed(bytes) => bytes,
            Source::Owned(owned) => owned.bytes(),
        }
    }
}

impl<'a> From<HostData<'a>> for Source<'a> {
    fn from(data: HostData<'a>) -> Self {
        match data {
            HostData::Copy(bytes) => Source::Borrowed(bytes),
            HostData::Owned(owner) => Source::Owned(OwnedBytes::new(owner)),
        }
    }
}

/// Bytes and their owner, which is not accessed until it is dropped: the plugin reads the bytes
/// meanwhile.
struct OwnedBytes {
    owner: *mut dyn HostBytes,
    bytes: *const [u8],
}

// SAFETY: owns a HostBytes, which is Send; the bytes are the owner's, and are only read.
unsafe impl Send for OwnedBytes {}

impl OwnedBytes {
    fn new(owner: Box<dyn HostBytes>) -> OwnedBytes {
        // As a raw pointer the owner may move and its bytes be read at the same time; a box would
        // claim to be alone.
        let owner = Box::into_raw(owner);
        // The owner is asked once: a second call might return other bytes. SAFETY: just made from a
        // box.
        let bytes: *const [u8] = unsafe { (*owner).as_ref() };
        OwnedBytes { owner, bytes }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: borrowed from the owner, which stays as it is until self is dropped.
        unsafe { &*self.bytes }
    }
}

impl Drop for OwnedBytes {
    fn drop(&mut self) {
        // SAFETY: made by Box::into_raw, and freed only here.
        drop(unsafe { Box::from_raw(self.owner) });
    }
}
