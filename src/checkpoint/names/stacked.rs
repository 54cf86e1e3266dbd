//! Layers that are stored together, as slices of one array along its first axis.
//!
//! DeepMind's code reads `stacked_layers/attention_type_J/attn/q_einsum`, where a slice has the
//! layers of one repetition of the pattern of attention types, of which J is one; and big_vision
//! stores `layers/attn/q_einsum`, where a slice is a layer.

use std::sync::Arc;

use super::Tensors;
use crate::checkpoint::{Error, Result, Tensor};
use crate::config::MAX_LAYERS;
use crate::naming::{NameTable, Naming};

/// What comes before the number of an attention type.
const BY_TYPE: &str = "stacked_layers/attention_type_";
/// What comes before the names in a layer where there are no types.
const ALL: &str = "layers/";

/// The name of an array with several layers.
struct Stack<'n> {
    before: &'n str,
    /// Which layer of each repetition it has.
    place: usize,
    /// The name in a layer.
    rest: &'n str,
}

impl<'n> Stack<'n> {
    fn of(name: &'n str, tables: &[NameTable]) -> Option<Self> {
        let (before, place, rest) = match split(name, BY_TYPE) {
            Some((before, after)) => {
                let (number, rest) = after.split_once('/')?;
                (before, number.parse().ok()?, rest)
            }
            None => {
                let (before, rest) = split(name, ALL)?;
                (before, 0, rest)
            }
        };
        let layer = format!("layer_0/{rest}");
        let is_known = |table: &NameTable| {
            let mut rules = table.rules_of(&layer);
            rules.any(|(rule, _)| rule.naming == Naming::DeepMind)
        };
        tables.iter().any(is_known).then_some(Stack {
            before,
            place,
            rest,
        })
    }
}

/// What is before and after `mark`, where that begins a part of the name.
fn split<'n>(name: &'n str, mark: &str) -> Option<(&'n str, &'n str)> {
    let (before, after) = name.split_once(mark)?;
    (before.is_empty() || before.ends_with('/')).then_some((before, after))
}

/// The tensors with a view for each layer, by DeepMind's names for layers; nothing where no layers
/// are stored together.
///
/// # Errors
/// An array that has no axis of layers, or more layers than any model.
pub(super) fn unstacked(stored: &Tensors, tables: &[NameTable]) -> Result<Option<Tensors>> {
    let stacks = stored.keys().filter_map(|name| Stack::of(name, tables));
    let Some(last) = stacks.map(|stack| stack.place).max() else {
        return Ok(None);
    };
    let mut tensors = Tensors::new();
    for (name, tensor) in stored {
        let Some(stack) = Stack::of(name, tables) else {
            super::insert(&mut tensors, tensor.clone())?;
            continue;
        };
        for view in layers(tensor, &stack, last)? {
            super::insert(&mut tensors, view)?;
        }
    }
    Ok(Some(tensors))
}

fn layers(tensor: &Tensor, stack: &Stack, last_place: usize) -> Result<Vec<Tensor>> {
    // An array of any size takes a few bytes in a file of which chunks may be missing, while each
    // layer's view takes memory.
    let count = tensor.shape().first().filter(|count| {
        let repetition = last_place.saturating_add(1);
        count.saturating_mul(repetition) <= MAX_LAYERS
    });
    let Some(&count) = count else {
        return Err(Error::ForeignShape {
            file: tensor.file().to_path_buf(),
            tensor: tensor.stored_name().to_owned(),
            expected: "layers, then those of one layer",
            found: tensor.shape().to_vec(),
        });
    };
    (0..count)
        .map(|slice| {
            let mut layout = tensor.slice(0, slice..slice + 1)?.layout();
            layout.dimensions.remove(0);
            let layer = slice * (last_place + 1) + stack.place;
            let name = format!("{}layer_{layer}/{}", stack.before, stack.rest);
            Ok(tensor.viewed(Arc::from(name), layout))
        })
        .collect()
}
