//! Devices, and descriptions of devices.

use std::ptr::NonNull;
use std::sync::Arc;

use pjrt_sys::*;

use super::abi::{Api, Padded, call, object, text};
use super::error::{Error, Result};
use super::handle::ClientHandle;
use super::named_value::{self, NamedValue};

/// A plugin's description of a device, present or not: devices of a topology have only this.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceDescription {
    /// Unique among the devices of this kind, over all hosts.
    pub id: i32,
    /// The process (host) that the device belongs to.
    pub process_index: i32,
    /// The vendor's name of the kind of device, such as `TPU v5 lite`.
    pub kind: String,
    /// A human-readable line that identifies the device.
    pub debug_string: String,
    /// Further attributes, such as coordinates in the mesh.
    pub attributes: Vec<(String, NamedValue)>,
}

impl DeviceDescription {
    /// # Safety
    /// `raw` is a description of this plugin that lives through the call.
    pub(super) unsafe fn read(
        api: Api,
        raw: NonNull<PJRT_DeviceDescription>,
    ) -> Result<DeviceDescription> {
        let raw = raw.as_ptr();
        let mut id =
            Padded::<PJRT_DeviceDescription_Id_Args>::with(|args| args.device_description = raw);
        let mut process = Padded::<PJRT_DeviceDescription_ProcessIndex_Args>::with(|args| {
            args.device_description = raw;
        });
        let mut kind =
            Padded::<PJRT_DeviceDescription_Kind_Args>::with(|args| args.device_description = raw);
        let mut debug = Padded::<PJRT_DeviceDescription_DebugString_Args>::with(|args| {
            args.device_description = raw;
        });
        let mut attributes = Padded::<PJRT_DeviceDescription_Attributes_Args>::with(|args| {
            args.device_description = raw;
        });
        // SAFETY: the description is alive, and so are the texts and values that it owns; they are
        // copied here.
        unsafe {
            call!(api, PJRT_DeviceDescription_Id, &mut id)?;
            call!(api, PJRT_DeviceDescription_ProcessIndex, &mut process)?;
            call!(api, PJRT_DeviceDescription_Kind, &mut kind)?;
            call!(api, PJRT_DeviceDescription_DebugString, &mut debug)?;
            call!(api, PJRT_DeviceDescription_Attributes, &mut attributes)?;
            Ok(DeviceDescription {
                id: id.id,
                process_index: process.process_index,
                kind: text(kind.device_kind, kind.device_kind_size),
                debug_string: text(debug.debug_string, debug.debug_string_size),
                attributes: named_value::from_raw(attributes.attributes, attributes.num_attributes),
            })
        }
    }
}

/// A device of a client. Clones are the same device, and keep the client alive.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    client: Arc<ClientHandle>,
    raw: NonNull<PJRT_Device>,
    description: DeviceDescription,
    addressable: bool,
    local_hardware_id: i32,
}

// SAFETY: a device is owned by the client that `client` keeps alive; the functions used on it only
// read, and may be called from any thread.
unsafe impl Send for Inner {}
// SAFETY: as for Send.
unsafe impl Sync for Inner {}

impl Device {
    /// # Safety
    /// `raw` is a device of `client`.
    pub(super) unsafe fn from_raw(
        client: &Arc<ClientHandle>,
        raw: NonNull<PJRT_Device>,
    ) -> Result<Device> {
        let api = client.api();
        let device = raw.as_ptr();
        let mut description =
            Padded::<PJRT_Device_GetDescription_Args>::with(|args| args.device = device);
        let mut addressable =
            Padded::<PJRT_Device_IsAddressable_Args>::with(|args| args.device = device);
        let mut hardware =
            Padded::<PJRT_Device_LocalHardwareId_Args>::with(|args| args.device = device);
        // SAFETY: the device and its description live as long as the client.
        let description = unsafe {
            call!(api, PJRT_Device_GetDescription, &mut description)?;
            call!(api, PJRT_Device_IsAddressable, &mut addressable)?;
            DeviceDescription::read(
                api,
                object(description.device_description, "PJRT_Device_GetDescription")?,
            )?
        };
        // SAFETY: as above. A device of another host has no such id here.
        let local_hardware_id =
            match unsafe { call!(api, PJRT_Device_LocalHardwareId, &mut hardware) } {
                Ok(()) => hardware.local_hardware_id,
                Err(_) => -1,
            };
        Ok(Device(Arc::new(Inner {
            client: Arc::clone(client),
            raw,
            description,
            addressable: addressable.is_addressable,
            local_hardware_id,
        })))
    }

