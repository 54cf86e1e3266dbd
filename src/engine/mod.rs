//! Loads a model, compiles its programs and runs them. The only place that knows files, model and devices.

mod batch;
mod buckets;
mod devices;
mod error;
mod forward;
mod generate;
mod load;
mod programs;
mod prompts;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use buckets::cache_lengths;
pub use error::{Error, Result};
pub use forward::ForwardOutput;
pub use generate::{FinishReason, GenerateOptions, GenerateSummary, Generation, Observer};
pub use programs::{BatchPrograms, ProgramKey};

use crate::checkpoint::Checkpoint;
use crate::compile_cache::{CompileCache, Origin};
use crate::config::{FLAX_ROPE_THETA, GemmaConfig};
use crate::dtype::DType;
use crate::executables::{self, SavedExecutables};
use crate::kernel;
use crate::model::{DeviceTraits, EMBEDDING, ModelSpec, RopeTables, parameters};
use crate::pjrt::{Client, Executable, NamedValue, Plugin};
use crate::plugin;
use crate::sharding::{Geometry, Mesh};
use devices::{Devices, PerDevice};

/// How an [`Engine`] is made.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The dtype to compute in; the checkpoint's own where none is given.
    pub dtype: Option<DType>,
    /// `cpu`, `tpu`, `cuda`, or the path of a PJRT plugin.
    pub device: String,
    /// How many devices a CPU client is to have; as many as the mesh needs where none is given.
    pub cpu_devices: Option<usize>,
    /// The devices that the model is split over.
    pub mesh: Mesh,
    /// Where compiled programs are kept between runs.
    pub compile_cache: CompileCache,
    /// A folder of executables to load instead of compiling: what `plan --save` or [`Engine::save_executables`] wrote.
    pub executables: Option<PathBuf>,
    /// Whether rows go on past an end-of-sequence token, for measuring: the programs then know of none.
    pub ignore_eos: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            dtype: None,
            device: "cpu".into(),
            cpu_devices: None,
            mesh: Mesh::SINGLE,
            compile_cache: CompileCache::default(),
            executables: None,
            ignore_eos: false,
        }
    }
}

/// A model whose parameters lie on the devices of a mesh, with the programs compiled so far.
pub struct Engine {
    devices: Devices,
    spec: ModelSpec,
    weights: Vec<PerDevice>,
    compile_cache: CompileCache,
    executables: Option<SavedExecutables>,
    programs: Mutex<HashMap<ProgramKey, Program>>,
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
    /// Running prefills.
    pub prefill: Duration,
    /// Running decode loops.
    pub decode: Duration,
}

/// A compiled program with the rotation tables that it takes after the parameters.
#[derive(Clone)]
struct Program {
    executable: Executable,
    tables: Arc<[PerDevice; 2]>,
}

impl Engine {
    /// Loads the checkpoint in `dir` onto the first device of a new client.
    ///
    /// `progress` is told how many bytes of parameters have arrived, of how many.
    ///
    /// # Errors
    /// A folder without a usable configuration or checkpoint, a missing plugin, a device that fails.
    pub fn load(
        dir: &Path,
        options: &EngineOptions,
        progress: impl Fn(u64, u64) + Sync,
    ) -> Result<Self> {
        let mut config = GemmaConfig::from_dir(dir)?;
        if options.ignore_eos {
            // Rows that have ended are padded with what pads them otherwise.
            config.pad_token_id = Some(config.padding_id());
            config.eos_token_ids.clear();
        }
        let checkpoint = Checkpoint::open(dir)?.for_vocabulary(config.vocab_size);
        // Whether the checkpoint fits is known from its index: say so before a plugin is loaded.
        let compute = match options.dtype {
            Some(dtype) => dtype,
            None => checkpoint_dtype(&checkpoint, &config)?,
        };
        let stored = |name: &str| checkpoint.get(name).map_or(compute, |t| t.dtype());
        let expected: Vec<_> = parameters(&config, compute, stored)
            .into_iter()
            .map(|p| (p.name, p.shape))
            .collect();
        checkpoint.check(&expected)?;

        // Whether the model can be split at all does not hang on the device: say so before a plugin is loaded.
        Geometry::new(&config, options.mesh)?;
        let devices = Devices::new(open_client(options)?, options.mesh)?;
        let executables = options
            .executables
            .as_deref()
            .map(|folder| -> Result<_> { Ok(SavedExecutables::open(folder, &devices.target()?)?) })
            .transpose()?;
        let mut traits = DeviceTraits::for_platform(devices.client().platform_name());
        traits.kernels = kernel::register(devices.client())?;
        let spec = ModelSpec::new(config, compute, traits, options.mesh, stored)?;
        if spec.config.rope_theta_differs_from_flax() {
            tracing::warn!(
                "config.json has rope_theta {}, which is followed; Flax's Gemma ignores it and uses {FLAX_ROPE_THETA}",
                spec.config.rope_theta
            );
        }

        let start = Instant::now();
        let share: usize = spec
            .parameters
            .iter()
            .map(|p| p.byte_size(&spec.geometry))
            .sum();
        let total = (share * devices.local().len()) as u64;
        let arrived = std::sync::atomic::AtomicU64::new(0);
        let weights = load::load_parameters(&checkpoint, &spec, &devices, |bytes| {
            let before = arrived.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            progress(before + bytes, total);
        })?;
        let load = start.elapsed();
        Ok(Self {
            devices,
            spec,
            weights,
            compile_cache: options.compile_cache.clone(),
            executables,
            programs: Mutex::default(),
            times: Mutex::new(Times {
                load,
                ..Times::default()
            }),
        })
    }

