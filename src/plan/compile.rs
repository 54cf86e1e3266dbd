//! Compiling for a slice, and what the compiler says when a program does not fit.

use super::error::Result;
use super::record::{Compiled, CompiledRecord};
use super::too_large::TooLarge;
use super::topologies::TpuSlice;
use crate::compile_cache::{CompileCache, Key};
use crate::engine::ProgramKey;
use crate::executables;
use crate::model::ModelSpec;
use crate::pjrt::{
    self, CompileOptions, CompiledExecutable, ErrorCode, NamedValue, Plugin, Topology,
};
use crate::sharding::Mesh;

/// Changed whenever records of an older version must not be read.
const RECORD_VERSION: &str = "plan record 1";

/// What a plan does that takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompileEvent<'a> {
    /// The compiler begins with this program, such as `decode (rows 8, cache 1024)`.
    Started(&'a str),
    /// It is done with it.
    Finished(&'a str),
}

/// A slice as libtpu describes it, with what compiles for it.
pub(super) struct Target<'a> {
    slice: TpuSlice,
    plugin: Plugin,
    topology: Topology,
    cache: &'a CompileCache,
    progress: &'a (dyn Fn(CompileEvent<'_>) + Sync),
    /// Whether executables are wanted in addition to the compiler's answers.
    executables: bool,
}

impl<'a> Target<'a> {
    /// The slice on that plugin.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn new(
        plugin: &Plugin,
        slice: TpuSlice,
        cache: &'a CompileCache,
        progress: &'a (dyn Fn(CompileEvent<'_>) + Sync),
        executables: bool,
    ) -> Result<Self> {
        // Without this libtpu describes each core of a v4 chip as a device, where a program that
        // runs there has both as one.
        let options: Vec<_> = slice
            .chip
            .joined_cores
            .map(|name| ("chip_config_name".to_owned(), NamedValue::from(name)))
            .into_iter()
            .collect();
        Ok(Self {
            plugin: plugin.clone(),
            slice,
            topology: Topology::create(plugin, slice.name, &options)?,
            cache,
            progress,
            executables,
        })
    }

    /// The compiler's name and build, in one line.
    pub fn compiler(&self) -> String {
        let version = self.topology.platform_version();
        version.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What programs for a mesh of these devices are compiled for.
    pub fn executables_target(&self, mesh: Mesh) -> Result<executables::Target> {
        let kind = self.topology.devices().first().map_or("", |d| &d.kind);
        let platform = self.topology.platform_name();
        let name = Some(self.slice.name);
        Ok(executables::Target::new(
            &self.plugin,
            platform,
            kind,
            name,
            mesh,
        )?)
    }

    /// The program and how it is compiled as `generate` would on the first devices of the slice.
    ///
    /// # Errors
    /// As [`ProgramKey::lower`].
    pub fn lower(
        &self,
        spec: &ModelSpec,
        key: ProgramKey,
    ) -> Result<(hlo::Module, CompileOptions)> {
        let devices: Vec<i64> = self
            .topology
            .devices()
            .iter()
            .take(spec.mesh.devices())
            .map(|device| device.id.into())
            .collect();
        Ok((key.lower(spec)?, key.compile_options(spec, &devices)))
    }

    /// Devices of the slice.
    pub fn devices(&self) -> usize {
        self.topology.devices().len()
    }

    /// Hosts of the slice.
    pub fn hosts(&self) -> usize {
        let hosts = self.topology.devices().iter().map(|d| d.process_index);
        hosts.collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Bytes of a device's memory that programs can have, as libtpu says.
    pub fn memory_limit(&self) -> Option<u64> {
        let device = self.topology.devices().first()?;
        device
            .attributes
            .iter()
            .find_map(|(name, value)| match (name.as_str(), value) {
                ("device_memory_bytes_limit", NamedValue::Int64(limit)) => {
                    u64::try_from(*limit).ok()
                }
                _ => None,
            })
    }

    /// Compiles a program as `generate` would, or takes what an earlier plan has kept of it.
    ///
    /// # Errors
    /// What the compiler says, but for want of memory.
    pub fn compile(&self, spec: &ModelSpec, key: ProgramKey) -> Result<Compiled> {
        let (module, options) = self.lower(spec, key)?;
        let entry = self.key(&module, &options)?;
        let name = describe(key);
        if let Some(compiled) = self.cached(&entry) {
            tracing::debug!("{name} is in the compile cache");
            return Ok(compiled);
        }
        tracing::debug!("compiling {name}");
        (self.progress)(CompileEvent::Started(&name));
        let compiled = match self.topology.compile_module(&module, &options) {
            Ok(program) => self
                .record(&program)
                .map(|record| Compiled::Fits(Box::new(record))),
            Err(pjrt::Error::Plugin {
                code: ErrorCode::ResourceExhausted,
                message,
                ..
            }) => Ok(Compiled::TooLarge(TooLarge::read(&message))),
            Err(error) => Err(error.into()),
        };
        (self.progress)(CompileEvent::Finished(&name));
        let compiled = compiled?;
        match compiled.to_bytes() {
            Ok(bytes) => self.cache.write(&entry, &bytes),
            Err(error) => tracing::warn!("compile cache: {name}: {error}"),
        }
        Ok(compiled)
    }

    /// What tells a program compiled for this slice from every other.
    fn key(&self, module: &hlo::Module, options: &CompileOptions) -> Result<Key> {
        Ok(Key::of_parts(&[
            RECORD_VERSION.as_bytes(),
            &module.serialize(),
            &options.with_layouts_of(module).to_bytes()?,
            &self.plugin.fingerprint()?,
            self.slice.name.as_bytes(),
        ]))
    }

    fn cached(&self, entry: &Key) -> Option<Compiled> {
        match Compiled::from_bytes(&self.cache.read(entry)?) {
            Ok(Compiled::Fits(record)) if self.executables && record.executable.is_none() => None,
            Ok(compiled) => Some(compiled),
            Err(error) => {
                tracing::warn!("compile cache: {entry}: {error}; compiling it again");
                None
            }
        }
    }

    fn record(&self, program: &CompiledExecutable) -> Result<CompiledRecord> {
        let accessed = program
            .cost_analysis()?
            .into_iter()
            .find_map(|(name, value)| match (name.as_str(), value) {
                ("bytes accessed", NamedValue::Float(bytes)) => Some(bytes as u64),
                ("bytes accessed", NamedValue::Int64(bytes)) => u64::try_from(bytes).ok(),
                _ => None,
            });
        Ok(CompiledRecord {
            memory: program.memory_stats()?.into(),
            compiler_bytes_accessed: accessed.unwrap_or(0),
            optimized: program.optimized_program()?,
            executable: self.executables.then(|| program.serialize()).transpose()?,
        })
    }
}

/// A program's name and sizes, for people.
fn describe(key: ProgramKey) -> String {
    let sizes = key.sizes().into_iter();
    let sizes: Vec<_> = sizes.map(|(name, size)| format!("{name} {size}")).collect();
    format!("{} ({})", key.name(), sizes.join(", "))
}
