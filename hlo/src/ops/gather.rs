//! Gather and scatter: parts at many places at once, the places given by an array of indices.

use crate::check::{Context, without};
use crate::instruction::Op;
use crate::{ArrayShape, Builder, Computation, Error, Result, Shape, Value};

/// Which dimensions of operand, indices and result correspond in [`Builder::gather`]; the names are
/// XLA's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GatherDims {
    /// The result's dimensions that run over a slice, rising.
    pub offset_dims: Vec<i64>,
    /// The operand's dimensions of slice size 1 that the result does not have, rising.
    pub collapsed_slice_dims: Vec<i64>,
    /// The operand's dimension that each entry of an index vector is a start in.
    pub start_index_map: Vec<i64>,
    /// The indices' dimension that holds the index vectors; their rank for scalar indices.
    pub index_vector_dim: i64,
    /// The size of a slice, one per dimension of the operand.
    pub slice_sizes: Vec<i64>,
    /// A promise that the indices rise.
    pub indices_are_sorted: bool,
}

/// Which dimensions of operand, indices and updates correspond in [`Builder::scatter`]; the names
/// are XLA's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScatterDims {
    /// The updates' dimensions that run over a window, rising.
    pub update_window_dims: Vec<i64>,
    /// The operand's dimensions of window size 1 that the updates do not have, rising.
    pub inserted_window_dims: Vec<i64>,
    /// The operand's dimension that each entry of an index vector is a start in.
    pub scatter_dims_to_operand_dims: Vec<i64>,
    /// The indices' dimension that holds the index vectors; their rank for scalar indices.
    pub index_vector_dim: i64,
    /// A promise that the indices rise.
    pub indices_are_sorted: bool,
    /// A promise that no two indices are equal.
    pub unique_indices: bool,
}

impl Builder {
    /// Takes a slice of `operand` at each index. Starts from which a slice would pass the end are
    /// moved back.
    ///
    /// # Errors
    /// [`Error::ElementType`] where indices are no integers, [`Error::Dimensions`] where the
    /// dimension numbers do not fit the shapes, [`Error::Shape`] where a slice size is not within
    /// the operand's.
    pub fn gather(&self, operand: Value, indices: Value, dims: GatherDims) -> Result<Value> {
        let (shape, index) = (
            self.array("gather", operand)?,
            self.array("gather", indices)?,
        );
        let context = Context {
            op: "gather",
            operands: &[&shape, &index],
        };
        let batch = index_batch(
            &context,
            &shape,
            &index,
            dims.index_vector_dim,
            &dims.start_index_map,
        )?;
        context.rising(
            "collapsed_slice_dims",
            &dims.collapsed_slice_dims,
            shape.rank(),
        )?;
        context.one_per_dim("slice_sizes", dims.slice_sizes.len(), shape.rank())?;
        let sizes = dims.slice_sizes.iter().zip(&shape.dims);
        if sizes
            .clone()
            .any(|(&slice, &size)| !(0..=size).contains(&slice))
        {
            return Err(context.shape(format!("slice sizes {:?} are not within", dims.slice_sizes)));
        }
        for &dim in &dims.collapsed_slice_dims {
            if context.size("collapsed_slice_dims", dim, &dims.slice_sizes)? > 1 {
                return Err(
                    context.dimensions(format!("collapsed dimension {dim} is above size 1"))
                );
            }
        }
        let offsets = without(&dims.slice_sizes, &dims.collapsed_slice_dims);
        let result = interleave(&context, "offset_dims", &dims.offset_dims, &offsets, &batch)?;
        let result = Shape::array(shape.element_type, &result);
        self.push(Op::Gather(dims), result, &[operand, indices])
    }

    /// Row `ids[…]` of `table[rows, …]` for each of the ids: the result's sizes are those of `ids`,
    /// then those of a row. An id beyond the table takes the nearest row.
    ///
    /// # Errors
    /// [`Error::ElementType`] where ids are no integers, [`Error::Dimensions`] where the table is a
    /// scalar.
    pub fn take_rows(&self, table: Value, ids: Value) -> Result<Value> {
        let (shape, index) = (self.array("gather", table)?, self.array("gather", ids)?);
        let context = Context {
            op: "gather",
            operands: &[&shape, &index],
        };
        let Some((&rows, row)) = shape.dims.split_first() else {
            return Err(context.dimensions("a scalar has no rows"));
        };
        if rows == 0 {
            return Err(context.shape("the table has no row"));
        }
        let mut slice_sizes = vec![1];
        slice_sizes.extend_from_slice(row);
        let dims = GatherDims {
            offset_dims: (0i64..).skip(index.rank()).take(row.len()).collect(),
            collapsed_slice_dims: vec![0],
            start_index_map: vec![0],
            index_vector_dim: i64::try_from(index.rank()).unwrap_or(i64::MAX),
            slice_sizes,
            indices_are_sorted: false,
        };
        self.gather(table, ids, dims)
    }

