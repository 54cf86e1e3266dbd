//! The engine: parameters on devices, and calls of programs.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::compiled::{CompiledProgram, CompiledPrograms};
use super::devices::{Devices, PerDevice};
use super::error::{Error, Result};
use super::load;
use super::memory::Parameters;
use super::options::LoadOptions;
use super::program_key::{BatchPrograms, ProgramKey};
use crate::checkpoint::Checkpoint;
use crate::compile_cache::Origin;
use crate::config::GemmaConfig;
use crate::executables;
use crate::model::programs::{Arguments, Caches, Outcome, Program};
use crate::model::{ChoiceInputs, LayerCache, ModelSpec};

/// A model whose parameters lie on the devices of a mesh, with the programs compiled so far.
pub struct Engine {
    devices: Devices,
    spec: ModelSpec,
    parameters: Vec<PerDevice>,
    compiled: CompiledPrograms,
    times: Mutex<Times>,
}

/// How long the engine's parts took so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Reading parameters and putting them on the device.
    pub load: Duration,
    /// Compiling programs.
    pub compile: Duration,
    /// Loading programs that were compiled in an earlier run.
    pub cached: Duration,
    /// Programs compiled or loaded.
    pub programs: u64,
    /// Running prefills.
    pub prefill: Duration,
    /// Running decode loops.
    pub decode: Duration,
}

/// Caches on the devices, a layer each.
pub(super) type DeviceCaches = Vec<LayerCache<PerDevice>>;

/// A program that is ready to be called.
pub(super) struct Ready<P> {
    program: P,
    compiled: CompiledProgram,
}

impl Engine {
    /// Loads the parameters of a checkpoint onto the devices that the options name.
    ///
    /// `progress` is told how many bytes of parameters have arrived, of how many.
    ///
    /// # Errors
    /// A checkpoint that does not fit the configuration, a missing plugin, a device that fails.
    pub fn load(
        config: GemmaConfig,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        progress: impl Fn(u64, u64) + Sync,
    ) -> Result<Self> {
        let load::Prepared {
            devices,
            spec,
            saved,
        } = load::prepare(config, checkpoint, options)?;
        let compiled = CompiledPrograms::new(options.compile_cache.clone(), saved);
        let times = Mutex::new(Times::default());
        if let Some(workload) = &options.workload {
            workload.check(&spec, &devices, |key| {
                let record = |origin, elapsed| record_compiled(&times, origin, elapsed);
                let program = compiled.get(key, &spec, &devices, Parameters::Expected, record);
                program.map(drop)
            })?;
        }
        let start = Instant::now();
        let total = (spec.parameter_bytes() * devices.local().len()) as u64;
        let arrived = std::sync::atomic::AtomicU64::new(0);
        let parameters = load::load_parameters(checkpoint, &spec, &devices, |bytes| {
            let before = arrived.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            progress(before + bytes, total);
        })?;
        let engine = Self {
            devices,
            spec,
            parameters,
            compiled,
            times,
        };
        engine.record(|times| times.load = start.elapsed());
        Ok(engine)
    }

    /// The model that is loaded.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What kind of device it is loaded on, in the plugin's words.
    pub fn device_kind(&self) -> &str {
        self.devices.kind()
    }

    /// The plugin that it runs on: its file, the version of PJRT's API that it speaks, and its own
    /// version in its words.
    pub fn plugin(&self) -> String {
        let client = self.devices.client();
        let plugin = client.plugin();
        let (major, minor) = plugin.api_version();
        let version = client.platform_version().lines().next().unwrap_or("");
        format!(
            "{} (PJRT {major}.{minor}; {version})",
            plugin.path().display()
        )
    }

    /// Whether its devices are the host's own processors.
    pub fn runs_on_host(&self) -> bool {
        self.devices.share_host_memory()
    }

    /// Whether this process is the first of those that run the model, which is the one to write
    /// results: on a slice of several hosts every host runs the same command and computes the same
    /// tokens.
    pub fn is_first_process(&self) -> bool {
        self.devices.client().process_index() == 0
    }

    /// How long things took so far.
    pub fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the programs compiled so far: the next use of each takes it from the cache, or
    /// compiles it again.
    pub fn forget_programs(&self) {
        self.compiled.forget();
    }

