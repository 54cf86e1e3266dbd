//! What the devices of a model axis tell each other. On one device each of these is nothing.

use hlo::{BinaryOp, Computation, ElementType, Value};

use super::lowering::Lowering;
use crate::sharding::Split;

impl Lowering<'_> {
    fn model_devices(&self) -> usize {
        self.spec.geometry.mesh.model
    }

    /// The sum of `x` over the devices of the model axis.
    pub fn sum_over_model(&self, x: Value) -> hlo::Result<Value> {
        if self.model_devices() == 1 {
            return Ok(x);
        }
        let add = Computation::binary(BinaryOp::Add, self.b.element_type(x)?)?;
        let groups = self.spec.geometry.mesh.model_groups();
        self.b.all_reduce(x, &add, &groups)
    }

    /// The devices' `x` one after another along `dim`, in the order of the model axis.
    pub fn gather_over_model(&self, x: Value, dim: i64) -> hlo::Result<Value> {
        if self.model_devices() == 1 {
            return Ok(x);
        }
        let groups = self.spec.geometry.mesh.model_groups();
        self.b.all_gather(x, dim, &groups)
    }

    /// The groups' rows one after another along dimension 0, in the order of the data axis: results that the host reads, so that any
    /// device has them all. A host of a slice of several reaches its own devices only.
    pub fn gather_over_data(&self, x: Value) -> hlo::Result<Value> {
        let mesh = self.spec.geometry.mesh;
        if mesh.data == 1 {
            return Ok(x);
        }
        self.b.all_gather(x, 0, &mesh.data_groups())
    }

    /// Whether `pred` (a scalar) holds on all devices of the data axis.
    pub fn all_over_data(&self, pred: Value) -> hlo::Result<Value> {
        let b = self.b;
        let mesh = self.spec.geometry.mesh;
        if mesh.data == 1 {
            return Ok(pred);
        }
        let min = Computation::binary(BinaryOp::Min, ElementType::S32)?;
        let flag = b.convert(pred, ElementType::S32)?;
        let all = b.all_reduce(flag, &min, &mesh.data_groups())?;
        b.convert(all, ElementType::Pred)
    }

    /// The first row of the vocabulary that this device holds, a scalar s32; none where it holds them all.
    pub fn vocabulary_offset(&self) -> hlo::Result<Option<Value>> {
        let b = self.b;
        let devices = self.model_devices();
        if devices == 1 {
            return Ok(None);
        }
        let replica = b.convert(b.replica_id()?, ElementType::S32)?;
        let index = b.rem(replica, b.scalar(ElementType::S32, devices as f64)?)?;
        let share = self.spec.geometry.share(Split::Vocabulary);
        let offset = b.mul(index, b.scalar(ElementType::S32, share as f64)?)?;
        Ok(Some(offset))
    }
}
