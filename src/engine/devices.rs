//! Buffers over a mesh: one on each device, and how rows of a batch go to and come from them.

use super::{Error, Result};
use crate::executables;
use crate::pjrt::{Buffer, Client, Device, Executable, ExecuteOptions};
use crate::sharding::Mesh;

/// The devices of a mesh, in the order of its replicas.
pub(super) struct Devices {
    client: Client,
    mesh: Mesh,
    devices: Vec<Device>,
}

/// One buffer on each device of a mesh, in the order of its replicas.
pub(super) struct PerDevice(pub Vec<Buffer>);

impl Devices {
    /// Takes the first devices that this process can address.
    ///
    /// # Errors
    /// Fewer devices than the mesh has.
    pub fn new(client: Client, mesh: Mesh) -> Result<Self> {
        let devices = client.addressable_devices();
        if devices.len() < mesh.devices() {
            return Err(Error::Option {
                option: "--mesh",
                problem: format!(
                    "{mesh} needs {} devices, and there are {} of platform {}",
                    mesh.devices(),
                    devices.len(),
                    client.platform_name()
                ),
            });
        }
        let devices = devices[..mesh.devices()].to_vec();
        Ok(Self {
            client,
            mesh,
            devices,
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn mesh(&self) -> Mesh {
        self.mesh
    }

    /// The device of each replica.
    pub fn all(&self) -> &[Device] {
        &self.devices
    }

    /// What executables for these devices are compiled for.
    pub fn target(&self) -> Result<executables::Target> {
        let kind = self.devices.first().map_or("", Device::kind);
        let platform = self.client.platform_name();
        Ok(executables::Target::new(
            self.client.plugin(),
            platform,
            kind,
            None,
            self.mesh,
        )?)
    }

    /// The ids of the devices, as a compiler takes them.
    pub fn assignment(&self) -> Vec<i64> {
        self.devices.iter().map(|d| i64::from(d.id())).collect()
    }

    /// The same elements on every device.
    pub fn upload(
        &self,
        bytes: &[u8],
        element_type: hlo::ElementType,
        dims: &[i64],
    ) -> Result<PerDevice> {
        self.upload_each(|_| bytes, element_type, dims)
    }

    /// Rows split over the data axis: `dims` are one device's, and `bytes` hold those of all groups, one after another.
    pub fn upload_rows(
        &self,
        bytes: &[u8],
        element_type: hlo::ElementType,
        dims: &[i64],
    ) -> Result<PerDevice> {
        let part = bytes.len() / self.mesh.data;
        let of_group = |replica: usize| {
            let group = replica / self.mesh.model;
            &bytes[group * part..(group + 1) * part]
        };
        self.upload_each(of_group, element_type, dims)
    }

    fn upload_each<'a>(
        &self,
        bytes: impl Fn(usize) -> &'a [u8],
        element_type: hlo::ElementType,
        dims: &[i64],
    ) -> Result<PerDevice> {
        let each = self.devices.iter().enumerate().map(|(replica, device)| {
            Ok(self
                .client
                .buffer_from_host(bytes(replica), dims, element_type, device)?)
        });
        Ok(PerDevice(each.collect::<Result<_>>()?))
    }

    /// [`upload_rows`](Self::upload_rows) of 32-bit integers.
    pub fn upload_rows_s32(&self, values: &[i32], dims: &[i64]) -> Result<PerDevice> {
        self.upload_rows(&s32_bytes(values), hlo::ElementType::S32, dims)
    }

    /// The same 32-bit integer on every device.
    pub fn upload_scalar(&self, value: i32) -> Result<PerDevice> {
        self.upload(&s32_bytes(&[value]), hlo::ElementType::S32, &[])
    }

    /// Reads rows that are split over the data axis, from the first device of each group.
    pub fn rows<T>(
        &self,
        from: &PerDevice,
        read: impl Fn(&Buffer) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for buffer in from.0.iter().step_by(self.mesh.model) {
            all.append(&mut read(buffer)?);
        }
        Ok(all)
    }

    /// [`rows`](Self::rows) of 32-bit integers.
    pub fn rows_s32(&self, from: &PerDevice) -> Result<Vec<i32>> {
        self.rows(from, |buffer| Ok(buffer.to_vec_i32()?))
    }

    /// Runs a program on all devices.
    pub fn run(&self, executable: &Executable, arguments: &[&PerDevice]) -> Result<Vec<PerDevice>> {
        // The executable lists its devices in an order of its own.
        let replica_of = |device: &Device| self.devices.iter().position(|d| d.id() == device.id());
        let order: Vec<usize> = executable
            .addressable_devices()
            .iter()
            .filter_map(replica_of)
            .collect();
        let lists: Vec<Vec<&Buffer>> = order
            .iter()
            .map(|&replica| {
                arguments
                    .iter()
                    .map(|argument| &argument.0[replica])
                    .collect()
            })
            .collect();
        let results = executable.execute(&lists, &ExecuteOptions::default())?;
        let mut by_replica: Vec<(usize, Vec<Buffer>)> = order.into_iter().zip(results).collect();
        by_replica.sort_by_key(|(replica, _)| *replica);
        let outputs = by_replica.first().map_or(0, |(_, list)| list.len());
        let mut results: Vec<PerDevice> = (0..outputs).map(|_| PerDevice(Vec::new())).collect();
        for (_, list) in by_replica {
            for (result, buffer) in results.iter_mut().zip(list) {
                result.0.push(buffer);
            }
        }
        Ok(results)
    }
}

fn s32_bytes(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
