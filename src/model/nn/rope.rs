//! Rotary position embedding (Su et al., 2021), halves rotated as in GPT-NeoX.

use hlo::{ElementType, Tensor};

use super::super::pass::Pass;
use super::super::ports::ports;
use super::super::spec::RopeSpec;

/// Sines and cosines of the rotation angles, each [positions, pairs], float32, row-major.
///
/// Flax makes them in numpy: `position / theta^(2i / head_dim)` in float64, rounded to float32,
/// then sine and cosine in float32. Where positions are scaled, they are divided first. They are
/// made on the host here too, since a device's float32 product of position and frequency would
/// round differently.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTables {
    /// The tables.
    pub tables: Rotary<Vec<f32>>,
    /// Positions covered, from 0.
    pub positions: usize,
    /// The pairs of a head that turn.
    pub pairs: usize,
}

ports! {
    /// The two tables of a rotary embedding.
    #[derive(Copy, PartialEq)]
    pub struct Rotary {
        /// sin(angle).
        sin,
        /// cos(angle).
        cos,
    }
}

/// The rows of the tables at each token's position, both [batch, length, pairs] float32.
pub type Rotation<'b> = Rotary<Tensor<'b>>;

impl RopeTables {
    /// Tables for the positions `0..positions`.
    pub fn new(spec: &RopeSpec, positions: usize) -> Self {
        let pairs = spec.pairs;
        let frequencies: Vec<f64> = (0..pairs)
            .map(|i| {
                let exponent = (2 * i) as f64 / spec.head_dim as f64;
                1.0 / spec.base.powf(exponent)
            })
            .collect();
        let mut sin = Vec::with_capacity(positions * pairs);
        let mut cos = Vec::with_capacity(positions * pairs);
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = (position as f64 / spec.factor * frequency) as f32;
                sin.push(angle.sin());
                cos.push(angle.cos());
            }
        }
        Self {
            tables: Rotary { sin, cos },
            positions,
            pairs,
        }
    }
}

impl<'b> Rotation<'b> {
    /// Looks `positions` [batch, length] (s32) up in the tables.
    pub fn at(tables: Rotary<Tensor<'b>>, positions: Tensor<'b>) -> Self {
        tables.map(|_, table| table.rows(positions))
    }

    /// Rotates `x` [batch, length, heads, head_dim]: `x · cos + concat(−x₂, x₁) · sin` in float32,
    /// then cast to the compute dtype. Where fewer pairs turn than there are, the first of each
    /// half do.
    pub fn rotate(self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        let [batch, length, heads, head_dim] = x.sizes();
        let (half, pairs) = (head_dim / 2, self.sin.size(2));
        let x = x.convert(ElementType::F32);
        let first = x.slice(3, 0, pairs);
        let second = x.slice(3, half, half + pairs);
        let Rotary { sin, cos } =
            self.map(|_, table| table.broadcast(&[batch, length, heads, pairs], &[0, 1, 3]));
        let rotated_first = first * cos - second * sin;
        let rotated_second = second * cos + first * sin;
        let whole = match half - pairs {
            0 => rotated_first.concat(&[rotated_second], 3),
            _ => {
                let still = x.slice(3, pairs, half);
                let rest = [still, rotated_second, x.slice(3, half + pairs, head_dim)];
                rotated_first.concat(&rest, 3)
            }
        };
        whole.convert(pass.compute())
    }
}
