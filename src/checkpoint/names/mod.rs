//! Recognises the names and layouts that a checkpoint's tensors are stored by, and views them by
//! Flax's.
//!
//! Which names there are is declared by the model's modules, as
//! [`StoredAs`](crate::naming::StoredAs); here they are applied. Dots between names count as
//! slashes, and a `params/` or `transformer/` that all names begin with as nothing. No bytes move:
//! what is stored in another order, or several tensors in one, becomes views.

mod notation;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::notation::Axes;
use super::{Error, Result, Tensor};
use crate::naming::{NameTable, Naming, filled};

/// Tensors by name.
type Tensors = BTreeMap<Arc<str>, Tensor>;

/// The tensors by Flax's names and in Flax's layouts, and what they were stored by. Tensors that
/// the table does not name stay as they are.
pub(super) fn canonical(stored: &Tensors, table: &NameTable) -> Result<(Tensors, Naming)> {
    let names = plain_names(stored.keys().map(Arc::as_ref));
    let width = names
        .iter()
        .zip(stored.values())
        .find_map(|(name, tensor)| table.width(name, tensor.shape()));

    let mut found = Naming::Unknown;
    let mut tensors = Tensors::new();
    for (plain, tensor) in names.iter().zip(stored.values()) {
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
            let axes = Axes::fit(rule.axes, tensor.shape(), width)?;
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
    Ok((tensors, found))
}

/// The table that names the most of the stored tensors; the first of equals.
pub(super) fn best<'t>(stored: &Tensors, tables: &'t [NameTable]) -> Option<&'t NameTable> {
    let names = plain_names(stored.keys().map(Arc::as_ref));
    let known = |table: &NameTable| {
        let known = |name: &&String| table.is_own(name) || table.rules_of(name).next().is_some();
        names.iter().filter(known).count()
    };
    // `max_by_key` gives the last of equals.
    tables.iter().rev().max_by_key(|table| known(table))
}

/// The stored names as the table writes them.
fn plain_names<'n>(stored: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut names: Vec<String> = stored.map(|name| name.replace('.', "/")).collect();
    for wrapping in ["params/", "transformer/"] {
        if names.iter().all(|name| name.starts_with(wrapping)) {
            for name in &mut names {
                name.drain(..wrapping.len());
            }
        }
    }
    names
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
