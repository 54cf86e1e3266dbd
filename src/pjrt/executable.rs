//! Compiling, loading and running programs.

use std::ops::Deref;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use pjrt_sys::*;

use super::abi::{Padded, call, list, object, slice};
use super::buffer::Buffer;
use super::client::Client;
use super::device::{Device, pick};
use super::error::{Error, Result};
use super::event::Event;
use super::handle::{ClientHandle, Owner};
use super::options::{CompileOptions, ExecuteOptions};
use super::program::{CompiledExecutable, raw_program};
use super::serialized::CheckedExecutable;

/// A program that is loaded on devices. Clones share it.
///
/// It has all methods of a [`CompiledExecutable`].
#[derive(Clone)]
pub struct Executable(Arc<Inner>);

struct Inner {
    client: Arc<ClientHandle>,
    // Before `loaded`, so that it is dropped first.
    program: CompiledExecutable,
    loaded: Loaded,
    name: String,
    num_outputs: usize,
    devices: Vec<Device>,
}

/// The outcome of one launch.
#[derive(Debug)]
pub struct Execution {
    /// For each device, its results.
    pub outputs: Vec<Vec<Buffer>>,
    /// For each device, the event of its completion.
    pub done: Vec<Event>,
}

impl Client {
    /// Compiles a module and loads it on the devices of the options. Parameters and results have
    /// the layouts that the module gives them, unless the options override them.
    ///
    /// # Errors
    /// As [`Client::compile`].
    pub fn compile_module(
        &self,
        module: &hlo::Module,
        options: &CompileOptions,
    ) -> Result<Executable> {
        self.compile(&module.serialize(), &options.with_layouts_of(module))
    }

    /// Compiles a serialized `HloModuleProto` and loads it on the devices of the options.
    ///
    /// # Errors
    /// What the compiler reports, and [`CompileOptions::to_bytes`]'s errors.
    pub fn compile(&self, hlo_module_proto: &[u8], options: &CompileOptions) -> Result<Executable> {
        let options = options.to_bytes()?;
        let mut program = raw_program("hlo", hlo_module_proto);
        let mut args = Padded::<PJRT_Client_Compile_Args>::new();
        args.client = self.handle().raw();
        args.program = program.as_mut_ptr();
        args.compile_options = options.as_ptr().cast();
        args.compile_options_size = options.len();
        // SAFETY: the client is alive, and program and options live through the call.
        unsafe {
            call!(self.handle().api(), PJRT_Client_Compile, &mut args)?;
            Executable::from_raw(self, object(args.executable, "PJRT_Client_Compile")?)
        }
    }

    /// Loads what [`CompiledExecutable::serialize`] gave, on the devices that it was compiled for.
    ///
    /// # Safety
    /// The bytes hold machine code that is then run. They must be what
    /// [`CompiledExecutable::serialize`] gave. Accidental damage and another build's bytes are
    /// refused, but whoever can write the bytes can write a checksum too.
    ///
    /// # Errors
    /// [`Error::SerializedProgram`] where the bytes are damaged, are not a serialized program, or
    /// come from another build of the plugin; and where the plugin refuses them.
    pub unsafe fn deserialize(&self, bytes: &[u8]) -> Result<Executable> {
        self.load_checked(&CheckedExecutable::from_trusted_folder(
            &self.plugin().fingerprint()?,
            bytes,
        )?)
    }

    /// Loads an executable from a folder that is trusted; else as [`Client::deserialize`].
    pub(crate) fn load_checked(&self, executable: &CheckedExecutable<'_>) -> Result<Executable> {
        let bytes = executable.payload_for(&self.plugin().fingerprint()?)?;
        let mut args = Padded::<PJRT_Executable_DeserializeAndLoad_Args>::with(|args| {
            args.client = self.handle().raw();
            args.serialized_executable = bytes.as_ptr().cast();
            args.serialized_executable_size = bytes.len();
        });
        // SAFETY: the client is alive, and the bytes live through the call. They are complete, of
        // this build of the plugin, and from a trusted folder: see CheckedExecutable.
        unsafe {
            call!(
                self.handle().api(),
                PJRT_Executable_DeserializeAndLoad,
                &mut args
            )?;
            Executable::from_raw(
                self,
                object(args.loaded_executable, "PJRT_Executable_DeserializeAndLoad")?,
            )
        }
    }
}