    /// The slices `ids` \[n\] of `x` along `dim`, in that order: dimension `dim` of the result has
    /// size n. An id beyond the dimension takes the nearest slice.
    ///
    /// # Errors
    /// [`Error::ElementType`] where ids are not integers, [`Error::Dimensions`] where `x`
    /// has no such dimension or the ids are not a vector.
    pub fn take(&self, x: Value, dim: i64, ids: Value) -> Result<Value> {
        let (shape, index) = (self.array("gather", x)?, self.array("gather", ids)?);
        let context = Context {
            op: "gather",
            operands: &[&shape, &index],
        };
        context.size("dim", dim, &shape.dims)?;
        if index.rank() != 1 {
            return Err(context.dimensions("the ids are not a vector"));
        }
        let sizes = (0i64..).zip(&shape.dims);
        let dims = GatherDims {
            offset_dims: sizes
                .clone()
                .map(|(i, _)| i)
                .filter(|&i| i != dim)
                .collect(),
            collapsed_slice_dims: vec![dim],
            start_index_map: vec![dim],
            index_vector_dim: 1,
            slice_sizes: sizes
                .map(|(i, &size)| if i == dim { 1 } else { size })
                .collect(),
            indices_are_sorted: false,
        };
        self.gather(x, ids, dims)
    }

    /// The operand with a window of `updates` merged into it at each index by `combine(old,
    /// update)`; a window that would pass the end is left out. The order in which windows are
    /// merged is not defined.
    ///
    /// # Errors
    /// [`Error::ElementType`] where indices are no integers or the updates are of another type,
    /// [`Error::Dimensions`] where the dimension numbers do not fit the shapes, [`Error::Shape`]
    /// where a window is not within the operand, [`Error::Computation`] where `combine` is not one
    /// of two scalars.
    pub fn scatter(
        &self,
        operand: Value,
        indices: Value,
        updates: Value,
        dims: ScatterDims,
        combine: &Computation,
    ) -> Result<Value> {
        let shape = self.array("scatter", operand)?;
        let index = self.array("scatter", indices)?;
        let update = self.array("scatter", updates)?;
        let context = Context {
            op: "scatter",
            operands: &[&shape, &index, &update],
        };
        if shape.element_type != update.element_type {
            return Err(context.element_type("the updates are of another element type"));
        }
        let batch = index_batch(
            &context,
            &shape,
            &index,
            dims.index_vector_dim,
            &dims.scatter_dims_to_operand_dims,
        )?;
        context.rising(
            "inserted_window_dims",
            &dims.inserted_window_dims,
            shape.rank(),
        )?;
        context.rising(
            "update_window_dims",
            &dims.update_window_dims,
            update.rank(),
        )?;
        let bounds = without(&shape.dims, &dims.inserted_window_dims);
        let mut windows = Vec::with_capacity(bounds.len());
        for &dim in &dims.update_window_dims {
            windows.push(context.size("update_window_dims", dim, &update.dims)?);
        }
        let within = windows.len() == bounds.len()
            && windows
                .iter()
                .zip(&bounds)
                .all(|(window, bound)| window <= bound);
        if !within {
            return Err(context.shape(format!(
                "windows of sizes {windows:?} are not within {bounds:?}"
            )));
        }
        let whole = interleave(
            &context,
            "update_window_dims",
            &dims.update_window_dims,
            &windows,
            &batch,
        )?;
        if whole != update.dims {
            return Err(context.shape(format!("the updates should have sizes {whole:?}")));
        }
        let scalar = Shape::scalar(shape.element_type);
        context.computation(combine, &[scalar.clone(), scalar.clone()], &scalar)?;
        self.push_calling(
            Op::Scatter(dims),
            shape.into(),
            &[operand, indices, updates],
            &[combine],
        )
    }
}

/// Checks the indices and gives their sizes without the dimension of the index vectors.
fn index_batch(
    context: &Context<'_>,
    operand: &ArrayShape,
    indices: &ArrayShape,
    index_vector_dim: i64,
    map: &[i64],
) -> Result<Vec<i64>, Error> {
    if !indices.element_type.is_integer() {
        return Err(context.element_type("indices must be integers"));
    }
    context.distinct("the index map", map, operand.rank())?;
    let vector_dim = usize::try_from(index_vector_dim)
        .ok()
        .filter(|&dim| dim <= indices.rank())
        .ok_or_else(|| {
            context.dimensions(format!(
                "index_vector_dim {index_vector_dim} is out of range"
            ))
        })?;
    // One past the last dimension, there is an implicit one of size 1.
    let length = indices.dims.get(vector_dim).copied().unwrap_or(1);
    if usize::try_from(length) != Ok(map.len()) {
        return Err(context.dimensions(format!(
            "index vectors of {length} entries are mapped to {map:?}"
        )));
    }
    Ok(without(&indices.dims, &[index_vector_dim]))
}

/// Sizes of which those at `positions` are `slices`, in order, and the rest `batch`.
fn interleave(
    context: &Context<'_>,
    what: &str,
    positions: &[i64],
    slices: &[i64],
    batch: &[i64],
) -> Result<Vec<i64>> {
    let rank = slices.len() + batch.len();
    context.rising(what, positions, rank)?;
    if positions.len() != slices.len() {
        return Err(context.dimensions(format!(
            "{what} {positions:?} should be {} dimensions",
            slices.len()
        )));
    }
    let (mut slices, mut batch) = (slices.iter(), batch.iter());
    let sizes = (0i64..).take(rank).filter_map(|i| {
        if positions.contains(&i) {
            slices.next()
        } else {
            batch.next()
        }
    });
    Ok(sizes.copied().collect())
}
