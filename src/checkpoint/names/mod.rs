//! Recognises the names and layouts that a checkpoint's tensors are stored by, and views them by
//! Flax's.
//!
//! Which names there are is declared by the model's modules, as
//! [`StoredAs`](crate::naming::StoredAs); here they are applied. Dots between names count as
//! slashes, what programs wrap a model in as nothing, and the `model/` that all of Flax's names
//! begin with may be missing. Of a multimodal model the text model is taken. No bytes move: what is
//! stored in another order, or several tensors in one, becomes views.

mod notation;
mod parts;
mod stacked;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::notation::Axes;
use super::{Error, Result, Tensor};
use crate::naming::{NameTable, Naming, filled};

/// Tensors by name.
type Tensors = BTreeMap<Arc<str>, Tensor>;

/// What all names may begin with, and mean nothing: Flax's collection, DeepMind's module,
/// big_vision's language model, and the wrappers of PyTorch's DataParallel and of PEFT.
const WRAPPINGS: [&str; 5] = [
    "params/",
    "transformer/",
    "llm/",
    "module/",
    "base_model/model/",
];
/// Parts that PyTorch puts into the names of what it compiles, shards or recomputes.
const WRAPPED: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];
/// What Flax's names begin with where the model has a head, and do not where it is the model alone.
const MODEL: &str = "model/";

/// Tensors by Flax's names.
pub(super) struct Canonical {
    pub tensors: Tensors,
    /// What they were stored by.
    pub naming: Naming,
    /// The parts of a multimodal model that are left out, each with the number of its tensors.
    pub other_parts: Vec<String>,
}

/// The tensors by Flax's names and in Flax's layouts. Tensors that the table does not name stay as
/// they are.
pub(super) fn canonical(stored: &Tensors, table: &NameTable) -> Result<Canonical> {
    let Plain { names, other_parts } = Plain::of(stored.keys().map(Arc::as_ref));
    let width = names
        .iter()
        .zip(stored.values())
        .find_map(|(name, tensor)| table.width(name.as_ref()?, tensor.shape()));

    let mut found = Naming::Unknown;
    let mut tensors = Tensors::new();
    for (plain, tensor) in names.into_iter().zip(stored.values()) {
        let Some(plain) = plain else { continue };
        let plain = &with_model(plain, table);
        if table.is_own(plain) {
            if found == Naming::Unknown {
                found = Naming::Flax;
            }
            let tensor = match plain == tensor.name() {
                true => tensor.clone(),
                false => tensor.renamed(plain.as_str().into()),
            };
            insert(&mut tensors, tensor)?;
            continue;
        }
        let mut rules = table.rules_of(plain).peekable();
        let Some(&(first, _)) = rules.peek() else {
            insert(&mut tensors, tensor.clone())?;
            continue;
        };
        let fitting = rules.find_map(|(rule, number)| {
            let axes = Axes::fit(rule.axes, &tensor.layout(), width)?;
            Some((rule, number, axes))
        });
        let Some((rule, number, axes)) = fitting else {
            return Err(Error::ForeignShape {
                file: tensor.file().to_path_buf(),
                tensor: tensor.name().to_owned(),
                expected: first.axes,
                found: tensor.shape().to_vec(),
            });
        };
        found = rule.naming;
        for part in &rule.parts {
            let layout = axes.arrange(part.view, part.part);
            let name = filled(&part.name, number).into();
            insert(&mut tensors, tensor.viewed(name, layout))?;
        }
    }
    Ok(Canonical {
        tensors,
        naming: found,
        other_parts,
    })
}

/// The table that names the most of the stored tensors; the first of equals.
pub(super) fn best<'t>(stored: &Tensors, tables: &'t [NameTable]) -> Option<&'t NameTable> {
    let Plain { names, .. } = Plain::of(stored.keys().map(Arc::as_ref));
    let known = |table: &NameTable| {
        let known = |name: &&String| is_known(&with_model((*name).clone(), table), table);
        names.iter().flatten().filter(known).count()
    };
    // `max_by_key` gives the last of equals.
    tables.iter().rev().max_by_key(|table| known(table))
}

/// The stored tensors with a view for each layer, where layers are stored together.
///
/// # Errors
/// An array of layers that has no axis for them.
pub(super) fn unstacked(stored: &Tensors, tables: &[NameTable]) -> Result<Option<Tensors>> {
    stacked::unstacked(stored, tables)
}

/// The stored names as a table writes them.
struct Plain {
    /// A name for each stored one; none for a tensor of another part of a multimodal model.
    names: Vec<Option<String>>,
    /// Those parts.
    other_parts: Vec<String>,
}

impl Plain {
    fn of<'n>(stored: impl Iterator<Item = &'n str>) -> Self {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut names: Vec<Option<String>> = stored
            .map(|name| {
                let name = unwrapped(name);
                match parts::other_part(&name) {
                    None => Some(name),
                    Some(part) => {
                        *counts.entry(part.to_owned()).or_default() += 1;
                        None
                    }
                }
            })
            .collect();
        let common = |names: &[Option<String>]| {
            let all = |with: &str| names.iter().flatten().all(|name| name.starts_with(with));
            let found = WRAPPINGS.iter().find(|with| all(with));
            found.map(|found| found.len())
        };
        // They may be within each other: `params/params/…`.
        while names.iter().any(Option::is_some)
            && let Some(len) = common(&names)
        {
            for name in names.iter_mut().flatten() {
                name.drain(..len);
            }
        }
        for name in names.iter_mut().flatten() {
            if let Some(alone) = parts::of_text(name) {
                *name = alone;
            }
        }
        Self {
            names,
            other_parts: parts::described(&counts),
        }
    }
}

/// The parts of a stored name joined by slashes, without those of PyTorch's wrappers.
fn unwrapped(name: &str) -> String {
    let name = name.replace('.', "/");
    match WRAPPED.iter().any(|part| name.contains(part)) {
        false => name,
        true => {
            let parts = name.split('/').filter(|part| !WRAPPED.contains(part));
            parts.collect::<Vec<_>>().join("/")
        }
    }
}

/// The name, or the one with `model/` before it where the table knows only that.
fn with_model(name: String, table: &NameTable) -> String {
    let longer = format!("{MODEL}{name}");
    match !is_known(&name, table) && is_known(&longer, table) {
        true => longer,
        false => name,
    }
}

fn is_known(name: &str, table: &NameTable) -> bool {
    table.is_own(name) || table.rules_of(name).next().is_some()
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
