//! Lowers Gemma's forward pass to HLO.
//!
//! Nothing here knows of files or devices: a [`ModelSpec`] says what to lower and for what kind of
//! device, its modules declare which parameters the programs take, and [`programs`] builds the
//! modules of HLO. The arithmetic, its order and every rounding are those of Transformers'
//! `FlaxGemmaForCausalLM` (4.57, the last release line that has it), so that greedy tokens agree;
//! where a faster form of an operation gives the same value, the faster form is used and a comment
//! says why it is the same.

mod choice;
mod distribution;
mod greedy;
mod nn;
mod ops;
mod parameters;
mod pass;
mod ports;
pub mod programs;
mod spec;

pub use choice::{Choice, ChoiceInputs, ChoiceResults, Choosing, Draw, Words};
pub use distribution::{Distributed, Distribution, Replicated, SplitDimension};
pub use nn::{CachedAttention, Gemma, Heads, LayerCache, Place, RopeTables, Rotary};
pub use ops::{Ops, Xla};
pub use parameters::{KernelLayout, Parameter, ParameterId, Role};
pub use ports::Ports;
pub use spec::{AttentionSpec, GemmaSpec, LayerSpec, MlpSpec, Norms, RopeSpec};

use std::sync::Arc;

use hlo::{ArrayShape, ElementType};

use crate::config::GemmaConfig;
use crate::dtype::DType;
use crate::naming::NameTable;
use crate::sharding::{Mesh, SplitError, check_split};
use parameters::Declarations;

/// The model to lower: its geometry, the dtype to compute in, and the devices to lower for.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// Geometry and constants, from `config.json`.
    pub config: GemmaConfig,
    /// The dtype that activations are computed in.
    pub compute: DType,
    /// The devices that the model is split over.
    pub mesh: Mesh,
    /// The operations of the kind of device.
    pub ops: Arc<dyn Ops>,
    /// The modules.
    pub gemma: Gemma,
    /// The parameters that the modules declare, in the order in which every program takes them.
    pub parameters: Vec<Parameter>,
}

/// The parameters that a configuration asks for. Their dtypes say nothing here: those depend on
/// what is stored and on what is computed in.
pub fn parameters(config: &GemmaConfig) -> Vec<Parameter> {
    declare(config, DType::F32, &|_| DType::F32).1
}

fn declare(
    config: &GemmaConfig,
    compute: DType,
    stored: &dyn Fn(&str) -> DType,
) -> (Gemma, Vec<Parameter>) {
    let declarations = Declarations::new(compute, stored);
    let gemma = Gemma::new(&declarations.root(), GemmaSpec::new(config), |layer| {
        layer.to_string()
    });
    (gemma, declarations.into_table())
}

/// What checkpoints call the parameters of the Gemmas that are known, a table a kind of layer.
pub fn name_tables() -> Vec<NameTable> {
    let archetypes = GemmaSpec::archetypes().into_iter();
    archetypes
        .map(|spec| {
            let declarations = Declarations::new(DType::F32, &|_| DType::F32);
            let gemma = Gemma::new(&declarations.root(), spec, |_| NameTable::LAYER.to_owned());
            let parameters = declarations.into_table();
            let named = parameters.iter();
            let table = NameTable::new(named.map(|p| (p.name.as_str(), p.stored.as_slice())));
            let name = |id: ParameterId| parameters.get(id.0).map(|p| p.name.as_str());
            match (name(gemma.embedding()), gemma.head().and_then(name)) {
                (Some(embedding), Some(head)) => table.with_head(embedding, head),
                _ => table,
            }
        })
        .collect()
}

impl ModelSpec {
    /// A spec for a mesh, whose parameters are stored as `stored` says, by parameter name.
    ///
    /// # Errors
    /// A model that cannot be split over the mesh.
    pub fn new(
        config: GemmaConfig,
        compute: DType,
        ops: impl Ops + 'static,
        mesh: Mesh,
        stored: impl Fn(&str) -> DType,
    ) -> Result<Self, SplitError> {
        let (gemma, parameters) = declare(&config, compute, &stored);
        check_split(mesh, parameters.iter().flat_map(|p| &p.axes))?;
        Ok(Self {
            config,
            compute,
            mesh,
            ops: Arc::new(ops),
            gemma,
            parameters,
        })
    }

    /// The table of embeddings.
    pub fn embedding(&self) -> &Parameter {
        &self.parameters[self.gemma.embedding().0]
    }

    /// Bytes of the parameters that each device holds.
    pub fn parameter_bytes(&self) -> usize {
        let parameters = self.parameters.iter();
        parameters.map(|p| p.byte_size(self.mesh)).sum()
    }

    /// Rows that each device's decode program has for `batch` prompts: `batch`, or what the device
    /// needs at least.
    pub fn decode_rows(&self, batch: usize) -> usize {
        self.ops.decode_rows(self.compute, batch)
    }

    /// The shapes of the caches on a device, a layer each: [rows, kv_heads, length, head_dim].
    pub fn cache_shapes(&self, rows: usize, length: usize) -> Vec<LayerCache<ArrayShape>> {
        let element_type = self.ops.cache_type(self.compute);
        let layers = self.gemma.spec().layers.iter();
        layers
            .map(|layer| {
                let attention = &layer.attention;
                let heads = attention.key_values.units_on_device(self.mesh);
                let dims = [rows, heads, length, attention.head_dim];
                let shape = programs::array(element_type, &dims);
                LayerCache {
                    keys: shape.clone(),
                    values: shape,
                }
            })
            .collect()
    }

    /// Bytes of the caches on a device.
    pub fn cache_bytes(&self, rows: usize, length: usize) -> usize {
        let caches = self.cache_shapes(rows, length).into_iter();
        let shapes = caches.flat_map(Ports::items);
        shapes.map(|shape| shape.byte_size()).sum()
    }

    /// The shapes of the tables of each rotary embedding: [positions, head_dim / 2].
    pub fn rope_shapes(&self, positions: usize) -> Vec<Rotary<ArrayShape>> {
        let ropes = self.gemma.spec().ropes.iter();
        ropes
            .map(|rope| {
                let table = programs::array(ElementType::F32, &[positions, rope.head_dim / 2]);
                Rotary {
                    sin: table.clone(),
                    cos: table,
                }
            })
            .collect()
    }
}
