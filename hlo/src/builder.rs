//! The builder's core: adding instructions, and asking for their shapes.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::instruction::{Instruction, Op};
use crate::{ArrayShape, Computation, ElementType, Error, Result, Shape};

/// A handle of an instruction of one [`Builder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value {
    builder: u64,
    index: usize,
}

/// Builds one computation, an instruction at a time.
///
/// Operations take `&self`, so that calls nest: `b.add(x, b.mul(y, z)?)?`.
#[derive(Debug)]
pub struct Builder {
    id: u64,
    name: String,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    instructions: Vec<Instruction>,
    parameters: Vec<Shape>,
    scopes: Vec<String>,
    /// The first error of a tensor's operation.
    failure: Option<Error>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Builder {
    /// A builder of an empty computation.
    pub fn new(name: &str) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            state: RefCell::default(),
        }
    }

    /// A builder of another computation, whose instructions carry the scope that this builder is
    /// in.
    pub fn child(&self, name: &str) -> Self {
        let child = Self::new(name);
        child
            .state
            .borrow_mut()
            .scopes
            .clone_from(&self.state.borrow().scopes);
        child
    }

    /// Builds a computation to be called from this one, of parameters of the shapes given, in this
    /// builder's scope.
    ///
    /// # Errors
    /// What `build` returns, and [`Error::ForeignValue`] where its value is not of the builder that
    /// it was given.
    pub fn computation<E: From<Error>>(
        &self,
        name: &str,
        parameters: &[Shape],
        build: impl FnOnce(&Builder, &[Value]) -> Result<Value, E>,
    ) -> Result<Computation, E> {
        let b = self.child(name);
        let mut values = Vec::with_capacity(parameters.len());
        for (i, shape) in parameters.iter().enumerate() {
            values.push(b.parameter(&format!("arg{i}"), shape)?);
        }
        let root = build(&b, &values)?;
        Ok(b.finish(root)?)
    }

    /// The name of the computation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds the next parameter; parameters are numbered in the order of the calls.
    ///
    /// The layouts in the shape say how the caller passes the data if this becomes a module's
    /// entry.
    ///
    /// # Errors
    /// [`Error::InvalidShape`] where a size is negative or a layout is no permutation of the
    /// dimensions.
    pub fn parameter(&self, name: &str, shape: impl Into<Shape>) -> Result<Value> {
        let shape = shape.into();
        let number = i64::try_from(self.state.borrow().parameters.len()).unwrap_or(i64::MAX);
        let op = Op::Parameter {
            number,
            name: name.to_owned(),
        };
        let value = self.push(op, shape.clone(), &[])?;
        self.state.borrow_mut().parameters.push(shape);
        Ok(value)
    }

    /// Runs `build` in a scope: instructions that it adds carry the scopes' names, joined by `/`,
    /// as their `op_name` in dumps and profiles. Scopes nest.
    pub fn scoped<T>(&self, name: &str, build: impl FnOnce() -> T) -> T {
        /// Leaves the scope also where `build` unwinds.
        struct Leave<'a>(&'a Builder);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.state.borrow_mut().scopes.pop();
            }
        }
        self.state.borrow_mut().scopes.push(name.to_owned());
        let _leave = Leave(self);
        build()
    }

    /// Names a value's instruction in dumps; a number is added to keep names unique.
    ///
    /// # Errors
    /// [`Error::ForeignValue`] where the value is of another builder.
    pub fn named(&self, value: Value, name: &str) -> Result<Value> {
        self.check(value, "name")?;
        let mut state = self.state.borrow_mut();
        if let Some(instruction) = state.instructions.get_mut(value.index) {
            instruction.name = Some(name.to_owned());
        }
        Ok(value)
    }

    /// The shape of a value.
    ///
    /// # Errors
    /// [`Error::ForeignValue`] where the value is of another builder.
    pub fn shape(&self, value: Value) -> Result<Shape> {
        self.operand("shape", value)
    }

    /// The shape of a value that is an array.
    ///
    /// # Errors
    /// [`Error::ForeignValue`] where the value is of another builder, [`Error::Kind`] where it is a
    /// tuple.
    pub fn array_shape(&self, value: Value) -> Result<ArrayShape> {
        self.array("shape", value)
    }

    /// The sizes of an array.
    ///
    /// # Errors
    /// As [`Builder::array_shape`].
    pub fn dims(&self, value: Value) -> Result<Vec<i64>> {
        Ok(self.array("shape", value)?.dims)
    }

    /// The element type of an array.
    ///
    /// # Errors
    /// As [`Builder::array_shape`].
    pub fn element_type(&self, value: Value) -> Result<ElementType> {
        Ok(self.array("shape", value)?.element_type)
    }

    /// Keeps the first error of the tensors' operations, with the scope that it arose in.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.state.borrow_mut();
        if state.failure.is_none() {
            let scope = state.scopes.join("/");
            state.failure = Some(error.in_scope(scope));
        }
    }

    /// The first error of the tensors' operations so far.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.state.borrow().failure.clone()
    }

    /// Freezes the computation with `root` as its result.
    ///
    /// # Errors
    /// The first error of an operation on [`Tensor`](crate::Tensor)s, else [`Error::ForeignValue`]
    /// where the root is of another builder.
    pub fn finish(self, root: Value) -> Result<Computation> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let result = self.operand("finish", root)?.in_row_major();
        let state = self.state.into_inner();
        Ok(Computation::new(
            self.name,
            state.parameters,
            result,
            state.instructions,
            root.index,
        ))
    }

    /// Adds an instruction that calls no computation.
    pub(crate) fn push(&self, op: Op, shape: Shape, operands: &[Value]) -> Result<Value> {
        self.push_calling(op, shape, operands, &[])
    }

    /// Adds an instruction. The caller has checked that operands fit the operation; here their
    /// owner is checked, and that the result's shape is one that XLA can hold.
    pub(crate) fn push_calling(
        &self,
        op: Op,
        shape: Shape,
        operands: &[Value],
        called: &[&Computation],
    ) -> Result<Value> {
        let opcode = op.opcode();
        for &operand in operands {
            self.check(operand, opcode)?;
        }
        shape.validate(opcode)?;
        // Layouts are the compiler's business, but at the borders: parameters and custom calls.
        let shape = match op {
            Op::Parameter { .. } | Op::CustomCall { .. } => shape,
            _ => shape.in_row_major(),
        };
        let mut state = self.state.borrow_mut();
        let scope = state.scopes.join("/");
        let index = state.instructions.len();
        state.instructions.push(Instruction {
            op,
            shape,
            operands: operands.iter().map(|operand| operand.index).collect(),
            called: called.iter().copied().cloned().collect(),
            name: None,
            scope,
        });
        Ok(Value {
            builder: self.id,
            index,
        })
    }

    fn check(&self, value: Value, op: &'static str) -> Result<()> {
        if value.builder == self.id {
            return Ok(());
        }
        Err(Error::ForeignValue {
            op,
            builder: self.name.clone(),
        })
    }

    /// An operand's shape.
    pub(crate) fn operand(&self, op: &'static str, value: Value) -> Result<Shape> {
        self.check(value, op)?;
        let state = self.state.borrow();
        let instruction = state.instructions.get(value.index);
        instruction
            .map(|instruction| instruction.shape.clone())
            .ok_or_else(|| Error::ForeignValue {
                op,
                builder: self.name.clone(),
            })
    }

    /// The shape of an operand that has to be an array.
    pub(crate) fn array(&self, op: &'static str, value: Value) -> Result<ArrayShape> {
        match self.operand(op, value)? {
            Shape::Array(array) => Ok(array),
            shape => Err(Error::Kind {
                op,
                expected: "an array",
                shape: Box::new(shape),
            }),
        }
    }

    /// The shapes of operands that have to be arrays.
    pub(crate) fn arrays(&self, op: &'static str, values: &[Value]) -> Result<Vec<ArrayShape>> {
        values.iter().map(|&value| self.array(op, value)).collect()
    }
}
