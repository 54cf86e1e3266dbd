//! Lowers Gemma's forward pass to HLO.
//!
//! Nothing here knows of files or devices: a [`ModelSpec`] says what to lower, [`parameters()`] which
//! parameters the programs take, and [`programs`] builds the modules. Each step of the forward
//! pass has a file of its own. The arithmetic, its order and every rounding are those of
//! Transformers' `FlaxGemmaForCausalLM` (4.57, the last release line that has it), so that greedy
//! tokens agree; where a faster form of an operation gives the same value, the faster form is
//! used and the place says why it is the same.

mod attention;
mod block;
mod cache;
mod collectives;
mod distribution;
mod embedding;
mod head;
mod lowering;
mod mlp;
mod norm;
mod parameters;
pub mod programs;
mod rope;
mod sampling;

pub use distribution::{Distributed, Distribution, Replicated, SplitDimension};
pub use parameters::{EMBEDDING, KernelLayout, ParameterSpec, Role, parameters};
pub use rope::RopeTables;

use crate::config::GemmaConfig;
use crate::dtype::DType;
use crate::sharding::{Geometry, GeometryError, Mesh};

/// What a device needs for speed; a choice in the lowering, never a change of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTraits {
    /// How projection kernels lie in device memory.
    pub kernel_layout: KernelLayout,
    /// The fewest rows that a decode step is run with when computing in 16 bits.
    pub min_rows_16bit: usize,
    /// Whether the device's programs can call the functions of [`crate::kernel`].
    ///
    /// XLA:CPU widens bfloat16 arrays whole for most operations but dots, so a cache is then kept as the bits of its numbers,
    /// u16, which it leaves alone.
    pub kernels: bool,
}

impl DeviceTraits {
    /// XLA:CPU reads bfloat16 weights at memory speed only when the contracted dimension is
    /// innermost, and keeps them bfloat16 only for dots of two or more rows: one row is lowered to
    /// a float32 loop whose converted weights are then hoisted out of the decode loop.
    pub const CPU: Self = Self {
        kernel_layout: KernelLayout::OutIn,
        min_rows_16bit: 2,
        kernels: false,
    };

    /// A TPU's compiler chooses its own tiled layouts, and sends a dot with a single row to the vector
    /// unit, at more than twice the cost of two rows on the matrix unit.
    pub const TPU: Self = Self {
        kernel_layout: KernelLayout::InOut,
        min_rows_16bit: 2,
        kernels: false,
    };

    /// A GPU's matrix library takes either layout and any number of rows.
    pub const GPU: Self = Self {
        kernel_layout: KernelLayout::InOut,
        min_rows_16bit: 1,
        kernels: false,
    };

    /// The traits of a PJRT platform, by the name that its plugin gives (`cpu`, `tpu`, `cuda`, …).
    pub fn for_platform(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "cpu" | "host" => Self::CPU,
            "tpu" => Self::TPU,
            _ => Self::GPU,
        }
    }
}

/// The model to lower: its geometry, the dtype to compute in, and the device to lower for.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Geometry and constants, from `config.json`.
    pub config: GemmaConfig,
    /// The dtype that activations are computed in.
    pub compute: DType,
    /// What the device needs for speed.
    pub device: DeviceTraits,
    /// The sizes that each device of the mesh works with.
    pub geometry: Geometry,
    /// Parameters in the order in which every program takes them.
    pub parameters: Vec<ParameterSpec>,
}

impl ModelSpec {
    /// A spec for a mesh, whose parameters are stored as `stored` says, by parameter name.
    ///
    /// # Errors
    /// A model that cannot be split over the mesh.
    pub fn new(
        config: GemmaConfig,
        compute: DType,
        device: DeviceTraits,
        mesh: Mesh,
        stored: impl Fn(&str) -> DType,
    ) -> Result<Self, GeometryError> {
        let parameters = parameters(&config, compute, stored);
        Ok(Self {
            geometry: Geometry::new(&config, mesh)?,
            config,
            compute,
            device,
            parameters,
        })
    }

    /// The element type that caches are kept in: the compute dtype, or its bits.
    pub fn cache_type(&self) -> hlo::ElementType {
        match self.compute {
            DType::BF16 if self.device.kernels => hlo::ElementType::U16,
            compute => compute.into(),
        }
    }

    /// Rows that each device's decode program has for `batch` prompts: `batch`, or what the device needs at least.
    pub fn decode_rows(&self, batch: usize) -> usize {
        match self.compute {
            DType::F32 => batch,
            DType::BF16 if self.device.kernels => batch,
            DType::F16 | DType::BF16 => batch.max(self.device.min_rows_16bit),
        }
    }
}
