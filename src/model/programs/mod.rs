//! The programs that the engine runs. Each is declared once: its named inputs and results, whether
//! it makes or updates the caches, and what it computes. Lowering, calling, donation and saved
//! executables follow from that.
//!
//! Over a mesh every device runs the same program on its own rows and its own share of the
//! parameters; shapes here are those of one device. Every program takes the model's parameters
//! first, then the tables of the rotary embeddings, then its inputs and what its choice of tokens
//! needs, then the caches that it updates; it gives its results, then the caches.

mod admit;
mod decode;
mod decode_loop;
mod extend;
mod forward;
mod prefill;
mod prompt;
mod score;
mod step;

pub use admit::{
    Admit, AdmitInputs, AdmitResults, AdmitScored, AdmitScoredInputs, AdmitScoredResults,
};
pub use decode::{Decode, DecodeInputs, DecodeResults};
pub use extend::{Extend, ExtendInputs};
pub use forward::{Forward, ForwardResults};
pub use prefill::{Prefill, PromptInputs};
pub use prompt::PromptResults;
pub use score::{Score, ScoreInputs, ScoreResults};
pub use step::{Step, StepInputs, StepResults};

use hlo::{AliasKind, ArrayShape, Builder, ElementType, Module, Tensor};

use super::ModelSpec;
use super::choice::{Choice, ChoiceInputs, ChoiceResults, Choosing};
use super::nn::{LayerCache, Rotary};
use super::pass::Pass;
use super::ports::Ports;

/// A program with its sizes.
pub trait Program: Copy {
    /// Its name.
    const NAME: &'static str;
    /// What it takes beyond parameters, tables and caches.
    type Inputs<T>: Ports<Item = T>;
    /// What it gives beyond the caches.
    type Results<T>: Ports<Item = T>;

    /// Its sizes by name: what tells it from other programs of the same kind.
    fn sizes(&self) -> Vec<(&'static str, usize)>;

    /// Positions that its tables of rotary embeddings have.
    fn positions(&self) -> usize;

    /// What it does with the caches.
    fn caches(&self) -> Caches;

    /// The shapes of its inputs on one device.
    fn inputs(&self, spec: &ModelSpec) -> Self::Inputs<ArrayShape>;

    /// How it chooses tokens, and for which rows.
    fn choosing(&self) -> Choosing {
        Choosing {
            choice: Choice::GREEDY,
            rows: 0,
            length: 0,
        }
    }

    /// Whether XLA may leave out a rounding to 16 bits between two operations that it fuses
    /// ("excess precision").
    ///
    /// Flax's `generate` compiles its decode loop, where roundings are left out, as in ours; the
    /// prompt and a plain call of the model it runs operation by operation, rounding each time.
    /// Where this is false our programs round each time too, which makes them equal to Flax's to
    /// the bit; leaving roundings out differs by a hundredth (`1 + weight` of a bfloat16 norm
    /// alone).
    fn excess_precision(&self) -> bool {
        false
    }

    /// Whether its results are compared with another implementation's, operation by operation.
    fn compared(&self) -> bool {
        false
    }

    /// Computes results and caches from the arguments.
    fn lower<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        arguments: Arguments<Self::Inputs<Tensor<'b>>, Tensor<'b>>,
    ) -> Outcome<Self::Results<Tensor<'b>>, Tensor<'b>>;
}

/// What a program does with the key–value caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caches {
    /// It has none.
    None,
    /// It makes them.
    Made,
    /// It takes those of so many rows and of this length, and gives them updated in the same
    /// memory.
    Updated {
        /// Rows.
        rows: usize,
        /// Length.
        length: usize,
    },
}

/// What a program takes after the parameters.
pub struct Arguments<I, T> {
    /// The tables of each rotary embedding.
    pub ropes: Vec<Rotary<T>>,
    /// The inputs that the program names.
    pub inputs: I,
    /// What its choice of tokens needs.
    pub choice: ChoiceInputs<T>,
    /// The caches of the layers; none where the program takes none.
    pub caches: Vec<LayerCache<T>>,
}

/// What a program gives.
pub struct Outcome<R, T> {
    /// The results that the program names.
    pub results: R,
    /// What is reported of its choice of tokens.
    pub choice: ChoiceResults<T>,
    /// The caches of the layers; none where the program has none.
    pub caches: Vec<LayerCache<T>>,
}

impl<I: Ports<Item = T>, T> Arguments<I, T> {
    /// All arguments in the order in which the program takes them after the parameters.
    pub fn in_order(self) -> Vec<T> {
        self.named().into_iter().map(|(_, item)| item).collect()
    }

