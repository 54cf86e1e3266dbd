//! Loads a model, compiles its programs and runs them. The only place that knows files, model and devices.

mod buckets;
mod error;
mod forward;
mod generate;
mod load;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use error::{Error, Result};
pub use forward::ForwardOutput;
pub use generate::{FinishReason, GenerateOptions, GenerateSummary, Generation, Observer};

use crate::checkpoint::Checkpoint;
use crate::config::{FLAX_ROPE_THETA, GemmaConfig};
use crate::dtype::DType;
use crate::model::programs::{self, DecodeShape, PrefillShape};
use crate::model::{DeviceTraits, EMBEDDING, ModelSpec, RopeTables, parameters};
use crate::pjrt::{
    Buffer, Client, CompileOptions, Device, Executable, ExecuteOptions, OptionValue, Plugin,
};
use crate::plugin;

/// How an [`Engine`] is made.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The dtype to compute in; the checkpoint's own where none is given.
    pub dtype: Option<DType>,
    /// `cpu`, `tpu`, `cuda`, or the path of a PJRT plugin.
    pub device: String,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            dtype: None,
            device: "cpu".into(),
        }
    }
}

/// A model whose parameters lie on a device, with the programs compiled so far.
pub struct Engine {
    client: Client,
    device: Device,
    spec: ModelSpec,
    weights: Vec<Buffer>,
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
    /// Running prefills.
    pub prefill: Duration,
    /// Running decode loops.
    pub decode: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ProgramKey {
    Prefill(PrefillShape),
    Decode(DecodeShape),
    Forward { batch: usize, length: usize },
}

impl ProgramKey {
    /// XLA may drop a rounding to 16 bits between two operations that it fuses ("excess precision", on by
    /// default). Flax's `generate` is compiled, and so drops them as our generating programs do; a plain call of
    /// its model runs operation by operation and rounds each time. So the program that is held against such
    /// calls rounds each time too: that makes it equal to the bit where dropping differs by a hundredth, and
    /// it tells whether the lowering is right rather than what was fused.
    fn compile_options(self) -> CompileOptions {
        let overrides = match self {
            ProgramKey::Prefill(_) | ProgramKey::Decode(_) => Vec::new(),
            ProgramKey::Forward { .. } => vec![(
                "xla_allow_excess_precision".to_owned(),
                OptionValue::Bool(false),
            )],
        };
        CompileOptions {
            overrides,
            ..CompileOptions::default()
        }
    }
}

/// A compiled program with the rotation tables that it takes after the parameters.
#[derive(Clone)]
struct Program {
    executable: Executable,
    tables: Arc<[Buffer; 2]>,
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
        let config = GemmaConfig::from_dir(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
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

        let path = plugin::find(&options.device)?;
        let client = Plugin::load(&path)?.client(&[])?;
        let device = client
            .addressable_devices()
            .first()
            .cloned()
            .ok_or_else(|| Error::NoDevice(options.device.clone()))?;
        let traits = DeviceTraits::for_platform(client.platform_name());
        let spec = ModelSpec::new(config, compute, traits, stored);

        if spec.config.rope_theta_differs_from_flax() {
            tracing::warn!(
                "config.json has rope_theta {}, which is followed; Flax's Gemma ignores it and uses {FLAX_ROPE_THETA}",
                spec.config.rope_theta
            );
        }

        let start = Instant::now();
        let total: u64 = spec.parameters.iter().map(|p| p.byte_size() as u64).sum();
        let arrived = std::sync::atomic::AtomicU64::new(0);
        let weights = load::load_parameters(&checkpoint, &spec, &client, &device, |bytes| {
            let before = arrived.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            progress(before + bytes, total);
        })?;
        let load = start.elapsed();
        Ok(Self {
            client,
            device,
            spec,
            weights,
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

    /// The device that it is loaded on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How long things took so far.
    pub fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (module, positions) = match key {
            ProgramKey::Prefill(shape) => (programs::prefill(&self.spec, shape)?, shape.cache),
            ProgramKey::Decode(shape) => (programs::decode(&self.spec, shape)?, shape.cache),
            ProgramKey::Forward { batch, length } => {
                (programs::forward(&self.spec, batch, length)?, length)
            }
        };
        let executable = self
            .client
            .compile(&module.serialize(), &key.compile_options())?;
        let elapsed = start.elapsed();
        tracing::debug!(?key, ?elapsed, "compiled");
        self.record(|times| times.compile += elapsed);
        let program = Program {
            executable,
            tables: Arc::new(self.rope_tables(positions)?),
        };
        programs.insert(key, program.clone());
        Ok(program)
    }

    /// The rotation tables for `positions`, sine first.
    fn rope_tables(&self, positions: usize) -> Result<[Buffer; 2]> {
        let tables = RopeTables::new(&self.spec.config, positions);
        let dims = [tables.positions as i64, tables.half as i64];
        let upload = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.upload(&bytes, hlo::ElementType::F32, &dims)
        };
        Ok([upload(&tables.sin)?, upload(&tables.cos)?])
    }

    /// Copies little-endian elements to the device.
    fn upload(&self, bytes: &[u8], element_type: hlo::ElementType, dims: &[i64]) -> Result<Buffer> {
        Ok(self
            .client
            .buffer_from_host(bytes, dims, element_type, &self.device)?)
    }

    fn upload_s32(&self, values: &[i32], dims: &[i64]) -> Result<Buffer> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.upload(&bytes, hlo::ElementType::S32, dims)
    }

    /// Runs `program` on the parameters, its tables and `rest`, and waits for the results.
    fn run(&self, program: &Program, rest: &[&Buffer]) -> Result<Vec<Buffer>> {
        let arguments: Vec<&Buffer> = self
            .weights
            .iter()
            .chain(program.tables.iter())
            .chain(rest.iter().copied())
            .collect();
        let mut results = program
            .executable
            .execute(&[arguments], &ExecuteOptions::default())?;
        Ok(results.pop().unwrap_or_default())
    }
}

/// The dtype that a checkpoint is computed in unless another is asked for: that of its embedding.
fn checkpoint_dtype(checkpoint: &Checkpoint, config: &GemmaConfig) -> Result<DType> {
    let shape = [config.vocab_size, config.hidden_size];
    Ok(checkpoint.require(EMBEDDING, &shape)?.dtype())
}
