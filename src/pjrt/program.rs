//! Compiled programs, loaded or not.

use std::ptr::NonNull;

use hlo::ElementType;
use pjrt_sys::*;

use super::abi::{Api, Padded, call, slice, text};
use super::element_type;
use super::error::{Error, Result};
use super::handle::Owner;
use super::named_value::{self, NamedValue};
use super::plugin::Plugin;
use super::serialized;

/// A compiled program that is not loaded on any device. A topology compiles to one, and one is part
/// of every [`Executable`](super::Executable).
pub struct CompiledExecutable {
    owner: Owner,
    raw: NonNull<PJRT_Executable>,
}

// SAFETY: an executable does not change once it is compiled, but for caches inside that the plugin
// guards; its functions may be called from any thread.
unsafe impl Send for CompiledExecutable {}
// SAFETY: as for Send.
unsafe impl Sync for CompiledExecutable {}

/// A program in one of PJRT's formats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCode {
    /// `hlo` (a serialized `HloModuleProto`), `hlo_with_config` (a serialized
    /// `HloModuleProtoWithConfig`), or `mlir` (StableHLO).
    pub format: String,
    /// The program in that format.
    pub code: Vec<u8>,
}

/// Element type and dimensions of one of a program's results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputShape {
    /// Type of the elements.
    pub element_type: ElementType,
    /// The size of each dimension.
    pub dims: Vec<i64>,
}

/// The memory that a program will take on each device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CompiledMemoryStats {
    /// The program itself.
    pub generated_code: i64,
    /// All arguments.
    pub arguments: i64,
    /// All results.
    pub outputs: i64,
    /// The part of the results that reuses the memory of arguments.
    pub aliased: i64,
    /// What is needed beyond these while the program runs.
    pub temporaries: i64,
    /// The same of host memory, where the program uses it: the program itself.
    pub host_generated_code: i64,
    /// Arguments in host memory.
    pub host_arguments: i64,
    /// Results in host memory.
    pub host_outputs: i64,
    /// The part of the host's results that reuses the memory of arguments.
    pub host_aliased: i64,
    /// Temporaries in host memory.
    pub host_temporaries: i64,
    /// The peak of memory in use, where the plugin provides it (from API 0.72 on).
    pub peak: Option<i64>,
}

/// From this minor version on `PJRT_Executable_GetCompiledMemoryStats` gives the peak, in a field
/// appended to the ones in our bindings.
const PEAK_MEMORY_SINCE: i32 = 72;

impl CompiledExecutable {
    /// # Safety
    /// `raw` is an executable of the owner's plugin that the caller hands over.
    pub(super) unsafe fn from_raw(
        owner: Owner,
        raw: NonNull<PJRT_Executable>,
    ) -> CompiledExecutable {
        CompiledExecutable { owner, raw }
    }

    fn plugin(&self) -> &Plugin {
        self.owner.plugin()
    }

    fn api(&self) -> Api {
        self.plugin().api()
    }

    fn raw(&self) -> *mut PJRT_Executable {
        self.raw.as_ptr()
    }

    /// The module's name.
    ///
    /// # Errors
    /// Where the plugin does not provide it.
    pub fn name(&self) -> Result<String> {
        let mut args =
            Padded::<PJRT_Executable_Name_Args>::with(|args| args.executable = self.raw());
        // SAFETY: the executable is alive as long as self, and its name with it.
        unsafe {
            call!(self.api(), PJRT_Executable_Name, &mut args)?;
            Ok(text(args.executable_name, args.executable_name_size))
        }
    }

    /// How many results the program has on each device: the leaves of the root's tuple, or 1 where
    /// that is not a tuple.
    ///
    /// # Errors
    /// Where the plugin does not provide it.
    pub fn num_outputs(&self) -> Result<usize> {
        let mut args =
            Padded::<PJRT_Executable_NumOutputs_Args>::with(|args| args.executable = self.raw());
        // SAFETY: the executable is alive as long as self.
        unsafe { call!(self.api(), PJRT_Executable_NumOutputs, &mut args) }?;
        Ok(args.num_outputs)
    }

    /// Element type and dimensions of every result.
    ///
    /// # Errors
    /// Where the plugin does not provide them, or a result's type has no counterpart in HLO as
    /// built here.
    pub fn output_shapes(&self) -> Result<Vec<OutputShape>> {
        let mut types = Padded::<PJRT_Executable_OutputElementTypes_Args>::with(|args| {
            args.executable = self.raw();
        });
        let mut dimensions = Padded::<PJRT_Executable_OutputDimensions_Args>::with(|args| {
            args.executable = self.raw();
        });
        // SAFETY: the executable is alive as long as self, and so are its arrays. The ranks' sum is
        // the number of dimensions.
        let (types, ranks, mut dims) = unsafe {
            call!(self.api(), PJRT_Executable_OutputElementTypes, &mut types)?;
            call!(
                self.api(),
                PJRT_Executable_OutputDimensions,
                &mut dimensions
            )?;
            let ranks = slice(dimensions.dim_sizes, dimensions.num_outputs);
            (
                slice(types.output_types, types.num_output_types),
                ranks,
                slice(dimensions.dims, ranks.iter().sum()),
            )
        };
        if types.len() != ranks.len() {
            return Err(Error::BadAnswer {
                call: "PJRT_Executable_OutputDimensions",
                what: "as many dimension lists as element types were expected",
            });
        }
        types
            .iter()
            .zip(ranks)
            .map(|(&raw, &rank)| {
                let (own, rest) = dims.split_at_checked(rank).unwrap_or((dims, &[]));
                dims = rest;
                Ok(OutputShape {
                    element_type: element_type::from_raw(raw)?,
                    dims: own.to_vec(),
                })
            })
            .collect()
    }

