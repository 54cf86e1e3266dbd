//! Compares the tensors of a checkpoint with those of a model, and sets aside what is not a
//! parameter.

use std::path::Path;
use std::sync::Arc;

use super::{Checkpoint, Error, Inner, Result, Tensor};
use crate::dtype::DType;

/// The most names that a message lists.
const MOST_NAMES: usize = 3;
/// Elements of the embedding and the head that are compared at a time.
const COMPARED: usize = 1 << 22;

/// How the tensors of a checkpoint differ from those that a model needs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Comparison {
    /// The name and shape of each tensor that the checkpoint lacks.
    pub missing: Vec<(String, Vec<usize>)>,
    /// The tensors that have another shape than the model needs, with that shape.
    pub wrong_shape: Vec<(Tensor, Vec<usize>)>,
    /// The tensors that look like weights and that the model does not have.
    pub left_over: Vec<Tensor>,
    /// What is left out because it is not a parameter: see [`Checkpoint::left_out`].
    pub left_out: Vec<String>,
    /// Parts of a multimodal model that are left out: see [`Checkpoint::other_parts`].
    pub other_parts: Vec<String>,
    /// A head that differs from the embedding, which the model uses in its place.
    pub untied_head: Option<Tensor>,
}

impl Comparison {
    /// Whether the checkpoint can be loaded into the model.
    pub fn fits(&self) -> bool {
        self.missing.is_empty()
            && self.wrong_shape.is_empty()
            && self.left_over.is_empty()
            && self.untied_head.is_none()
    }
}

impl Checkpoint {
    /// Compares the tensors with those of a model, given by name and shape.
    ///
    /// # Errors
    /// [`Error::Read`] where a head and the embedding that it may be equal to cannot be read.
    pub fn compare(&self, expected: &[(String, Vec<usize>)]) -> Result<Comparison> {
        let mut comparison = Comparison {
            left_out: self.left_out().to_vec(),
            other_parts: self.other_parts().to_vec(),
            ..Comparison::default()
        };
        let mut left_over = self.inner.tensors.clone();
        for (name, shape) in expected {
            match left_over.remove(name.as_str()) {
                None => comparison.missing.push((name.clone(), shape.clone())),
                Some(tensor) if tensor.shape() != shape => {
                    comparison.wrong_shape.push((tensor, shape.clone()));
                }
                Some(_) => {}
            }
        }
        for (name, tensor) in left_over {
            let tied = self.names_of_head().filter(|(_, head)| *head == &*name);
            if !is_parameter(&tensor) {
                comparison.left_out.push(name.to_string());
            } else if let Some((embedding, _)) = tied {
                match self.equals(&tensor.transposed(), embedding)? {
                    true => comparison.left_out.push(equal_head(&name)),
                    false => comparison.untied_head = Some(tensor),
                }
            } else {
                comparison.left_over.push(tensor);
            }
        }
        Ok(comparison)
    }

    /// Checks that the checkpoint has exactly these tensors, given by name and shape. A warning
    /// counts those that are left out because they are not parameters.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::WrongShape`], [`Error::UntiedHead`] or
    /// [`Error::LeftOver`], the first that applies in this order.
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<()> {
        let comparison = self.compare(expected)?;
        if let Some((name, shape)) = comparison.missing.first() {
            let names = comparison.missing.iter().map(|(name, _)| name.as_str());
            return Err(Error::MissingTensor {
                file: self.path().to_path_buf(),
                tensor: name.clone(),
                shape: shape.clone(),
                others: comparison.missing.len() - 1,
                names: listed(names),
            });
        }
        if let Some((tensor, expected)) = comparison.wrong_shape.first() {
            return Err(wrong_shape(tensor, expected));
        }
        if let Some(head) = &comparison.untied_head {
            return Err(untied_head(head));
        }
        if let Some(tensor) = comparison.left_over.first() {
            let names = comparison.left_over.iter().map(Tensor::name);
            return Err(Error::LeftOver {
                file: tensor.file().to_path_buf(),
                tensor: tensor.name().to_owned(),
                shape: tensor.shape().to_vec(),
                others: comparison.left_over.len() - 1,
                names: listed(names),
            });
        }
        warn_of_left_out(self.path(), &comparison.left_out);
        warn_of_other_parts(self);
        Ok(())
    }