    /// The model that is loaded.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// What kind of device it is loaded on, in the plugin's words.
    pub fn device_kind(&self) -> &str {
        self.devices.kind()
    }

    /// Whether this process is the first of those that run the model, which is the one to write results: on a slice of several
    /// hosts every host runs the same command and computes the same tokens.
    pub fn is_first_process(&self) -> bool {
        self.devices.client().process_index() == 0
    }

    /// How long things took so far.
    pub fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the programs compiled so far: the next use of each takes it from the cache, or compiles it again.
    pub fn forget_programs(&self) {
        self.programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn record(&self, update: impl FnOnce(&mut Times)) {
        update(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The program of this key, compiled on first use.
    fn program(&self, key: ProgramKey) -> Result<Program> {
        // The lock is held while compiling: a second caller for the same key should wait, not compile too.
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(&key) {
            return Ok(program.clone());
        }
        let start = Instant::now();
        let module = key.lower(&self.spec)?;
        let options = key.compile_options(&self.devices.assignment());
        let client = self.devices.client();
        let (executable, origin) = match &self.executables {
            Some(saved) => {
                let wanted = key.manifest_entry(String::new());
                let executable = saved.load(client, &wanted, &module, &options)?;
                (executable, Origin::Cached)
            }
            None => self
                .compile_cache
                .load_or_compile(client, &module, &options)?,
        };
        let elapsed = start.elapsed();
        tracing::debug!(?key, ?origin, ?elapsed, "program");
        self.record(|times| match origin {
            Origin::Compiled => times.compile += elapsed,
            Origin::Cached => times.cached += elapsed,
        });
        let program = Program {
            executable,
            tables: Arc::new(self.rope_tables(key.positions())?),
        };
        programs.insert(key, program.clone());
        Ok(program)
    }

    /// Saves the programs that a batch of `batch` prompts runs in, with the longest of `prompt_tokens` tokens and with up to
    /// `new_tokens` after each, in `folder`: another engine of the same model on the same kind of devices then need not compile them.
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
                let options = key.compile_options(&self.devices.assignment());
                let hash = executables::program_hash(&module, &options)?;
                Ok(executables::NewExecutable {
                    entry: key.manifest_entry(hash),
                    bytes: self.program(key)?.executable.serialize()?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(executables::save(folder, &self.devices.target()?, saved)?)
    }

    /// The rotation tables for `positions`, sine first.
    fn rope_tables(&self, positions: usize) -> Result<[PerDevice; 2]> {
        let tables = RopeTables::new(&self.spec.config, positions);
        let dims = [tables.positions as i64, tables.half as i64];
        let upload = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.devices.upload(&bytes, hlo::ElementType::F32, &dims)
        };
        Ok([upload(&tables.sin)?, upload(&tables.cos)?])
    }

    /// Runs `program` on the parameters, its tables and `rest`.
    fn run(&self, program: &Program, rest: &[&PerDevice]) -> Result<Vec<PerDevice>> {
        let tables = program.tables.iter();
        let arguments: Vec<&PerDevice> = self
            .weights
            .iter()
            .chain(tables)
            .chain(rest.iter().copied())
            .collect();
        self.devices.run(&program.executable, &arguments)
    }
}

/// A client of the device that the options name.
fn open_client(options: &EngineOptions) -> Result<Client> {
    let needed = options.mesh.devices();
    let count = match (options.device.as_str(), options.cpu_devices) {
        (device @ ("tpu" | "cuda"), Some(_)) => {
            return Err(Error::Option {
                option: "--devices",
                problem: format!(
                    "a CPU client's devices are counted by it; a {device} has those that it has"
                ),
            });
        }
        (_, Some(count)) if count < needed => {
            return Err(Error::Option {
                option: "--devices",
                problem: format!(
                    "{count} are fewer than the {needed} of --mesh {}",
                    options.mesh
                ),
            });
        }
        ("cpu", None) => Some(needed),
        (_, given) => given,
    };
    let create: Vec<_> = count
        .map(|count| {
            (
                "cpu_device_count".to_owned(),
                NamedValue::Int64(count as i64),
            )
        })
        .into_iter()
        .collect();
    let path = plugin::find(&options.device)?;
    Ok(Plugin::load(&path)?.client(&create)?)
}

/// The dtype that a checkpoint is computed in unless another is asked for: that of its embedding.
pub(crate) fn checkpoint_dtype(checkpoint: &Checkpoint, config: &GemmaConfig) -> Result<DType> {
    let shape = [config.vocab_size, config.hidden_size];
    Ok(checkpoint.require(EMBEDDING, &shape)?.dtype())
}
