//! Clients: how a plugin's devices are used.

use std::sync::Arc;

use hlo::ElementType;
use pjrt_sys::*;

use super::abi::{Padded, call, object, slice, text};
use super::buffer::Buffer;
use super::device::{Device, pick};
use super::error::{Error, Result};
use super::handle::ClientHandle;
use super::named_value::NamedValue;
use super::options::{TransferOptions, count};
use super::plugin::Plugin;
use super::threads;

/// A client. Clones share it; it is destroyed when the last of its clones, devices, buffers,
/// executables and events is dropped.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    handle: Arc<ClientHandle>,
    platform_name: String,
    platform_version: String,
    process_index: i32,
    devices: Vec<Device>,
    addressable: Vec<Device>,
}

impl Client {
    /// Makes a client of a plugin, which opens its devices. The option `cpu_device_count`, an
    /// integer, gives a CPU plugin that many devices; without it there are four.
    ///
    /// Options are the plugin's own: it may ignore one that it does not know, and an old one may
    /// end the process over one whose value has another type than it expects.
    ///
    /// # Errors
    /// What the plugin reports, for example a missing device or an unknown option, and a system
    /// without threads for it.
    pub fn new(plugin: &Plugin, options: &[(String, NamedValue)]) -> Result<Client> {
        threads::check()?;
        let api = plugin.api();
        let handle = ClientHandle::create(plugin, options)?;
        let client = handle.raw();

        let mut name = Padded::<PJRT_Client_PlatformName_Args>::with(|args| args.client = client);
        let mut version =
            Padded::<PJRT_Client_PlatformVersion_Args>::with(|args| args.client = client);
        let mut process =
            Padded::<PJRT_Client_ProcessIndex_Args>::with(|args| args.client = client);
        let mut all = Padded::<PJRT_Client_Devices_Args>::with(|args| args.client = client);
        let mut local =
            Padded::<PJRT_Client_AddressableDevices_Args>::with(|args| args.client = client);
        // SAFETY: the client is alive, and with it its strings and its arrays of devices.
        let made = unsafe {
            call!(api, PJRT_Client_PlatformName, &mut name)?;
            call!(api, PJRT_Client_PlatformVersion, &mut version)?;
            call!(api, PJRT_Client_ProcessIndex, &mut process)?;
            call!(api, PJRT_Client_Devices, &mut all)?;
            call!(api, PJRT_Client_AddressableDevices, &mut local)?;
            let devices = slice(all.devices, all.num_devices)
                .iter()
                .map(|&raw| Device::from_raw(&handle, object(raw, "PJRT_Client_Devices")?))
                .collect::<Result<Vec<_>>>()?;
            let addressable = pick(
                &devices,
                slice(local.addressable_devices, local.num_addressable_devices),
                "PJRT_Client_AddressableDevices",
            )?;
            Client(Arc::new(Inner {
                platform_name: text(name.platform_name, name.platform_name_size),
                platform_version: text(version.platform_version, version.platform_version_size),
                process_index: process.process_index,
                devices,
                addressable,
                handle,
            }))
        };
        made.probe_layouts()?;
        Ok(made)
    }

    /// Determines whether the plugin honours device layouts. XLA's CPU client of API 0.81 records a
    /// buffer's layout, and then copies bytes in and out unchanged. So a small array is sent in
    /// column-major layout and read back as it is stored.
    fn probe_layouts(&self) -> Result<()> {
        let Some(device) = self.addressable_devices().first() else {
            return Ok(());
        };
        // The layouts of other platforms have tiles, and their plugins honour them.
        if self.platform_name() != "cpu" {
            return Ok(());
        }
        let options = TransferOptions {
            device_minor_to_major: Some(vec![0, 1]),
            ..TransferOptions::default()
        };
        let rows: &[u8] = &[0, 1, 2, 3];
        let buffer = Buffer::from_host_with(device, rows, &[2, 2], ElementType::U8, &options)?;
        let mut found = [0; 4];
        buffer.to_host_in_device_layout(&mut found)?;
        self.handle().set_lays_out(found != [0, 1, 2, 3]);
        Ok(())
    }

    pub(super) fn handle(&self) -> &Arc<ClientHandle> {
        &self.0.handle
    }

    /// The plugin that the client was made with.
    pub fn plugin(&self) -> &Plugin {
        self.0.handle.plugin()
    }

    /// The platform: `cpu`, `tpu`, `cuda`.
    pub fn platform_name(&self) -> &str {
        &self.0.platform_name
    }

    /// The platform's version, as the plugin states it.
    pub fn platform_version(&self) -> &str {
        &self.0.platform_version
    }

    /// Which process of a job over many hosts this is; 0 where there is one.
    pub fn process_index(&self) -> i32 {
        self.0.process_index
    }

    /// All devices, those of other hosts included.
    pub fn devices(&self) -> &[Device] {
        &self.0.devices
    }

    /// The devices that this process can run programs on.
    pub fn addressable_devices(&self) -> &[Device] {
        &self.0.addressable
    }

    /// The ids of the devices that the client would choose for a program: `partitions` of them for
    /// the first replica, then the second's, and so on.
    ///
    /// # Errors
    /// Where the client has too few devices.
    pub fn default_device_assignment(
        &self,
        replicas: usize,
        partitions: usize,
    ) -> Result<Vec<i64>> {
        let devices = replicas
            .checked_mul(partitions)
            .filter(|&devices| i32::try_from(devices).is_ok())
            .ok_or(Error::OutOfRange {
                what: "replica count",
                value: replicas as u64,
            })?;
        let mut ids = vec![0; devices];
        let mut args = Padded::<PJRT_Client_DefaultDeviceAssignment_Args>::new();
        args.client = self.handle().raw();
        args.num_replicas = count("replica count", replicas)?;
        args.num_partitions = count("partition count", partitions)?;
        args.default_assignment_size = ids.len();
        args.default_assignment = ids.as_mut_ptr();
        // SAFETY: the client is alive, and the array is as long as it is said to be.
        unsafe {
            call!(
                self.handle().api(),
                PJRT_Client_DefaultDeviceAssignment,
                &mut args
            )
        }?;
        Ok(ids.into_iter().map(i64::from).collect())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("platform_name", &self.0.platform_name)
            .field("platform_version", &self.0.platform_version)
            .field("devices", &self.0.devices.len())
            .finish()
    }
}
