//! Operations in which the replicas of a program exchange data, in the form that names groups of
//! replicas.
//!
//! All replicas of a group call the operation; a group lists replica numbers, and its order is the
//! order of the parts where these are joined or dealt out.

use super::reduce::one_or_tuple;
use crate::check::Context;
use crate::instruction::Op;
use crate::{ArrayShape, Builder, Computation, ElementType, Result, Shape, Value};

impl Builder {
    /// The reduction of `x` over the replicas of each group, given to all of them. No group stands
    /// for one of all replicas.
    ///
    /// # Errors
    /// [`Error::Replicas`](crate::Error::Replicas) where a group is empty or a replica stands
    /// twice, [`Error::Computation`](crate::Error::Computation) where `reducer` is not one of two
    /// scalars.
    pub fn all_reduce(
        &self,
        x: Value,
        reducer: &Computation,
        groups: &[Vec<i64>],
    ) -> Result<Value> {
        self.all_reduce_many(&[x], reducer, groups)
    }

    /// [`Builder::all_reduce`] of several arrays of one element type in one exchange; a tuple if
    /// there is not just one.
    ///
    /// # Errors
    /// As [`Builder::all_reduce`]; [`Error::ElementType`](crate::Error::ElementType) where element
    /// types differ, [`Error::Shape`](crate::Error::Shape) where there is no operand.
    pub fn all_reduce_many(
        &self,
        operands: &[Value],
        reducer: &Computation,
        groups: &[Vec<i64>],
    ) -> Result<Value> {
        let shapes = self.arrays("all-reduce", operands)?;
        let list: Vec<&ArrayShape> = shapes.iter().collect();
        let context = Context {
            op: "all-reduce",
            operands: &list,
        };
        let Some(first) = shapes.first() else {
            return Err(context.shape("needs an operand"));
        };
        context.same_element_type()?;
        check_groups(&context, groups)?;
        check_reducer(&context, reducer, first.element_type)?;
        let op = Op::AllReduce {
            groups: groups.to_vec(),
        };
        let result = one_or_tuple(shapes.iter().map(Shape::from).collect());
        self.push_calling(op, result, operands, &[reducer])
    }

    /// The arrays of a group's replicas, joined along `dim`, given to all of them.
    ///
    /// # Errors
    /// [`Error::Replicas`](crate::Error::Replicas) where there is no group, groups are of unequal
    /// size or a replica stands twice, [`Error::Dimensions`](crate::Error::Dimensions) where `dim`
    /// is none of the operand's.
    pub fn all_gather(&self, x: Value, dim: i64, groups: &[Vec<i64>]) -> Result<Value> {
        const OP: &str = "all-gather";
        let mut shape = self.array(OP, x)?;
        let context = Context {
            op: OP,
            operands: &[&shape.clone()],
        };
        let at = context.dim("dimension", dim, shape.rank())?;
        let parts = group_size(&context, groups)?;
        if let Some(size) = shape.dims.get_mut(at) {
            *size = size
                .checked_mul(parts)
                .ok_or_else(|| context.shape("the joined size passes 63 bits"))?;
        }
        self.push(along(OP, dim, groups), shape.into(), &[x])
    }

    /// The reduction of `x` over the replicas of a group, of which each is given its part along
    /// `dim`.
    ///
    /// # Errors
    /// [`Error::Replicas`](crate::Error::Replicas) as [`Builder::all_gather`],
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of the operand's or its
    /// size no multiple of the group's, [`Error::Computation`](crate::Error::Computation) where
    /// `reducer` is not one of two scalars.
    pub fn reduce_scatter(
        &self,
        x: Value,
        reducer: &Computation,
        dim: i64,
        groups: &[Vec<i64>],
    ) -> Result<Value> {
        const OP: &str = "reduce-scatter";
        let mut shape = self.array(OP, x)?;
        let context = Context {
            op: OP,
            operands: &[&shape.clone()],
        };
        let at = context.dim("dimension", dim, shape.rank())?;
        let parts = check_divides(&context, dim, groups, &shape)?;
        check_reducer(&context, reducer, shape.element_type)?;
        if let Some(size) = shape.dims.get_mut(at) {
            *size /= parts;
        }
        self.push_calling(along(OP, dim, groups), shape.into(), &[x], &[reducer])
    }

