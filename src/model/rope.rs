//! Rotary position embedding (Su et al., 2021), halves rotated as in GPT-NeoX.

use hlo::{ElementType, Value};

use super::lowering::Lowering;
use crate::config::GemmaConfig;

/// Sines and cosines of the rotation angles, each [positions, head_dim / 2], float32, row-major.
///
/// Flax makes them in numpy: `position / theta^(2i / head_dim)` in float64, rounded to float32, then
/// sine and cosine in float32. They are made on the host here too, since a device's float32
/// product of position and frequency would round differently.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTables {
    /// sin(angle).
    pub sin: Vec<f32>,
    /// cos(angle).
    pub cos: Vec<f32>,
    /// Positions covered, from 0.
    pub positions: usize,
    /// head_dim / 2.
    pub half: usize,
}

impl RopeTables {
    /// Tables for the positions `0..positions`.
    pub fn new(config: &GemmaConfig, positions: usize) -> Self {
        let half = config.head_dim / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|i| {
                let exponent = (2 * i) as f64 / config.head_dim as f64;
                1.0 / config.rope_theta.powf(exponent)
            })
            .collect();
        let mut sin = Vec::with_capacity(positions * half);
        let mut cos = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = (position as f64 * frequency) as f32;
                sin.push(angle.sin());
                cos.push(angle.cos());
            }
        }
        Self {
            sin,
            cos,
            positions,
            half,
        }
    }
}

/// The rows of the tables at each token's position, both [batch, length, head_dim / 2] float32.
#[derive(Clone, Copy)]
pub(super) struct Rotation {
    sin: Value,
    cos: Value,
}

impl Lowering<'_> {
    /// Looks `positions` [batch, length] (s32) up in the tables.
    pub fn rotation(&self, sin: Value, cos: Value, positions: Value) -> hlo::Result<Rotation> {
        Ok(Rotation {
            sin: self.b.take_rows(sin, positions)?,
            cos: self.b.take_rows(cos, positions)?,
        })
    }

    /// The rotation of the `kept` last tokens of each row.
    pub fn last_positions(&self, rotation: Rotation, kept: usize) -> hlo::Result<Rotation> {
        let length = self.b.dims(rotation.sin)?[1];
        let last = |x: Value| self.b.slice_dim(x, 1, length - kept as i64, length);
        Ok(Rotation {
            sin: last(rotation.sin)?,
            cos: last(rotation.cos)?,
        })
    }

    /// Rotates `x` [batch, length, heads, head_dim]: `x · cos + concat(−x₂, x₁) · sin` in float32,
    /// then cast to the compute dtype.
    pub fn rotate(&self, x: Value, rotation: Rotation) -> hlo::Result<Value> {
        let b = self.b;
        let dims = b.dims(x)?;
        let half = dims[3] / 2;
        let half_dims = [dims[0], dims[1], dims[2], half];
        let x = self.convert(x, ElementType::F32)?;
        let first = b.slice_dim(x, 3, 0, half)?;
        let second = b.slice_dim(x, 3, half, dims[3])?;
        let sin = b.broadcast(rotation.sin, &half_dims, &[0, 1, 3])?;
        let cos = b.broadcast(rotation.cos, &half_dims, &[0, 1, 3])?;
        let rotated_first = b.sub(b.mul(first, cos)?, b.mul(second, sin)?)?;
        let rotated_second = b.add(b.mul(second, cos)?, b.mul(first, sin)?)?;
        let rotated = b.concatenate(&[rotated_first, rotated_second], 3)?;
        self.convert(rotated, self.compute())
    }
}
