//! Checks and errors that many operations share.

use crate::{ArrayShape, Computation, Error, Result, Shape};

/// The operation that is being added and the operands that it was given, for checks and their
/// errors.
pub(crate) struct Context<'a> {
    pub(crate) op: &'static str,
    pub(crate) operands: &'a [&'a ArrayShape],
}

impl Context<'_> {
    fn list(&self) -> String {
        let shapes: Vec<String> = self
            .operands
            .iter()
            .map(|shape| shape.to_string())
            .collect();
        shapes.join(", ")
    }

    pub(crate) fn element_type(&self, reason: impl Into<String>) -> Error {
        Error::ElementType {
            op: self.op,
            operands: self.list(),
            reason: reason.into(),
        }
    }

    pub(crate) fn shape(&self, reason: impl Into<String>) -> Error {
        Error::Shape {
            op: self.op,
            operands: self.list(),
            reason: reason.into(),
        }
    }

    pub(crate) fn dimensions(&self, reason: impl Into<String>) -> Error {
        Error::Dimensions {
            op: self.op,
            operands: self.list(),
            reason: reason.into(),
        }
    }

    pub(crate) fn replicas(&self, reason: impl Into<String>) -> Error {
        Error::Replicas {
            op: self.op,
            operands: self.list(),
            reason: reason.into(),
        }
    }

    /// All operands have one element type and the same sizes.
    pub(crate) fn same_shape(&self) -> Result<()> {
        self.same_element_type()?;
        self.same_dims()
    }

    /// All operands have one element type.
    pub(crate) fn same_element_type(&self) -> Result<()> {
        let same = self
            .operands
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.element_type == b.element_type));
        if same {
            return Ok(());
        }
        Err(self.element_type("operands differ in element type"))
    }

    /// All operands have the same sizes.
    pub(crate) fn same_dims(&self) -> Result<()> {
        let same = self
            .operands
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.dims == b.dims));
        if same {
            return Ok(());
        }
        Err(self.shape("operands differ in shape"))
    }

    /// A dimension number of an array, as an index into its sizes.
    pub(crate) fn dim(&self, what: &str, dim: i64, rank: usize) -> Result<usize> {
        usize::try_from(dim)
            .ok()
            .filter(|&dim| dim < rank)
            .ok_or_else(|| self.dimensions(format!("{what} {dim} is not below rank {rank}")))
    }

    /// The size of one dimension.
    pub(crate) fn size(&self, what: &str, dim: i64, dims: &[i64]) -> Result<i64> {
        let index = self.dim(what, dim, dims.len())?;
        Ok(dims.get(index).copied().unwrap_or_default())
    }

    /// Dimension numbers that must each occur in an array of the rank given, none twice.
    pub(crate) fn distinct(&self, what: &str, numbers: &[i64], rank: usize) -> Result<()> {
        for (i, &dim) in numbers.iter().enumerate() {
            self.dim(what, dim, rank)?;
            if numbers.iter().take(i).any(|&earlier| earlier == dim) {
                return Err(self.dimensions(format!("{what} names dimension {dim} twice")));
            }
        }
        Ok(())
    }

    /// Dimension numbers that must rise.
    pub(crate) fn rising(&self, what: &str, numbers: &[i64], rank: usize) -> Result<()> {
        self.distinct(what, numbers, rank)?;
        if numbers.is_sorted() {
            return Ok(());
        }
        Err(self.dimensions(format!("{what} {numbers:?} does not rise")))
    }

    /// A list that has one entry per dimension.
    pub(crate) fn one_per_dim(&self, what: &str, entries: usize, rank: usize) -> Result<()> {
        if entries == rank {
            return Ok(());
        }
        Err(self.dimensions(format!(
            "{what} has {entries} entries where the rank is {rank}"
        )))
    }

    /// A called computation with the parameters and the result given, whatever their layouts.
    pub(crate) fn computation(
        &self,
        computation: &Computation,
        parameters: &[Shape],
        result: &Shape,
    ) -> Result<()> {
        let shapes: Vec<String> = self
            .operands
            .iter()
            .map(|shape| shape.to_string())
            .collect();
        check_signature(self.op, &shapes, computation, parameters, result)
    }
}

/// Refuses a computation that does not have the parameters and the result given.
pub(crate) fn check_signature(
    op: &'static str,
    operands: &[String],
    computation: &Computation,
    parameters: &[Shape],
    result: &Shape,
) -> Result<()> {
    let fits = computation.parameters().len() == parameters.len()
        && computation
            .parameters()
            .iter()
            .zip(parameters)
            .all(|(has, needs)| has.is_compatible(needs))
        && computation.result_shape().is_compatible(result);
    if fits {
        return Ok(());
    }
    let needs: Vec<String> = parameters.iter().map(Shape::to_string).collect();
    Err(Error::Computation {
        op,
        operands: operands.join(", "),
        computation: computation.signature(),
        reason: format!("should be ({}) -> {result}", needs.join(", ")),
    })
}

/// The sizes of `dims` whose positions are not among `removed`.
pub(crate) fn without(dims: &[i64], removed: &[i64]) -> Vec<i64> {
    (0i64..)
        .zip(dims)
        .filter(|(i, _)| !removed.contains(i))
        .map(|(_, &size)| size)
        .collect()
}
