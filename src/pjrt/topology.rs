//! Devices to compile for, which need not be present.

use std::sync::Arc;

use pjrt_sys::*;

use super::abi::{Padded, call, object, slice, text};
use super::device::DeviceDescription;
use super::error::Result;
use super::handle::{Owner, TopologyHandle};
use super::named_value::NamedValue;
use super::options::CompileOptions;
use super::plugin::Plugin;
use super::program::{CompiledExecutable, raw_program};

/// A set of devices by name, such as `v5e:2x2`, whether or not this machine has them: programs can
/// be compiled for it.
#[derive(Clone)]
pub struct Topology {
    handle: Arc<TopologyHandle>,
    platform_name: String,
    platform_version: String,
    devices: Vec<DeviceDescription>,
}

impl Topology {
    /// The topology of that name, in the plugin's own naming: `v5e:2x2`, `v5p:2x2x1` with libtpu.
    ///
    /// # Errors
    /// Where the plugin does not know the name, or has no topologies, as the CPU plugins.
    pub fn create(
        plugin: &Plugin,
        name: &str,
        options: &[(String, NamedValue)],
    ) -> Result<Topology> {
        let api = plugin.api();
        let handle = TopologyHandle::create(plugin, name, options)?;
        let topology = handle.raw();
        let mut platform = Padded::<PJRT_TopologyDescription_PlatformName_Args>::with(|args| {
            args.topology = topology;
        });
        let mut version = Padded::<PJRT_TopologyDescription_PlatformVersion_Args>::with(|args| {
            args.topology = topology;
        });
        let mut devices =
            Padded::<PJRT_TopologyDescription_GetDeviceDescriptions_Args>::with(|args| {
                args.topology = topology;
            });
        // SAFETY: the topology is alive, and with it its texts and descriptions, which are copied
        // here.
        unsafe {
            call!(api, PJRT_TopologyDescription_PlatformName, &mut platform)?;
            call!(api, PJRT_TopologyDescription_PlatformVersion, &mut version)?;
            call!(
                api,
                PJRT_TopologyDescription_GetDeviceDescriptions,
                &mut devices
            )?;
            let devices = slice(devices.descriptions, devices.num_descriptions)
                .iter()
                .map(|&raw| {
                    let call = "PJRT_TopologyDescription_GetDeviceDescriptions";
                    DeviceDescription::read(api, object(raw, call)?)
                })
                .collect::<Result<Vec<_>>>()?;
            Ok(Topology {
                platform_name: text(platform.platform_name, platform.platform_name_size),
                platform_version: text(version.platform_version, version.platform_version_size),
                devices,
                handle,
            })
        }
    }

    /// The platform, such as `tpu`.
    pub fn platform_name(&self) -> &str {
        &self.platform_name
    }

    /// The platform's version, as the plugin states it.
    pub fn platform_version(&self) -> &str {
        &self.platform_version
    }

    /// The devices of the topology.
    pub fn devices(&self) -> &[DeviceDescription] {
        &self.devices
    }

    /// Compiles a module for these devices, as
    /// [`Client::compile_module`](super::Client::compile_module) does.
    ///
    /// # Errors
    /// As [`Topology::compile`].
    pub fn compile_module(
        &self,
        module: &hlo::Module,
        options: &CompileOptions,
    ) -> Result<CompiledExecutable> {
        self.compile(&module.serialize(), &options.with_layouts_of(module))
    }

    /// Compiles a serialized `HloModuleProto` for these devices, without loading it anywhere.
    ///
    /// # Errors
    /// What the compiler reports (a TPU's reports here that a program does not fit its memory), and
    /// [`CompileOptions::to_bytes`]'s errors.
    pub fn compile(
        &self,
        hlo_module_proto: &[u8],
        options: &CompileOptions,
    ) -> Result<CompiledExecutable> {
        let options = options.to_bytes()?;
        let mut program = raw_program("hlo", hlo_module_proto);
        let mut args = Padded::<PJRT_Compile_Args>::new();
        args.topology = self.handle.raw();
        args.program = program.as_mut_ptr();
        args.compile_options = options.as_ptr().cast();
        args.compile_options_size = options.len();
        // SAFETY: the topology is alive, and program and options live through the call. No client
        // is needed. The plugin hands the executable over.
        unsafe {
            call!(self.handle.api(), PJRT_Compile, &mut args)?;
            Ok(CompiledExecutable::from_raw(
                Owner::Topology(Arc::clone(&self.handle)),
                object(args.executable, "PJRT_Compile")?,
            ))
        }
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topology")
            .field("platform_name", &self.platform_name)
            .field("devices", &self.devices.len())
            .finish()
    }
}
