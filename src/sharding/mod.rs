//! How a model lies over several devices: a mesh of replicas in the manner of `pmap`, and the share
//! of each parameter that each of them holds.
//!
//! Rows of a batch are split over the mesh's `data` axis. Over its `model` axis are split query
//! heads, the columns and rows of the MLP, and the rows of the vocabulary (Megatron-LM, Shoeybi et
//! al. 2019); key and value heads while they divide, else each is held by the devices whose query
//! heads use it. A parameter's axes say how each of them is split, where the parameter is declared.

mod axis;
mod mesh;

pub use axis::{Axis, AxisShare, Split, SplitError, check_split};
pub use mesh::{Mesh, MeshError};
