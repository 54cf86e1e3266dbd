//! Lowers Gemma's forward pass to HLO.
//!
//! Nothing here knows of files or devices: a [`ModelSpec`] says what to lower and for what kind of
//! device, its modules declare which parameters the programs take, and [`programs`] builds the
//! modules of HLO. The arithmetic, its order and every rounding are those of Transformers'
//! `FlaxGemmaForCausalLM` (4.57, the last release line that has it), so that greedy tokens agree;
//! where a faster form of an operation gives the same value, the faster form is used and a comment
//! says why it is the same.

mod distribution;
mod greedy;
mod nn;
mod ops;
mod parameters;
mod pass;
mod ports;
pub mod programs;
mod spec;

pub use distribution::{Distributed, Distribution, Replicated, SplitDimension};
pub use nn::{CachedAttention, Gemma, Heads, LayerCache, Place, RopeTables, Rotary};
pub use ops::{Ops, Xla};
pub use parameters::{KernelLayout, Parameter, ParameterId, Role};
pub use ports::Ports;
pub use spec::{
    AttentionSpec, ExpertsSpec, GemmaSpec, LayerSpec, MlpSpec, NormRounding, NormSpec, Norms,
    PerLayerSpec, RopeSpec,
};

use std::collections::HashSet;
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

/// The names of parameters that checkpoints may have for a model of this configuration and that it
/// does not use: keys and values of layers that share the cache of another.
pub fn unused_parameters(config: &GemmaConfig) -> Vec<String> {
    let used = parameters(config);
    let mut spec = GemmaSpec::new(config);
    for layer in &mut spec.layers {
        layer.attention.shares_cache = false;
    }
    let declarations = Declarations::new(DType::F32, &|_| DType::F32);
    Gemma::new(&declarations.root(), spec, |layer| layer.to_string());
    let all = declarations.into_table().into_iter().map(|p| p.name);
    let used: HashSet<&str> = used.iter().map(|p| p.name.as_str()).collect();
    all.filter(|name| !used.contains(name.as_str())).collect()
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

    /// The layers that have a cache, in the order of the caches.
    fn caching(&self) -> impl Iterator<Item = &AttentionSpec> {
        let attentions = self
            .gemma
            .spec()
            .layers
            .iter()
            .map(|layer| &layer.attention);
        attentions.filter(|attention| !attention.shares_cache)
    }

    /// The shapes of the caches on a device, one each layer that has one: [rows, kv_heads, length,
    /// head_dim], with fewer slots in a layer whose window is shorter than `length`.
    pub fn cache_shapes(&self, rows: usize, length: usize) -> Vec<LayerCache<ArrayShape>> {
        let element_type = self.ops.cache_type(self.compute);
        self.caching()
            .map(|attention| {
                let heads = attention.key_values.units_on_device(self.mesh);
                let slots = attention.cache_slots(length);
                let dims = [rows, heads, slots, attention.head_dim];
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

    /// Bytes of the tokens of one row in the caches on a device, `filled` of them, where layers
    /// keep no more than their window.
    pub fn filled_cache_bytes(&self, filled: f64) -> f64 {
        let one = self.cache_shapes(1, 1).into_iter();
        let layers = one.zip(self.caching());
        let bytes = layers.map(|(cache, attention)| {
            let token: usize = cache.items().iter().map(ArrayShape::byte_size).sum();
            let kept = attention.window.map_or(filled, |w| filled.min(w as f64));
            token as f64 * kept
        });
        bytes.sum()
    }

    /// Bytes of the caches on a device if every layer kept all tokens: what windows save is the
    /// difference to [`cache_bytes`](Self::cache_bytes).
    pub fn cache_bytes_without_windows(&self, rows: usize, length: usize) -> usize {
        let one = self.cache_shapes(rows, 1).into_iter();
        let shapes = one.flat_map(Ports::items);
        shapes.map(|shape| shape.byte_size() * length).sum()
    }

    /// The shapes of the tables of each rotary embedding: [positions, pairs].
    pub fn rope_shapes(&self, positions: usize) -> Vec<Rotary<ArrayShape>> {
        let ropes = self.gemma.spec().ropes.iter();
        ropes
            .map(|rope| {
                let table = programs::array(ElementType::F32, &[positions, rope.pairs]);
                Rotary {
                    sin: table.clone(),
                    cos: table,
                }
            })
            .collect()
    }
}