impl Executable {
    /// # Safety
    /// `raw` is a loaded executable of `client` that the caller hands over.
    unsafe fn from_raw(client: &Client, raw: NonNull<PJRT_LoadedExecutable>) -> Result<Executable> {
        let handle = Arc::clone(client.handle());
        let api = handle.api();
        // Owned from here on, so that it is freed if anything below fails.
        let loaded = Loaded {
            client: Arc::clone(&handle),
            raw,
        };
        let mut program = Padded::<PJRT_LoadedExecutable_GetExecutable_Args>::with(|args| {
            args.loaded_executable = raw.as_ptr();
        });
        let mut devices = Padded::<PJRT_LoadedExecutable_AddressableDevices_Args>::with(|args| {
            args.executable = raw.as_ptr();
        });
        // SAFETY: the executable is alive; the program is handed over; the array of devices lives
        // as long as the executable.
        let (program, devices) = unsafe {
            call!(api, PJRT_LoadedExecutable_GetExecutable, &mut program)?;
            let program = CompiledExecutable::from_raw(
                Owner::Client(Arc::clone(&handle)),
                object(program.executable, "PJRT_LoadedExecutable_GetExecutable")?,
            );
            call!(api, PJRT_LoadedExecutable_AddressableDevices, &mut devices)?;
            let devices = pick(
                client.devices(),
                slice(devices.addressable_devices, devices.num_addressable_devices),
                "PJRT_LoadedExecutable_AddressableDevices",
            )?;
            (program, devices)
        };
        Ok(Executable(Arc::new(Inner {
            client: handle,
            name: program.name()?,
            num_outputs: program.num_outputs()?,
            program,
            loaded,
            devices,
        })))
    }

    /// The devices that it runs on and that this process can reach: one argument list each, in this
    /// order.
    pub fn addressable_devices(&self) -> &[Device] {
        &self.0.devices
    }

    /// Runs the program once on each of its devices. `args` holds one list of arguments per device.
    /// The result is one list of buffers per device; a root tuple is split into its leaves.
    ///
    /// This may return before the program is done. If it fails after that, every use of the results
    /// fails. A buffer given for a parameter that the program aliases to a result is consumed:
    /// using it again is an error.
    ///
    /// # Errors
    /// Where lists and devices do not match, an argument is deleted or another client's, or the
    /// plugin refuses (shapes that differ from the program's, too little memory).
    pub fn execute(
        &self,
        args: &[Vec<&Buffer>],
        options: &ExecuteOptions,
    ) -> Result<Vec<Vec<Buffer>>> {
        self.launch(args, options)
            .map(|execution| execution.outputs)
    }

