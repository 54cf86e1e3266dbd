//! Recognises the names and layouts that a checkpoint's tensors are stored by, and views them by Flax's.
//!
//! No bytes move: what is stored in another order, or several tensors in one, becomes views.

mod notation;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use self::notation::{Axes, filled, matched};
use self::table::{DEEPMIND, DEEPMIND_EMBEDDING, FLAX, FOUR_NORMS_MARK, PYTORCH, Rule, When};
use super::{Error, Result, Tensor};

/// Whose names and layouts the stored tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Naming {
    /// Those of Transformers' Flax models: `model/layers/0/self_attn/q_proj/kernel`, [in, out].
    Flax,
    /// Those of Transformers' PyTorch models: `model.layers.0.self_attn.q_proj.weight`, [out, in].
    PyTorch,
    /// Those of DeepMind's Flax models: `transformer/layer_0/attn/q_einsum/w`, [heads, in, head].
    DeepMind,
    /// Those of MaxText: `decoder/layers/self_attention/query/kernel`, [in, layers, heads, head].
    MaxText,
    /// No known ones.
    Unknown,
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Naming::Flax => "Flax",
            Naming::PyTorch => "PyTorch",
            Naming::DeepMind => "DeepMind",
            Naming::MaxText => "MaxText",
            Naming::Unknown => "unknown",
        })
    }
}

/// Tensors by name.
type Tensors = BTreeMap<Arc<str>, Tensor>;

/// The tensors by Flax's names and in Flax's layouts, and what they were stored by. Tensors that no line of the table names
/// stay as they are.
pub(super) fn canonical(stored: Tensors) -> Result<(Tensors, Naming)> {
    let names = plain_names(&stored);
    let four_norms = names.iter().any(|n| matched(FOUR_NORMS_MARK, n).is_some());
    let width = names
        .iter()
        .zip(stored.values())
        .find(|(name, _)| *name == DEEPMIND_EMBEDDING)
        .and_then(|(_, tensor)| tensor.shape().get(1).copied());
    let applies = |rule: &&Rule| match rule.when {
        When::Always => true,
        When::TwoNorms => !four_norms,
        When::FourNorms => four_norms,
    };

    let mut found = Naming::Unknown;
    let mut tensors = Tensors::new();
    for (plain, tensor) in names.iter().zip(stored.values()) {
        if FLAX.iter().any(|name| matched(name, plain).is_some()) {
            if found == Naming::Unknown {
                found = Naming::Flax;
            }
            let same = plain == tensor.name();
            let name = plain.as_str();
            insert(
                &mut tensors,
                if same {
                    tensor.clone()
                } else {
                    tensor.renamed(name.into())
                },
            )?;
            continue;
        }
        let mut naming = None;
        let mut fitting = None;
        for (rules, whose) in [(PYTORCH, Naming::PyTorch), (DEEPMIND, Naming::DeepMind)] {
            for rule in rules.iter().filter(applies) {
                let Some(number) = matched(rule.stored, plain) else {
                    continue;
                };
                naming = Some((whose, rule.axes));
                fitting =
                    Axes::fit(rule.axes, tensor.shape(), width).map(|axes| (rule, number, axes));
                if fitting.is_some() {
                    break;
                }
            }
        }
        match (naming, fitting) {
            (None, _) => insert(&mut tensors, tensor.clone())?,
            (Some((_, axes)), None) => {
                return Err(Error::ForeignShape {
                    file: tensor.file().to_path_buf(),
                    tensor: tensor.name().to_owned(),
                    expected: axes,
                    found: tensor.shape().to_vec(),
                });
            }
            (Some((whose, _)), Some((rule, number, axes))) => {
                found = whose;
                for (part, (name, order)) in rule.ours.iter().enumerate() {
                    let layout = axes.arrange(order, part);
                    insert(
                        &mut tensors,
                        tensor.viewed(filled(name, number).into(), layout),
                    )?;
                }
            }
        }
    }
    Ok((tensors, found))
}

/// The stored names as the table writes them.
fn plain_names(stored: &Tensors) -> Vec<String> {
    let mut names: Vec<String> = stored.keys().map(|name| name.replace('.', "/")).collect();
    for wrapping in ["params/", "transformer/"] {
        if names.iter().all(|name| name.starts_with(wrapping)) {
            for name in &mut names {
                name.drain(..wrapping.len());
            }
        }
    }
    names
}

/// PyTorch's name of a tensor by Flax's name, and whether PyTorch has it transposed; nothing for a tensor it has no name for.
pub(super) fn pytorch(name: &str) -> Option<(String, bool)> {
    for rule in PYTORCH {
        for (ours, order) in rule.ours {
            if let Some(number) = matched(ours, name) {
                let stored = filled(rule.stored, number).replace('/', ".");
                return Some((stored, *order != rule.axes));
            }
        }
    }
    // Everything else has the same name and layout in both.
    let same = FLAX.iter().any(|ours| matched(ours, name).is_some());
    same.then(|| (name.replace('/', "."), false))
}

/// Adds a tensor whose name must be new.
pub(super) fn insert(tensors: &mut Tensors, tensor: Tensor) -> Result<()> {
    if let Some(first) = tensors.get(tensor.name()) {
        return Err(Error::Duplicate {
            file: tensor.file().to_path_buf(),
            tensor: tensor.name().to_owned(),
            first: first.file().to_path_buf(),
        });
    }
    tensors.insert(tensor.shared_name(), tensor);
    Ok(())
}
