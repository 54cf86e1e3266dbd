//! Modules: an entry computation with its border to the caller.

use pjrt_sys::protos::xla::HloModuleProto;
use prost::Message;

use crate::{ArrayShape, Computation, Error, Result, Shape};

/// Whether a donated parameter's buffer may or must become an output's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AliasKind {
    /// The caller may keep the parameter; then the runtime copies.
    May,
    /// The caller must donate the parameter.
    Must,
}

/// An output that takes over a parameter's buffer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alias {
    pub(crate) output_index: Vec<i64>,
    pub(crate) parameter: i64,
    pub(crate) parameter_index: Vec<i64>,
    pub(crate) kind: AliasKind,
}

/// A program: the entry computation, the layouts in which parameters and result cross its border,
/// and which outputs take over a parameter's buffer.
///
/// PJRT's compilers do not read the border's layouts from the program: they assume row-major ones
/// unless the compile options say otherwise (`argument_layouts`, and `result_layout` of the build
/// options, seen with PJRT 0.81 and 0.115). For other layouts, fill these from
/// [`Module::parameters`] and [`Module::result_shape`]; a disagreement is an error where an aliased
/// buffer is concerned, and else goes unnoticed.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    name: String,
    entry: Computation,
    parameters: Vec<Shape>,
    result: Shape,
    aliases: Vec<Alias>,
}

impl Module {
    /// A module. Its parameters have the layouts that they were declared with, its result is in
    /// row-major layout.
    ///
    /// PJRT takes one buffer per parameter and gives one per part of a root tuple: tuple parameters
    /// and nested result tuples are valid HLO, but no program for it.
    pub fn new(name: &str, entry: Computation) -> Self {
        Self {
            name: name.to_owned(),
            parameters: entry.parameters().to_vec(),
            result: entry.result_shape().clone(),
            aliases: Vec::new(),
            entry,
        }
    }

    /// The module's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The entry computation.
    pub fn entry(&self) -> &Computation {
        &self.entry
    }

    /// The shapes of the parameters, by number, in the layouts that the caller passes them in.
    pub fn parameters(&self) -> &[Shape] {
        &self.parameters
    }

    /// The shape of the result, in the layout that the caller receives it in.
    pub fn result_shape(&self) -> &Shape {
        &self.result
    }

    /// Sets the layout of a parameter's array, at `index` in its tuples (empty where it is none).
    ///
    /// # Errors
    /// [`Error::Module`] where there is no such array or it is aliased already,
    /// [`Error::InvalidShape`] where the layout is no permutation of its dimensions.
    pub fn set_parameter_layout(
        &mut self,
        parameter: i64,
        index: &[i64],
        minor_to_major: &[i64],
    ) -> Result<()> {
        let aliased = self
            .aliases
            .iter()
            .any(|alias| alias.parameter == parameter && alias.parameter_index == index);
        let array = usize::try_from(parameter)
            .ok()
            .and_then(|i| self.parameters.get_mut(i))
            .and_then(|shape| shape.leaf_mut(index));
        set_layout(array.filter(|_| !aliased), minor_to_major)?.ok_or_else(|| {
            self.error(format!(
                "parameter {parameter} has no array at {index:?}, or it is aliased already"
            ))
        })
    }

    /// Sets the layout of the result's array, at `index` in its tuples (empty where it is none).
    ///
    /// # Errors
    /// [`Error::Module`] where there is no such array or it is aliased already,
    /// [`Error::InvalidShape`] where the layout is no permutation of its dimensions.
    pub fn set_result_layout(&mut self, index: &[i64], minor_to_major: &[i64]) -> Result<()> {
        let aliased = self.aliases.iter().any(|alias| alias.output_index == index);
        let array = self.result.leaf_mut(index).filter(|_| !aliased);
        set_layout(array, minor_to_major)?.ok_or_else(|| {
            self.error(format!(
                "the result has no array at {index:?}, or it is aliased already"
            ))
        })
    }

    /// Lets an output take over the buffer of a parameter, which the caller then donates. Indices
    /// lead into tuples and are empty where there is none. The output takes the parameter's layout,
    /// since they are one buffer.
    ///
    /// # Errors
    /// [`Error::Module`] where output or parameter is not there or no array, their shapes differ,
    /// or one of them is aliased already.
    pub fn alias(
        &mut self,
        output_index: &[i64],
        parameter: i64,
        parameter_index: &[i64],
        kind: AliasKind,
    ) -> Result<()> {
        let names =
            format!("output {output_index:?} and parameter {parameter} {parameter_index:?}");
        let from = usize::try_from(parameter)
            .ok()
            .and_then(|i| self.parameters.get(i))
            .and_then(|shape| shape.leaf(parameter_index))
            .cloned();
        let to = self.result.leaf_mut(output_index);
        let (Some(from), Some(to)) = (from, to) else {
            return Err(self.error(format!("alias of {names}: one of them is no array")));
        };
        if !from.is_compatible(to) {
            let shapes = format!("{to} and {from}");
            return Err(self.error(format!("alias of {names}: shapes differ, {shapes}")));
        }
        let taken = self.aliases.iter().any(|alias| {
            alias.output_index == output_index
                || (alias.parameter == parameter && alias.parameter_index == parameter_index)
        });
        if taken {
            return Err(self.error(format!("alias of {names}: one of them is aliased already")));
        }
        to.minor_to_major = from.minor_to_major;
        self.aliases.push(Alias {
            output_index: output_index.to_vec(),
            parameter,
            parameter_index: parameter_index.to_vec(),
            kind,
        });
        Ok(())
    }

    pub(crate) fn aliases(&self) -> &[Alias] {
        &self.aliases
    }

    /// The module as XLA's protobuf. Instruction ids are 1, 2, … over the whole module, called
    /// computations stand before their callers.
    pub fn to_proto(&self) -> HloModuleProto {
        crate::proto::module(self)
    }

    /// The serialized protobuf, which PJRT compiles as a program of format `hlo`.
    pub fn serialize(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// The module as HLO text that XLA can parse, constants in full.
    pub fn to_text(&self) -> String {
        crate::text::module(self)
    }

    fn error(&self, reason: String) -> Error {
        Error::Module {
            module: self.name.clone(),
            reason,
        }
    }
}

/// Sets the layout of an array if there is one.
fn set_layout(array: Option<&mut ArrayShape>, minor_to_major: &[i64]) -> Result<Option<()>> {
    let Some(array) = array else { return Ok(None) };
    let changed = array.clone().with_layout(minor_to_major);
    Shape::from(&changed).validate("layout")?;
    *array = changed;
    Ok(Some(()))
}