    /// [`Executable::execute`], with the completion events of the devices.
    ///
    /// # Errors
    /// As there.
    pub fn launch(&self, args: &[Vec<&Buffer>], options: &ExecuteOptions) -> Result<Execution> {
        self.check_arguments(args)?;
        let devices = self.0.devices.len();
        let non_donatable = options
            .non_donatable
            .iter()
            .map(|&index| {
                i64::try_from(index).map_err(|_| Error::OutOfRange {
                    what: "parameter number",
                    value: index as u64,
                })
            })
            .collect::<Result<Vec<i64>>>()?;
        let mut raw_options = Padded::<PJRT_ExecuteOptions>::with(|raw| {
            raw.launch_id = options.launch_id;
            raw.non_donatable_input_indices = list(&non_donatable);
            raw.num_non_donatable_input_indices = non_donatable.len();
        });
        let arguments: Vec<Vec<*mut PJRT_Buffer>> = args
            .iter()
            .map(|list| list.iter().map(|buffer| buffer.raw()).collect())
            .collect();
        let argument_lists: Vec<_> = arguments.iter().map(|list| list.as_ptr()).collect();
        let mut outputs = vec![vec![null_mut::<PJRT_Buffer>(); self.0.num_outputs]; devices];
        let output_lists: Vec<_> = outputs.iter_mut().map(|list| list.as_mut_ptr()).collect();
        let mut events = vec![null_mut::<PJRT_Event>(); devices];

        let mut call = Padded::<PJRT_LoadedExecutable_Execute_Args>::new();
        call.executable = self.0.loaded.raw.as_ptr();
        call.options = raw_options.as_mut_ptr();
        call.argument_lists = argument_lists.as_ptr();
        call.num_devices = devices;
        call.num_args = arguments.first().map_or(0, Vec::len);
        call.output_lists = output_lists.as_ptr();
        call.device_complete_events = events.as_mut_ptr();
        // SAFETY: the executable is alive, and all arguments are live buffers of its client. There
        // are as many argument lists, output lists and events as devices, argument lists are
        // num_args long (check_arguments), output lists as long as the program has outputs, and all
        // of these vectors live through the call. The plugin keeps what it needs of the arguments
        // until the program is done.
        unsafe {
            call!(
                self.0.client.api(),
                PJRT_LoadedExecutable_Execute,
                &mut call
            )
        }?;
        // SAFETY: the plugin hands over the events and buffers that it wrote. All are owned before
        // the first error is handled, so that none leaks.
        let (done, outputs) = unsafe {
            let done = events
                .into_iter()
                .map(|event| Event::from_raw(&self.0.client, event))
                .collect();
            let outputs: Vec<Vec<Result<Buffer>>> = outputs
                .into_iter()
                .map(|list| {
                    list.into_iter()
                        .map(|raw| Buffer::from_raw(&self.0.client, raw))
                        .collect()
                })
                .collect();
            (done, outputs)
        };
        let outputs = outputs
            .into_iter()
            .map(|list| list.into_iter().collect())
            .collect::<Result<_>>()?;
        Ok(Execution { outputs, done })
    }

    /// Checks what the plugin would not before it follows the pointers, or would report less
    /// clearly.
    fn check_arguments(&self, args: &[Vec<&Buffer>]) -> Result<()> {
        let program = || self.0.name.clone();
        if args.len() != self.0.devices.len() {
            return Err(Error::ArgumentLists {
                program: program(),
                given: args.len(),
                devices: self.0.devices.len(),
            });
        }
        let expected = args.first().map_or(0, Vec::len);
        for (device, list) in args.iter().enumerate() {
            if list.len() != expected {
                return Err(Error::ArgumentCount {
                    program: program(),
                    device,
                    given: list.len(),
                    expected,
                });
            }
            for (index, buffer) in list.iter().enumerate() {
                if !buffer.belongs_to(&self.0.client) {
                    return Err(Error::ForeignObject {
                        what: "an argument",
                    });
                }
                if buffer.is_deleted()? {
                    return Err(Error::ArgumentDeleted {
                        program: program(),
                        device,
                        index,
                    });
                }
            }
        }
        Ok(())
    }
}

impl Deref for Executable {
    type Target = CompiledExecutable;

    fn deref(&self) -> &CompiledExecutable {
        &self.0.program
    }
}

impl std::fmt::Debug for Executable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executable")
            .field("name", &self.0.name)
            .field("devices", &self.0.devices.len())
            .field("num_outputs", &self.0.num_outputs)
            .finish()
    }
}

/// The plugin's loaded executable, freed when dropped.
struct Loaded {
    client: Arc<ClientHandle>,
    raw: NonNull<PJRT_LoadedExecutable>,
}

// SAFETY: a loaded executable does not change; the PJRT C API lets any thread run it, also at the
// same time as another.
unsafe impl Send for Loaded {}
// SAFETY: as for Send.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut args = Padded::<PJRT_LoadedExecutable_Destroy_Args>::with(|args| {
            args.executable = self.raw.as_ptr();
        });
        // SAFETY: the executable is ours and is not used after this; executions under way keep what
        // they need.
        let freed = unsafe { call!(self.client.api(), PJRT_LoadedExecutable_Destroy, &mut args) };
        if let Err(error) = freed {
            tracing::debug!("freeing an executable: {error}");
        }
    }
}
