//! Sending arrays to a device.

use hlo::ElementType;
use pjrt_sys::*;

use super::abi::{Padded, call, list};
use super::buffer::Buffer;
use super::client::Client;
use super::device::Device;
use super::element_type;
use super::error::{Error, Result};
use super::event::Event;
use super::host::{HostBytes, HostData};
use super::layout::{self, dense_layout};

/// How host bytes are laid out, and how the device is to lay them out. By default both are dense, the last dimension
/// fastest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferOptions {
    /// The device's dimensions from the fastest to the slowest.
    pub device_minor_to_major: Option<Vec<i64>>,
    /// For each dimension, the bytes from one element to the next on the host. With these a part of a larger array is
    /// sent without a copy of it being made first. Not negative.
    pub host_byte_strides: Option<Vec<i64>>,
}

impl Client {
    /// Sends an array to a device: dense on the host and on the device, the last dimension fastest, in this machine's
    /// byte order.
    ///
    /// The transfer may still be under way when this returns; [`Buffer::ready`] says.
    ///
    /// # Errors
    /// Where dimensions and bytes do not fit each other, the device is another client's, or the plugin fails (out of
    /// memory).
    pub fn buffer_from_host<'a>(
        &self,
        data: impl Into<HostData<'a>>,
        dims: &[i64],
        element_type: ElementType,
        device: &Device,
    ) -> Result<Buffer> {
        let options = TransferOptions::default();
        self.buffer_from_host_with(data, dims, element_type, device, &options)
    }

    /// [`Client::buffer_from_host`] with layouts.
    ///
    /// # Errors
    /// As there; and where a layout does not fit the dimensions.
    pub fn buffer_from_host_with<'a>(
        &self,
        data: impl Into<HostData<'a>>,
        dims: &[i64],
        element_type: ElementType,
        device: &Device,
        options: &TransferOptions,
    ) -> Result<Buffer> {
        let mut data = data.into();
        layout::check_size(data.bytes().len(), dims, element_type, options)?;
        let mut strides = options.host_byte_strides.as_deref();
        let order = options.device_minor_to_major.as_deref();
        if let Some(order) = order {
            layout::check_order(order, dims)?;
        }
        if !device.belongs_to(self.handle()) {
            return Err(Error::ForeignObject { what: "the device" });
        }
        if let Some(order) = order
            && !self.handle().lays_out()
        {
            // The plugin would note the layout and place the elements as they come: so they come as it says.
            let bytes = data.bytes();
            data = layout::arrange(bytes, dims, element_type, strides, order).into();
            strides = None;
        }
        let strides = strides.unwrap_or_default();
        let mut layout = order.map(dense_layout);

        let mut args = Padded::<PJRT_Client_BufferFromHostBuffer_Args>::new();
        args.client = self.handle().raw();
        args.type_ = element_type::to_raw(element_type);
        args.dims = list(dims);
        args.num_dims = dims.len();
        args.byte_strides = list(strides);
        args.num_byte_strides = strides.len();
        args.device = device.raw();
        if let Some(layout) = &mut layout {
            args.device_layout = layout.as_mut_ptr();
        }
        // Owned bytes are leaked here and freed when the plugin is done with them. The raw pointer is taken before the
        // bytes' address, so that nothing moves or is uniquely borrowed while the plugin reads.
        let owner: Option<*mut dyn HostBytes> = match data {
            HostData::Copy(bytes) => {
                args.data = bytes.as_ptr().cast();
                args.host_buffer_semantics =
                    PJRT_HostBufferSemantics_PJRT_HostBufferSemantics_kImmutableOnlyDuringCall;
                None
            }
            HostData::Owned(owner) => {
                let owner = Box::into_raw(owner);
                // SAFETY: just made from a box, and not freed before the call.
                args.data = unsafe { (*owner).as_ref().as_ptr().cast() };
                args.host_buffer_semantics =
                    PJRT_HostBufferSemantics_PJRT_HostBufferSemantics_kImmutableZeroCopy;
                Some(owner)
            }
        };
        let api = self.handle().api();
        // SAFETY: client and device are alive and belong together; dims, strides and layout live through the call; the
        // data is as long as check_size has made sure, and lives through the call (borrowed) or until the plugin says that
        // it is done with it (leaked above).
        let called = unsafe { call!(api, PJRT_Client_BufferFromHostBuffer, &mut args) };
        // SAFETY: on success the event is handed over; on failure it is null.
        let done = unsafe { Event::from_raw(self.handle(), args.done_with_host_buffer) };
        if let Some(owner) = owner.map(Owner) {
            match &called {
                // If the plugin does not take the callback, the bytes stay leaked: it may be using them.
                Ok(()) => done.on_ready(move |_| owner.free())?,
                // There is neither a buffer nor an event: the plugin has let go of the bytes.
                Err(_) => owner.free(),
            }
        }
        called?;
        // SAFETY: the plugin hands the buffer over.
        unsafe { Buffer::from_raw(self.handle(), args.buffer) }
    }
}

/// Leaked host bytes on their way to the callback that frees them.
struct Owner(*mut dyn HostBytes);

// SAFETY: HostBytes are Send, and the pointer owns them.
unsafe impl Send for Owner {}

impl Owner {
    fn free(self) {
        // SAFETY: made by Box::into_raw, and consumed here.
        drop(unsafe { Box::from_raw(self.0) });
    }
}