    fn named(self) -> Vec<(String, T)> {
        let mut all = Vec::new();
        for (index, rope) in self.ropes.into_iter().enumerate() {
            let prefix = match index {
                0 => "rope".to_owned(),
                _ => format!("rope.{index}"),
            };
            all.extend(prefixed(&prefix, rope));
        }
        let inputs = self.inputs.named().into_iter();
        all.extend(inputs.map(|(name, item)| (name.to_owned(), item)));
        let choice = self.choice.named().into_iter();
        all.extend(choice.map(|(name, item)| (format!("choice.{name}"), item)));
        for (layer, cache) in self.caches.into_iter().enumerate() {
            all.extend(prefixed(&format!("cache.{layer}"), cache));
        }
        all
    }

    /// The same arguments in other hands: `each` gets every argument's name and the argument.
    fn map<J: Ports<Item = U>, U>(
        self,
        mut each: impl FnMut(&str, T) -> U,
    ) -> Option<Arguments<J, U>> {
        let (ropes, caches) = (self.ropes.len(), self.caches.len());
        let choice = self.choice.as_ref().map(|_, _| ());
        let mut items = self
            .named()
            .into_iter()
            .map(|(name, item)| each(&name, item));
        Some(Arguments {
            ropes: take_many(&mut items, ropes)?,
            inputs: J::take(&mut items)?,
            choice: ChoiceInputs::take_like(&choice, &mut items)?,
            caches: take_many(&mut items, caches)?,
        })
    }
}

impl<R: Ports<Item = T>, T> Outcome<R, T> {
    /// Reads what a program gave: its results, those of its choice, and the caches of so many
    /// layers.
    pub fn take(items: Vec<T>, choosing: Choosing, layers: usize) -> Option<Self> {
        let results = items.len().checked_sub(2 * layers)?;
        let mut items = items.into_iter();
        let mut of_program = items.by_ref().take(results);
        let outcome = Self {
            results: R::take(&mut of_program)?,
            choice: ChoiceResults::take_like(&choosing.results(), &mut of_program)?,
            caches: take_many(&mut items, layers)?,
        };
        items.next().is_none().then_some(outcome)
    }

    fn in_order(self) -> Vec<T> {
        let caches = self.caches.into_iter().flat_map(Ports::items);
        let choice = self.choice.named().into_iter().map(|(_, item)| item);
        let results = self.results.items().into_iter();
        results.chain(choice).chain(caches).collect()
    }
}

/// `count` structs of arrays from the front of `items`.
pub(super) fn take_many<P: Ports>(
    items: &mut dyn Iterator<Item = P::Item>,
    count: usize,
) -> Option<Vec<P>> {
    (0..count).map(|_| P::take(items)).collect()
}

fn prefixed<P: Ports>(prefix: &str, ports: P) -> impl Iterator<Item = (String, P::Item)> {
    let named = ports.named().into_iter();
    named.map(move |(name, item)| (format!("{prefix}.{name}"), item))
}

/// Lowers a program of a model.
///
/// # Errors
/// Shapes that do not fit each other, which a checked configuration cannot make.
pub fn module<P: Program>(program: &P, spec: &ModelSpec) -> hlo::Result<Module> {
    let b = Builder::new(P::NAME);
    let layout = spec.ops.kernel_layout();
    let parameters = spec.parameters.iter();
    let parameters = parameters.map(|p| b.input(&p.name, p.device_shape(spec.mesh, layout)));
    let pass = Pass::new(&b, spec, parameters.collect());
    let pass = match program.compared() {
        true => pass.compared(),
        false => pass,
    };

    let shapes = Arguments {
        ropes: spec.rope_shapes(program.positions()),
        inputs: program.inputs(spec),
        choice: program
            .choosing()
            .inputs(spec.gemma.spec().vocabulary.size()),
        caches: match program.caches() {
            Caches::Updated { rows, length } => spec.cache_shapes(rows, length),
            Caches::None | Caches::Made => Vec::new(),
        },
    };
    let donated = 2 * shapes.caches.len();
    let arguments = shapes
        .map(|name, shape| b.input(name, shape))
        .ok_or_else(|| hlo::Error::Module {
            module: P::NAME.to_owned(),
            reason: "its inputs are declared with different numbers of arrays".to_owned(),
        })?;
    let results = program.lower(&pass, arguments).in_order();
    let count = results.len();
    let root = b.tuple_of(&results).value();
    drop(pass);
    let mut module = Module::new(P::NAME, b.finish(root?)?);
    // The last results take the place of the last parameters: the caches are donated.
    let parameters = module.parameters().len();
    for place in (1..=donated).rev() {
        let (result, parameter) = ((count - place) as i64, (parameters - place) as i64);
        module.alias(&[result], parameter, &[], AliasKind::May)?;
    }
    Ok(module)
}

/// The shape of an s32 input.
fn s32(dims: &[usize]) -> ArrayShape {
    array(ElementType::S32, dims)
}

/// The shape of an input, from sizes that the configuration has checked.
pub(super) fn array(element_type: ElementType, dims: &[usize]) -> ArrayShape {
    let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
    ArrayShape::new(element_type, &dims)
}