    /// The program as bytes for [`Client::deserialize`](super::Client::deserialize), on the same
    /// plugin build and the same kind of device only. The bytes state the build, and have a
    /// checksum.
    ///
    /// # Errors
    /// Where the plugin cannot, or its file can no longer be read.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        let fingerprint = self.plugin().fingerprint()?;
        let mut args =
            Padded::<PJRT_Executable_Serialize_Args>::with(|args| args.executable = self.raw());
        // SAFETY: the executable is alive as long as self. The bytes live until the deleter is
        // called, once, after they were copied.
        unsafe {
            call!(self.api(), PJRT_Executable_Serialize, &mut args)?;
            let bytes = slice(
                args.serialized_bytes.cast::<u8>(),
                args.serialized_bytes_size,
            );
            let wrapped = serialized::wrap(&fingerprint, bytes);
            if let Some(delete) = args.serialized_executable_deleter {
                delete(args.serialized_executable);
            }
            Ok(wrapped)
        }
    }

    /// The program after XLA's optimizations.
    ///
    /// # Errors
    /// Where the plugin does not keep it.
    pub fn optimized_program(&self) -> Result<ProgramCode> {
        let mut program = Padded::<PJRT_Program>::new();
        let mut args = Padded::<PJRT_Executable_OptimizedProgram_Args>::with(|args| {
            args.executable = self.raw();
            args.program = program.as_mut_ptr();
        });
        // SAFETY: the executable is alive as long as self and program through the calls. Without
        // code the first call returns the size; the second fills that many bytes. The format is
        // constant text of the plugin.
        unsafe {
            call!(self.api(), PJRT_Executable_OptimizedProgram, &mut args)?;
            let mut code = vec![0_u8; program.code_size];
            program.code = code.as_mut_ptr().cast();
            args.program = program.as_mut_ptr();
            call!(self.api(), PJRT_Executable_OptimizedProgram, &mut args)?;
            Ok(ProgramCode {
                format: text(program.format, program.format_size),
                code,
            })
        }
    }

    /// The memory that the program will take on each device.
    ///
    /// # Errors
    /// Where the plugin does not provide it.
    pub fn memory_stats(&self) -> Result<CompiledMemoryStats> {
        let mut args = Padded::<PJRT_Executable_GetCompiledMemoryStats_Args>::with(|args| {
            args.executable = self.raw();
        });
        let api = self.api();
        // SAFETY: the executable is alive as long as self.
        unsafe { call!(api, PJRT_Executable_GetCompiledMemoryStats, &mut args) }?;
        Ok(CompiledMemoryStats {
            generated_code: args.generated_code_size_in_bytes,
            arguments: args.argument_size_in_bytes,
            outputs: args.output_size_in_bytes,
            aliased: args.alias_size_in_bytes,
            temporaries: args.temp_size_in_bytes,
            host_generated_code: args.host_generated_code_size_in_bytes,
            host_arguments: args.host_argument_size_in_bytes,
            host_outputs: args.host_output_size_in_bytes,
            host_aliased: args.host_alias_size_in_bytes,
            host_temporaries: args.host_temp_size_in_bytes,
            peak: (api.version().1 >= PEAK_MEMORY_SINCE).then(|| args.appended(0).cast_signed()),
        })
    }

    /// The compiler's cost figures, such as `flops` and `bytes accessed`.
    ///
    /// # Errors
    /// Where the plugin does not provide it.
    pub fn cost_analysis(&self) -> Result<Vec<(String, NamedValue)>> {
        let mut args = Padded::<PJRT_Executable_GetCostAnalysis_Args>::with(|args| {
            args.executable = self.raw();
        });
        // SAFETY: the executable is alive as long as self, and the figures with it.
        unsafe {
            call!(self.api(), PJRT_Executable_GetCostAnalysis, &mut args)?;
            Ok(named_value::from_raw(args.properties, args.num_properties))
        }
    }

    /// Bytes that are equal for programs compiled from the same input by the same compiler.
    ///
    /// # Errors
    /// Where the plugin does not have one (`ErrorCode::Unimplemented`).
    pub fn fingerprint(&self) -> Result<Vec<u8>> {
        let mut args = Padded::<PJRT_Executable_Fingerprint_Args>::with(|args| {
            args.executable = self.raw();
        });
        // SAFETY: the executable is alive as long as self, and its fingerprint with it.
        unsafe {
            call!(self.api(), PJRT_Executable_Fingerprint, &mut args)?;
            Ok(slice(
                args.executable_fingerprint.cast::<u8>(),
                args.executable_fingerprint_size,
            )
            .to_vec())
        }
    }
}

impl Drop for CompiledExecutable {
    fn drop(&mut self) {
        let mut args =
            Padded::<PJRT_Executable_Destroy_Args>::with(|args| args.executable = self.raw());
        // SAFETY: the executable is ours and is not used after this.
        if let Err(error) = unsafe { call!(self.api(), PJRT_Executable_Destroy, &mut args) } {
            tracing::debug!("freeing a program: {error}");
        }
    }
}

impl std::fmt::Debug for CompiledExecutable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CompiledExecutable")
            .field(&self.name())
            .finish()
    }
}

/// The C form of a program in format `format`. It points to both, which must outlive it.
pub(super) fn raw_program(format: &'static str, code: &[u8]) -> Padded<PJRT_Program> {
    Padded::with(|program: &mut PJRT_Program| {
        // The field is mutable for the sake of OptimizedProgram; compiling only reads.
        program.code = code.as_ptr().cast_mut().cast();
        program.code_size = code.len();
        program.format = format.as_ptr().cast();
        program.format_size = format.len();
    })
}