    /// Saves the programs that a batch of `batch` prompts runs in, with the longest of
    /// `prompt_tokens` tokens and with up to `new_tokens` after each, in `folder`: another engine
    /// of the same model on the same kind of devices then need not compile them.
    ///
    /// # Errors
    /// A compiler that fails, a plugin that cannot serialize, a folder that cannot be written to.
    pub fn save_executables(
        &self,
        folder: &Path,
        batch: usize,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<PathBuf> {
        let programs = BatchPrograms::new(&self.spec, batch, prompt_tokens, new_tokens);
        let saved = programs
            .keys()
            .map(|key| {
                let module = key.lower(&self.spec)?;
                let options = key.compile_options(&self.spec, &self.devices.assignment());
                let hash = executables::program_hash(&module, &options)?;
                // A program that was itself loaded from bytes, such as from the compile cache,
                // cannot be relied on to give whole ones again: XLA:CPU leaves functions out.
                let executable = self.devices.client().compile_module(&module, &options)?;
                Ok(executables::NewExecutable {
                    entry: key.manifest_entry(hash),
                    bytes: executable.serialize()?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(executables::save(folder, &self.devices.target()?, saved)?)
    }

    /// Checks that a prompt can be run in `positions`, with a new token after it. `index` is its
    /// place in the input.
    pub(super) fn check_prompt(
        &self,
        index: usize,
        prompt: &[u32],
        positions: usize,
    ) -> Result<()> {
        let vocab_size = self.spec.config.vocab_size();
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt { index });
        }
        if prompt.len() >= positions {
            return Err(Error::PromptTooLong {
                index,
                tokens: prompt.len(),
                limit: positions,
            });
        }
        match prompt.iter().find(|&&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(&id) => Err(Error::TokenOutOfRange {
                index,
                id,
                vocab_size,
            }),
        }
    }

    /// Whether programs are loaded from a folder of executables alone.
    pub(super) fn runs_saved_executables(&self) -> bool {
        self.compiled.are_saved()
    }

    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    pub(super) fn record(&self, update: impl FnOnce(&mut Times)) {
        update(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn compiled(&self, key: ProgramKey) -> Result<CompiledProgram> {
        let record = |origin, elapsed| record_compiled(&self.times, origin, elapsed);
        let (spec, devices) = (&self.spec, &self.devices);
        self.compiled
            .get(key, spec, devices, Parameters::Loaded, record)
    }

    /// A program, compiled if it was not.
    pub(super) fn ready<P: Program + Into<ProgramKey>>(&self, program: P) -> Result<Ready<P>> {
        Ok(Ready {
            program,
            compiled: self.compiled(program.into())?,
        })
    }

    /// Runs a program on the parameters, its tables, these inputs, what its choice of tokens needs,
    /// and caches. The caches are
    /// donated: what it gives has them updated.
    pub(super) fn call<'a, P: Program>(
        &self,
        ready: &'a Ready<P>,
        inputs: P::Inputs<&'a PerDevice>,
        choice: ChoiceInputs<&'a PerDevice>,
        caches: &'a [LayerCache<PerDevice>],
    ) -> Result<Outcome<P::Results<PerDevice>, PerDevice>> {
        let arguments = Arguments {
            ropes: ready
                .compiled
                .ropes
                .iter()
                .map(|rope| rope.as_ref())
                .collect(),
            inputs,
            choice,
            caches: caches.iter().map(|cache| cache.as_ref()).collect(),
        };
        let mut all: Vec<&PerDevice> = self.parameters.iter().collect();
        all.extend(arguments.in_order());
        let results = self.devices.run(&ready.compiled.executable, &all)?;
        let layers = match ready.program.caches() {
            Caches::None => 0,
            Caches::Made | Caches::Updated { .. } => self.spec.gemma.spec().caches(),
        };
        let found = results.len();
        Outcome::take(results, ready.program.choosing(), layers).ok_or_else(|| {
            Error::UnexpectedResult {
                program: P::NAME,
                expected: format!("its results and {layers} caches"),
                found: format!("{found} arrays"),
            }
        })
    }
}

fn record_compiled(times: &Mutex<Times>, origin: Origin, elapsed: Duration) {
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.programs += 1;
    match origin {
        Origin::Compiled => times.compile += elapsed,
        Origin::Cached => times.cached += elapsed,
    }
}