    /// Deals the parts of `x` along `dim` to the replicas of the group, and joins those received
    /// along the same dimension.
    ///
    /// # Errors
    /// [`Error::Replicas`](crate::Error::Replicas) as [`Builder::all_gather`],
    /// [`Error::Dimensions`](crate::Error::Dimensions) where `dim` is none of the operand's or its
    /// size no multiple of the group's.
    pub fn all_to_all(&self, x: Value, dim: i64, groups: &[Vec<i64>]) -> Result<Value> {
        const OP: &str = "all-to-all";
        let shape = self.array(OP, x)?;
        let context = Context {
            op: OP,
            operands: &[&shape],
        };
        check_divides(&context, dim, groups, &shape)?;
        self.push(along(OP, dim, groups), shape.clone().into(), &[x])
    }

    /// Sends `x` from the first to the second replica of each pair; a replica that receives nothing
    /// has zeros.
    ///
    /// # Errors
    /// [`Error::Replicas`](crate::Error::Replicas) where a replica sends or receives twice.
    pub fn collective_permute(&self, x: Value, pairs: &[(i64, i64)]) -> Result<Value> {
        const OP: &str = "collective-permute";
        let shape = self.array(OP, x)?;
        let context = Context {
            op: OP,
            operands: &[&shape],
        };
        let (sources, targets): (Vec<i64>, Vec<i64>) = pairs.iter().copied().unzip();
        for side in [sources, targets] {
            check_replicas(&context, &side)?;
        }
        let op = Op::CollectivePermute {
            pairs: pairs.to_vec(),
        };
        self.push(op, shape.clone().into(), &[x])
    }

    /// The number of the replica that runs the program, a `u32` scalar.
    ///
    /// # Errors
    /// None; the type is that of all operations.
    pub fn replica_id(&self) -> Result<Value> {
        self.push(
            Op::Plain("replica-id"),
            Shape::scalar(ElementType::U32),
            &[],
        )
    }
}

fn along(opcode: &'static str, dim: i64, groups: &[Vec<i64>]) -> Op {
    Op::AlongDim {
        opcode,
        dim,
        groups: groups.to_vec(),
    }
}

fn check_reducer(
    context: &Context<'_>,
    reducer: &Computation,
    element_type: ElementType,
) -> Result<()> {
    let scalar = Shape::scalar(element_type);
    context.computation(reducer, &[scalar.clone(), scalar.clone()], &scalar)
}

/// Replica numbers that may each stand once.
fn check_replicas(context: &Context<'_>, replicas: &[i64]) -> Result<()> {
    for (i, &replica) in replicas.iter().enumerate() {
        if replica < 0 {
            return Err(context.replicas(format!("replica {replica} is negative")));
        }
        if replicas.iter().take(i).any(|&earlier| earlier == replica) {
            return Err(context.replicas(format!("replica {replica} stands twice")));
        }
    }
    Ok(())
}

fn check_groups(context: &Context<'_>, groups: &[Vec<i64>]) -> Result<()> {
    if groups.iter().any(Vec::is_empty) {
        return Err(context.replicas("a replica group is empty"));
    }
    check_replicas(context, &groups.concat())
}

/// The size that all groups have.
fn group_size(context: &Context<'_>, groups: &[Vec<i64>]) -> Result<i64> {
    check_groups(context, groups)?;
    let Some(first) = groups.first() else {
        return Err(context.replicas("needs replica groups"));
    };
    if groups.iter().any(|group| group.len() != first.len()) {
        return Err(context.replicas("replica groups are of unequal size"));
    }
    Ok(i64::try_from(first.len()).unwrap_or(i64::MAX))
}

/// The size of the groups, which divides that of the dimension.
fn check_divides(
    context: &Context<'_>,
    dim: i64,
    groups: &[Vec<i64>],
    shape: &ArrayShape,
) -> Result<i64> {
    let size = context.size("dimension", dim, &shape.dims)?;
    let parts = group_size(context, groups)?;
    if size % parts != 0 {
        return Err(context.dimensions(format!(
            "dimension {dim} of size {size} does not divide into {parts} parts"
        )));
    }
    Ok(parts)
}
