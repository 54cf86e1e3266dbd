//! Buffers over a mesh: one on each device, and how rows of a batch go to and come from them.

use super::error::{Error, Result};
use crate::executables;
use crate::pjrt::{Buffer, Client, Device, Executable, ExecuteOptions};
use crate::sharding::Mesh;

/// The devices of a mesh, and which of them are this process's: on a slice of several hosts each
/// has some of them.
pub(super) struct Devices {
    client: Client,
    mesh: Mesh,
    /// The id of each replica's device.
    ids: Vec<i64>,
    /// The replicas of this process.
    local: Vec<Replica>,
}

/// A replica of this process.
pub(super) struct Replica {
    /// Its place among all of the mesh.
    pub index: usize,
    /// Its device.
    pub device: Device,
}

/// One buffer on each of this process's devices of a mesh, in the order of its replicas.
pub(super) struct PerDevice(pub Vec<Buffer>);

impl Devices {
    /// Takes the first devices of the client, host by host, so that those that share the most data
    /// are near each other.
    ///
    /// # Errors
    /// Fewer devices than the mesh has, or none of this process among them.
    pub fn new(client: Client, mesh: Mesh) -> Result<Self> {
        let problem = |problem: String| Error::Argument {
            argument: "mesh",
            problem,
        };
        let mut devices = client.devices().to_vec();
        devices.sort_by_key(|device| (device.process_index(), device.id()));
        if devices.len() < mesh.devices() {
            return Err(problem(format!(
                "{mesh} needs {} devices, and there are {} of platform {}",
                mesh.devices(),
                devices.len(),
                client.platform_name()
            )));
        }
        devices.truncate(mesh.devices());
        let ids = devices.iter().map(|d| i64::from(d.id())).collect();
        let local: Vec<Replica> = devices
            .into_iter()
            .enumerate()
            .map(|(index, device)| Replica { index, device })
            .filter(|replica| replica.device.is_addressable())
            .collect();
        if local.is_empty() {
            return Err(problem(format!(
                "{mesh} has none of the devices of this host, which is process {}",
                client.process_index()
            )));
        }
        Ok(Self {
            client,
            mesh,
            ids,
            local,
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The replicas of this process.
    pub fn local(&self) -> &[Replica] {
        &self.local
    }

    /// Whether they are CPUs, whose memory is the host's.
    pub fn share_host_memory(&self) -> bool {
        self.client.platform_name() == "cpu"
    }

    /// What kind of device the replicas have, in the plugin's words.
    pub fn kind(&self) -> &str {
        self.local.first().map_or("", |r| r.device.kind())
    }

    /// What executables for these devices are compiled for.
    pub fn target(&self) -> Result<executables::Target> {
        let platform = self.client.platform_name();
        Ok(executables::Target::new(
            self.client.plugin(),
            platform,
            self.kind(),
            None,
            self.mesh,
        )?)
    }

    /// The ids of the devices, as a compiler takes them.
    pub fn assignment(&self) -> Vec<i64> {
        self.ids.clone()
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

    /// Rows split over the data axis: `dims` are one device's, and `bytes` hold those of all
    /// groups, one after another.
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
        let each = self.local.iter().map(|Replica { index, device }| {
            Ok(Buffer::from_host(
                device,
                bytes(*index),
                dims,
                element_type,
            )?)
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

    /// Reads what every device has, from the first.
    pub fn read<T>(
        &self,
        from: &PerDevice,
        read: impl Fn(&Buffer) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        from.0.first().map_or_else(|| Ok(Vec::new()), read)
    }

    /// [`read`](Self::read) of 32-bit integers.
    pub fn read_s32(&self, from: &PerDevice) -> Result<Vec<i32>> {
        self.read(from, |buffer| Ok(buffer.to_vec_i32()?))
    }

    /// Runs a program on all devices, of which this process starts its own.
    pub fn run(&self, executable: &Executable, arguments: &[&PerDevice]) -> Result<Vec<PerDevice>> {
        // The executable lists its devices in an order of its own.
        let place_of =
            |device: &Device| self.local.iter().position(|r| r.device.id() == device.id());
        let order: Vec<usize> = executable
            .addressable_devices()
            .iter()
            .filter_map(place_of)
            .collect();
        let lists: Vec<Vec<&Buffer>> = order
            .iter()
            .map(|&place| {
                arguments
                    .iter()
                    .map(|argument| &argument.0[place])
                    .collect()
            })
            .collect();
        let results = executable.execute(&lists, &ExecuteOptions::default())?;
        let mut by_place: Vec<(usize, Vec<Buffer>)> = order.into_iter().zip(results).collect();
        by_place.sort_by_key(|(place, _)| *place);
        let outputs = by_place.first().map_or(0, |(_, list)| list.len());
        let mut results: Vec<PerDevice> = (0..outputs).map(|_| PerDevice(Vec::new())).collect();
        for (_, list) in by_place {
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