    /// The same checkpoint without what is not a parameter, of which a warning counts the tensors.
    /// `tied` says whether the model uses its embedding as the head.
    ///
    /// # Errors
    /// [`Error::UntiedHead`], and [`Error::Read`] as with [`Checkpoint::compare`].
    pub fn parameters_only(&self, tied: bool) -> Result<Self> {
        let mut left_out = self.left_out().to_vec();
        let mut tensors = self.inner.tensors.clone();
        tensors.retain(|name, tensor| {
            let keep = is_parameter(tensor);
            if !keep {
                left_out.push(name.to_string());
            }
            keep
        });
        if let Some((embedding, name)) = self.names_of_head().filter(|_| tied)
            && let Some(head) = tensors.remove(name)
        {
            if !self.equals(&head.transposed(), embedding)? {
                return Err(untied_head(&head));
            }
            left_out.push(equal_head(name));
        }
        warn_of_left_out(self.path(), &left_out);
        warn_of_other_parts(self);
        Ok(Checkpoint {
            inner: Arc::new(Inner {
                tensors,
                left_out,
                ..Inner::clone(&self.inner)
            }),
        })
    }

    /// The names of the embedding and of the head that some models have beside it.
    fn names_of_head(&self) -> Option<(&str, &str)> {
        self.inner.names.head()
    }

    /// Whether a tensor has the same values as the one of this name.
    fn equals(&self, tensor: &Tensor, name: &str) -> Result<bool> {
        let Some(other) = self.get(name) else {
            return Ok(false);
        };
        if tensor.shape() != other.shape() {
            return Ok(false);
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (slab, other) in tensor.slabs(COMPARED).zip(other.slabs(COMPARED)) {
            for (tensor, bytes) in [(slab, &mut a), (other, &mut b)] {
                bytes.resize(tensor.byte_len() / tensor.dtype().size() * 4, 0);
                tensor.read_into(DType::F32, bytes)?;
            }
            if a != b {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a tensor can be a parameter: scalars and empty markers cannot.
fn is_parameter(tensor: &Tensor) -> bool {
    !tensor.shape().is_empty() && tensor.byte_len() > 0
}

fn equal_head(name: &str) -> String {
    format!("{name} (equal to the embedding)")
}

fn untied_head(head: &Tensor) -> Error {
    Error::UntiedHead {
        file: head.file().to_path_buf(),
        tensor: head.stored_name().to_owned(),
    }
}

pub(super) fn wrong_shape(tensor: &Tensor, expected: &[usize]) -> Error {
    Error::WrongShape {
        file: tensor.file().to_path_buf(),
        tensor: tensor.name().to_owned(),
        expected: expected.to_vec(),
        found: tensor.shape().to_vec(),
    }
}

/// The first few names, for a message.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.take(MOST_NAMES).map(str::to_owned).collect()
}

fn warn_of_other_parts(checkpoint: &Checkpoint) {
    let parts = checkpoint.other_parts();
    if !parts.is_empty() {
        tracing::warn!(
            "{}: left out parts other than the text model: {}",
            checkpoint.path().display(),
            parts.join(", ")
        );
    }
}

fn warn_of_left_out(path: &Path, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let first = names.get(..MOST_NAMES).unwrap_or(names).join(", ");
    tracing::warn!(
        "{}: left out {}, not parameters: {first}{}",
        path.display(),
        match names.len() {
            1 => "1 tensor".to_owned(),
            count => format!("{count} tensors"),
        },
        if names.len() > MOST_NAMES {
            ", …"
        } else {
            ""
        }
    );
}