    pub(super) fn raw(&self) -> *mut PJRT_Device {
        self.0.raw.as_ptr()
    }

    pub(super) fn client(&self) -> &Arc<ClientHandle> {
        &self.0.client
    }

    pub(super) fn belongs_to(&self, client: &Arc<ClientHandle>) -> bool {
        Arc::ptr_eq(&self.0.client, client)
    }

    /// Unique among the devices of this kind, over all hosts. What a device assignment names.
    pub fn id(&self) -> i32 {
        self.0.description.id
    }

    /// The process (host) that the device belongs to.
    pub fn process_index(&self) -> i32 {
        self.0.description.process_index
    }

    /// The vendor's name of the kind of device, such as `TPU v5 lite`.
    pub fn kind(&self) -> &str {
        &self.0.description.kind
    }

    /// A human-readable line that identifies the device.
    pub fn debug_string(&self) -> &str {
        &self.0.description.debug_string
    }

    /// Further attributes, such as the device's coordinates.
    pub fn attributes(&self) -> &[(String, NamedValue)] {
        &self.0.description.attributes
    }

    /// Whether this client can run programs on it; it cannot on a device of another host.
    pub fn is_addressable(&self) -> bool {
        self.0.addressable
    }

    /// The number that the hardware's driver gives the device; -1 where it has none.
    pub fn local_hardware_id(&self) -> i32 {
        self.0.local_hardware_id
    }

    /// The counters of the device's allocator; `None` where the plugin has none, as the CPU
    /// plugins.
    ///
    /// # Errors
    /// Where the plugin fails for another reason than not implementing it.
    pub fn memory_stats(&self) -> Result<Option<MemoryStats>> {
        let mut args =
            Padded::<PJRT_Device_MemoryStats_Args>::with(|args| args.device = self.raw());
        // SAFETY: the device lives as long as the client, which self keeps.
        match unsafe { call!(self.0.client.api(), PJRT_Device_MemoryStats, &mut args) } {
            Ok(()) => {}
            Err(error) if error.is_unimplemented() => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(MemoryStats {
            bytes_in_use: args.bytes_in_use,
            peak_bytes_in_use: args
                .peak_bytes_in_use_is_set
                .then_some(args.peak_bytes_in_use),
            bytes_limit: args.bytes_limit_is_set.then_some(args.bytes_limit),
            largest_alloc_size: args
                .largest_alloc_size_is_set
                .then_some(args.largest_alloc_size),
            largest_free_block_bytes: args
                .largest_free_block_bytes_is_set
                .then_some(args.largest_free_block_bytes),
            num_allocs: args.num_allocs_is_set.then_some(args.num_allocs),
        }))
    }

    /// The memory that the device uses by default.
    pub(super) fn default_memory(&self) -> Result<NonNull<PJRT_Memory>> {
        let mut args =
            Padded::<PJRT_Device_DefaultMemory_Args>::with(|args| args.device = self.raw());
        // SAFETY: the device lives as long as the client, which self keeps.
        unsafe { call!(self.0.client.api(), PJRT_Device_DefaultMemory, &mut args) }?;
        object(args.memory, "PJRT_Device_DefaultMemory")
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        self.0.raw == other.0.raw && Arc::ptr_eq(&self.0.client, &other.0.client)
    }
}

impl Eq for Device {}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("description", &self.0.description)
            .field("addressable", &self.0.addressable)
            .finish()
    }
}

/// The devices of `devices` that a plugin returned by pointer.
pub(super) fn pick(
    devices: &[Device],
    raw: &[*mut PJRT_Device],
    call: &'static str,
) -> Result<Vec<Device>> {
    raw.iter()
        .map(|&raw| {
            devices
                .iter()
                .find(|device| device.raw() == raw)
                .cloned()
                .ok_or(Error::BadAnswer {
                    call,
                    what: "a device that the client does not list",
                })
        })
        .collect()
}

/// The counters of a device's allocator, in bytes; `None` where the plugin does not provide one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes allocated now.
    pub bytes_in_use: i64,
    /// The most bytes ever allocated at once.
    pub peak_bytes_in_use: Option<i64>,
    /// Bytes that may be allocated at most.
    pub bytes_limit: Option<i64>,
    /// The largest allocation so far.
    pub largest_alloc_size: Option<i64>,
    /// The largest block that is free now.
    pub largest_free_block_bytes: Option<i64>,
    /// How many allocations there are (not bytes).
    pub num_allocs: Option<i64>,
}
