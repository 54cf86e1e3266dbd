//! Arrays on a device, and reading them.

use std::ptr::NonNull;
use std::sync::Arc;

use hlo::ElementType;
use pjrt_sys::*;

use super::abi::{Padded, call, object, slice};
use super::device::Device;
use super::element_type::{self, byte_size};
use super::error::{Error, Result};
use super::event::Event;
use super::handle::ClientHandle;
use super::layout::{self, dense_layout};

/// An array on a device.
///
/// A program that takes it as a donated parameter consumes it: every later use is an error.
pub struct Buffer {
    client: Arc<ClientHandle>,
    raw: NonNull<PJRT_Buffer>,
    element_type: ElementType,
    dims: Vec<i64>,
}

// SAFETY: the plugin counts references to a buffer's memory under a lock of its own, and its
// functions on buffers may be called from any thread; the rest is plain data.
unsafe impl Send for Buffer {}
// SAFETY: as for Send. Deletion and donation on one thread make a use on another an error of the
// plugin.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// # Safety
    /// `raw` is null or a buffer of `client` that the caller hands over.
    pub(super) unsafe fn from_raw(
        client: &Arc<ClientHandle>,
        raw: *mut PJRT_Buffer,
    ) -> Result<Buffer> {
        let mut buffer = Buffer {
            client: Arc::clone(client),
            raw: object(raw, "a function that makes a buffer")?,
            element_type: ElementType::Pred,
            dims: Vec::new(),
        };
        let mut kind = Padded::<PJRT_Buffer_ElementType_Args>::with(|args| args.buffer = raw);
        let mut dims = Padded::<PJRT_Buffer_Dimensions_Args>::with(|args| args.buffer = raw);
        // SAFETY: the buffer is alive, and the dimensions live as long as it.
        unsafe {
            call!(client.api(), PJRT_Buffer_ElementType, &mut kind)?;
            call!(client.api(), PJRT_Buffer_Dimensions, &mut dims)?;
            buffer.dims = slice(dims.dims, dims.num_dims).to_vec();
        }
        buffer.element_type = element_type::from_raw(kind.type_)?;
        Ok(buffer)
    }

    pub(super) fn raw(&self) -> *mut PJRT_Buffer {
        self.raw.as_ptr()
    }

    pub(super) fn belongs_to(&self, client: &Arc<ClientHandle>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    /// The size of each dimension.
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ElementType {
        self.element_type
    }

    /// Bytes of the array on the host, dense.
    ///
    /// # Errors
    /// [`Error::Dimensions`] where that cannot be addressed.
    pub fn host_size(&self) -> Result<usize> {
        byte_size(self.element_type, &self.dims)
    }

    /// Bytes that the array takes on the device, padding included.
    ///
    /// # Errors
    /// Where the buffer is deleted or the plugin does not provide the size.
    pub fn on_device_size(&self) -> Result<usize> {
        self.check_alive()?;
        let mut args =
            Padded::<PJRT_Buffer_OnDeviceSizeInBytes_Args>::with(|args| args.buffer = self.raw());
        // SAFETY: the buffer is alive as long as self.
        unsafe {
            call!(
                self.client.api(),
                PJRT_Buffer_OnDeviceSizeInBytes,
                &mut args
            )
        }?;
        Ok(args.on_device_size_in_bytes)
    }

    /// Waits for the array and copies it to `dst`: dense, the last dimension fastest, whatever the
    /// device's layout.
    ///
    /// # Errors
    /// Where `dst` is not of the array's size, the buffer is deleted, or what computed it failed.
    pub fn to_host(&self, dst: &mut [u8]) -> Result<()> {
        let expected = self.host_size()?;
        if dst.len() != expected {
            return Err(Error::HostSize {
                element_type: self.element_type,
                dims: self.dims.clone(),
                expected,
                actual: dst.len(),
            });
        }
        self.check_alive()?;
        let row_major: Vec<i64> = (0..self.dims.len() as i64).rev().collect();
        self.transfer(dst, Some(dense_layout(&row_major)))?;
        if !self.client.lays_out() {
            // The bytes came in the device's layout.
            let order = self.minor_to_major()?;
            if order != row_major {
                let dense = layout::rearrange(dst, &self.dims, self.element_type, &order);
                dst.copy_from_slice(&dense);
            }
        }
        Ok(())
    }

    /// Waits for the array and copies it to `dst` in the device's layout, without its tiles.
    pub(super) fn to_host_in_device_layout(&self, dst: &mut [u8]) -> Result<()> {
        self.transfer(dst, None)
    }

    /// Waits for the array and copies it to `dst`, which is of its size, in the layout given or
    /// else the device's.
    fn transfer(
        &self,
        dst: &mut [u8],
        mut layout: Option<Padded<PJRT_Buffer_MemoryLayout>>,
    ) -> Result<()> {
        let mut args = Padded::<PJRT_Buffer_ToHostBuffer_Args>::new();
        args.src = self.raw();
        if let Some(layout) = &mut layout {
            args.host_layout = layout.as_mut_ptr();
        }
        args.dst = dst.as_mut_ptr().cast();
        args.dst_size = dst.len();
        // SAFETY: the buffer is alive as long as self, the layout lives through the call, and dst
        // is borrowed until the wait below has ended.
        let event = unsafe {
            call!(self.client.api(), PJRT_Buffer_ToHostBuffer, &mut args)?;
            Event::from_raw(&self.client, args.event)
        };
        event.wait()
    }

    /// The dimensions from the fastest to the slowest, where the device's layout has no tiles.
    fn minor_to_major(&self) -> Result<Vec<i64>> {
        let mut args =
            Padded::<PJRT_Buffer_GetMemoryLayout_Args>::with(|args| args.buffer = self.raw());
        // SAFETY: the buffer is alive as long as self.
        unsafe { call!(self.client.api(), PJRT_Buffer_GetMemoryLayout, &mut args) }?;
        let bad = |what| Error::BadAnswer {
            call: "PJRT_Buffer_GetMemoryLayout",
            what,
        };
        if args.layout.type_ != PJRT_Buffer_MemoryLayout_Type_PJRT_Buffer_MemoryLayout_Type_Tiled {
            return Err(bad("strides instead of an order of the dimensions"));
        }
        // SAFETY: the type says that this member of the union was written; the layout's array lives
        // as long as the buffer.
        let order = unsafe {
            let tiled = args.layout.__bindgen_anon_1.tiled;
            slice(tiled.minor_to_major, tiled.minor_to_major_size)
        };
        layout::check_order(order, &self.dims)
            .map_err(|_| bad("an order of other dimensions than the buffer's"))?;
        Ok(order.to_vec())
    }

    /// [`Buffer::to_host`] into a new vector.
    ///
    /// # Errors
    /// As there.
    pub fn to_host_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.host_size()?];
        self.to_host(&mut bytes)?;
        Ok(bytes)
    }

    /// The elements of an F32 array.
    ///
    /// # Errors
    /// [`Error::ElementTypeMismatch`]; and as [`Buffer::to_host`].
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        self.to_elements(ElementType::F32, f32::from_ne_bytes)
    }

    /// The elements of an S32 array.
    ///
    /// # Errors
    /// [`Error::ElementTypeMismatch`]; and as [`Buffer::to_host`].
    pub fn to_vec_i32(&self) -> Result<Vec<i32>> {
        self.to_elements(ElementType::S32, i32::from_ne_bytes)
    }

    fn to_elements<T, const SIZE: usize>(
        &self,
        asked: ElementType,
        parse: impl Fn([u8; SIZE]) -> T,
    ) -> Result<Vec<T>> {
        if self.element_type != asked {
            return Err(Error::ElementTypeMismatch {
                asked,
                actual: self.element_type,
            });
        }
        let bytes = self.to_host_vec()?;
        Ok(bytes.as_chunks().0.iter().copied().map(parse).collect())
    }

    /// Copies the array to another device of the client.
    ///
    /// # Errors
    /// Where it is on that device already, the device is another client's, or the plugin fails.
    pub fn copy_to_device(&self, device: &Device) -> Result<Buffer> {
        if !device.belongs_to(&self.client) {
            return Err(Error::ForeignObject { what: "the device" });
        }
        self.check_alive()?;
        let mut args = Padded::<PJRT_Buffer_CopyToDevice_Args>::with(|args| {
            args.buffer = self.raw();
            args.dst_device = device.raw();
        });
        // SAFETY: buffer and device are alive and of one client.
        match unsafe { call!(self.client.api(), PJRT_Buffer_CopyToDevice, &mut args) } {
            // SAFETY: the plugin hands the copy over.
            Ok(()) => unsafe { Buffer::from_raw(&self.client, args.dst_buffer) },
            Err(error) if error.is_unimplemented() => self.copy_to_memory(device),
            Err(error) => Err(error),
        }
    }

    /// The same by way of the device's memory, for plugins that only have this.
    fn copy_to_memory(&self, device: &Device) -> Result<Buffer> {
        let memory = device.default_memory()?;
        let mut args = Padded::<PJRT_Buffer_CopyToMemory_Args>::with(|args| {
            args.buffer = self.raw();
            args.dst_memory = memory.as_ptr();
        });
        // SAFETY: buffer and memory are alive and of one client; the plugin hands the copy over.
        unsafe {
            call!(self.client.api(), PJRT_Buffer_CopyToMemory, &mut args)?;
            Buffer::from_raw(&self.client, args.dst_buffer)
        }
    }

    /// Frees the device's memory as soon as no work uses it. Using the buffer afterwards is an
    /// error.
    ///
    /// # Errors
    /// Where the plugin fails.
    pub fn delete(&self) -> Result<()> {
        let mut args = Padded::<PJRT_Buffer_Delete_Args>::with(|args| args.buffer = self.raw());
        // SAFETY: the buffer is alive as long as self; deleting twice is allowed.
        unsafe { call!(self.client.api(), PJRT_Buffer_Delete, &mut args) }
    }

    /// Whether the buffer was deleted, or donated to an execution.
    ///
    /// # Errors
    /// Where the plugin does not provide it.
    pub fn is_deleted(&self) -> Result<bool> {
        let mut args = Padded::<PJRT_Buffer_IsDeleted_Args>::with(|args| args.buffer = self.raw());
        // SAFETY: the buffer is alive as long as self.
        unsafe { call!(self.client.api(), PJRT_Buffer_IsDeleted, &mut args) }?;
        Ok(args.is_deleted)
    }

    /// The event of the array's completion. Waiting for it returns the error of the transfer or
    /// execution that was to fill the array.
    ///
    /// # Errors
    /// Where the buffer is deleted or the plugin fails.
    pub fn ready(&self) -> Result<Event> {
        self.check_alive()?;
        let mut args = Padded::<PJRT_Buffer_ReadyEvent_Args>::with(|args| args.buffer = self.raw());
        // SAFETY: the buffer is alive as long as self; the plugin hands the event over.
        unsafe {
            call!(self.client.api(), PJRT_Buffer_ReadyEvent, &mut args)?;
            Ok(Event::from_raw(&self.client, args.event))
        }
    }

    fn check_alive(&self) -> Result<()> {
        if self.is_deleted()? {
            return Err(Error::BufferDeleted);
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut args = Padded::<PJRT_Buffer_Destroy_Args>::with(|args| args.buffer = self.raw());
        // SAFETY: the buffer is ours and is not used after this. Work under way keeps its memory.
        if let Err(error) = unsafe { call!(self.client.api(), PJRT_Buffer_Destroy, &mut args) } {
            tracing::debug!("freeing a buffer: {error}");
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({}{:?})", self.element_type.name(), self.dims)
    }
}
