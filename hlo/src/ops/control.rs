//! Tuples, loops, branches and calls.

use crate::check::{Context, check_signature};
use crate::instruction::Op;
use crate::{Builder, Computation, ElementType, Error, Result, Shape, Value};

impl Builder {
    /// A tuple of values.
    ///
    /// # Errors
    /// [`Error::ForeignValue`] where a value is of another builder.
    pub fn tuple(&self, parts: &[Value]) -> Result<Value> {
        let shapes: Result<Vec<Shape>> = parts
            .iter()
            .map(|&part| self.operand("tuple", part))
            .collect();
        self.push(Op::Plain("tuple"), Shape::Tuple(shapes?), parts)
    }

    /// The part of a tuple at `index`.
    ///
    /// # Errors
    /// [`Error::Kind`] where `x` is no tuple, [`Error::Dimensions`] where it has no such part.
    pub fn get_tuple_element(&self, x: Value, index: i64) -> Result<Value> {
        const OP: &str = "get-tuple-element";
        let shape = self.operand(OP, x)?;
        let Some(parts) = shape.as_tuple() else {
            return Err(Error::Kind {
                op: OP,
                expected: "a tuple",
                shape: Box::new(shape),
            });
        };
        let part = usize::try_from(index).ok().and_then(|i| parts.get(i));
        let Some(part) = part else {
            return Err(Error::Dimensions {
                op: OP,
                operands: shape.to_string(),
                reason: format!("has no part {index}"),
            });
        };
        self.push(Op::GetTupleElement { index }, part.clone(), &[x])
    }

    /// All parts of a tuple, in order.
    ///
    /// # Errors
    /// [`Error::Kind`] where `x` is no tuple.
    pub fn untuple(&self, x: Value) -> Result<Vec<Value>> {
        let count = match self.operand("get-tuple-element", x)? {
            Shape::Tuple(parts) => parts.len(),
            // Asking an array for a part makes the error.
            Shape::Array(_) => 1,
        };
        (0i64..)
            .take(count)
            .map(|i| self.get_tuple_element(x, i))
            .collect()
    }

    /// A value that equals `x`; compilers do not move computation across it.
    ///
    /// # Errors
    /// [`Error::ForeignValue`] where the value is of another builder.
    pub fn optimization_barrier(&self, x: Value) -> Result<Value> {
        let shape = self.operand("opt-barrier", x)?;
        self.push(Op::Plain("opt-barrier"), shape, &[x])
    }

    /// Replaces a state, starting at `init`, by `body(state)` as long as `condition(state)` is
    /// true.
    ///
    /// # Errors
    /// [`Error::Computation`] where `condition` does not take the state and give one `pred`, or
    /// `body` does not take and give the state.
    pub fn while_loop(
        &self,
        init: Value,
        condition: &Computation,
        body: &Computation,
    ) -> Result<Value> {
        let shape = self.operand("while", init)?;
        let state = std::slice::from_ref(&shape);
        let operands = [shape.to_string()];
        let pred = Shape::scalar(ElementType::Pred);
        check_signature("while", &operands, condition, state, &pred)?;
        check_signature("while", &operands, body, state, &shape)?;
        self.push_calling(Op::While, shape.clone(), &[init], &[condition, body])
    }

    /// A [`Builder::while_loop`] whose computations are built here, in this builder's scope. Each
    /// closure is given a builder of its own and the state; values of this builder are foreign to
    /// it, so all that the loop needs travels in the state.
    ///
    /// # Errors
    /// As [`Builder::while_loop`], and what the closures return.
    pub fn while_with(
        &self,
        init: Value,
        condition: impl FnOnce(&Builder, Value) -> Result<Value>,
        body: impl FnOnce(&Builder, Value) -> Result<Value>,
    ) -> Result<Value> {
        let shape = self.operand("while", init)?;
        let condition = self.on_state("while_condition", &shape, condition)?;
        let body = self.on_state("while_body", &shape, body)?;
        self.while_loop(init, &condition, &body)
    }

    /// A computation of one parameter, the state of a loop.
    fn on_state(
        &self,
        name: &str,
        shape: &Shape,
        build: impl FnOnce(&Builder, Value) -> Result<Value>,
    ) -> Result<Computation> {
        let b = self.child(name);
        let state = b.parameter("state", shape)?;
        let root = build(&b, state)?;
        b.finish(root)
    }

    /// `on_true(true_operand)` where `pred` is true, else `on_false(false_operand)`; only one of
    /// them runs.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::ElementType`] where `pred` is no scalar `pred`,
    /// [`Error::Computation`] where a computation does not take its operand or the results differ.
    pub fn conditional(
        &self,
        pred: Value,
        true_operand: Value,
        on_true: &Computation,
        false_operand: Value,
        on_false: &Computation,
    ) -> Result<Value> {
        let p = self.array("conditional", pred)?;
        let context = Context {
            op: "conditional",
            operands: &[&p],
        };
        if p.element_type != ElementType::Pred {
            return Err(context.element_type("the first operand must be pred"));
        }
        if !p.is_scalar() {
            return Err(context.shape("the first operand must be a scalar"));
        }
        let result = on_true.result_shape().clone();
        for (operand, branch) in [(true_operand, on_true), (false_operand, on_false)] {
            let shape = self.operand("conditional", operand)?;
            check_signature(
                "conditional",
                &[p.to_string(), shape.to_string()],
                branch,
                std::slice::from_ref(&shape),
                &result,
            )?;
        }
        self.push_calling(
            Op::Conditional,
            result,
            &[pred, true_operand, false_operand],
            &[on_true, on_false],
        )
    }

    /// The result of a computation on arguments.
    ///
    /// # Errors
    /// [`Error::Computation`] where the arguments do not fit its parameters.
    pub fn call(&self, computation: &Computation, arguments: &[Value]) -> Result<Value> {
        let shapes: Result<Vec<Shape>> = arguments
            .iter()
            .map(|&argument| self.operand("call", argument))
            .collect();
        let shapes = shapes?;
        let operands: Vec<String> = shapes.iter().map(Shape::to_string).collect();
        let result = computation.result_shape().clone();
        check_signature("call", &operands, computation, &shapes, &result)?;
        self.push_calling(Op::Call, result, arguments, &[computation])
    }
}
