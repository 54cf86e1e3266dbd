//! The table of a model's parameters, which the modules declare where they compute with them.

use std::cell::RefCell;
use std::fmt::Display;

use hlo::{ArrayShape, ElementType};

use crate::dtype::DType;
use crate::naming::{Naming, StoredAs};
use crate::sharding::{Axis, AxisShare, Mesh, Split};

/// What a parameter is used for; it decides its dtype and layout on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// An embedding table [vocab, hidden], which is the head as well where the head is tied.
    Embedding,
    /// A table of which rows are looked up, and nothing else.
    Table,
    /// The kernel of a projection, [in, out] in the checkpoint; of experts, with an axis for them
    /// in the middle, or first.
    Kernel,
    /// The bias of a projection, \[out\].
    Bias,
    /// The weight of an RMSNorm, \[width\].
    Norm,
}

/// How the kernels of projections lie in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelLayout {
    /// [in, out], as Flax stores them.
    InOut,
    /// [out, in]: the contracted dimension is innermost.
    OutIn,
}

/// A parameter, as the module that computes with it declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Path in Flax's tree, joined with `/`.
    pub name: String,
    /// Its axes in the checkpoint's order, each with how it is split over a mesh.
    pub axes: Vec<Axis>,
    /// What it is used for.
    pub role: Role,
    /// Its dtype on the device.
    pub dtype: DType,
    /// Other names and layouts that checkpoints store it in.
    pub stored: Vec<StoredAs>,
}

impl Parameter {
    /// Shape in the checkpoint.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(Axis::size).collect()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(Axis::size).product()
    }

    /// Whether it is a table of token embeddings.
    pub fn is_embedding(&self) -> bool {
        self.role == Role::Embedding
    }

    /// Whether a step reads single rows of it alone: a table, and the embedding where the head is
    /// not `tied` to it.
    pub fn is_looked_up(&self, tied: bool) -> bool {
        match self.role {
            Role::Table => true,
            Role::Embedding => !tied,
            Role::Kernel | Role::Bias | Role::Norm => false,
        }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        let row: usize = self.axes.iter().skip(1).map(Axis::size).product();
        row * self.dtype.size()
    }

    /// Whether the device holds the transpose of what the checkpoint has.
    pub fn is_transposed(&self, layout: KernelLayout) -> bool {
        self.role == Role::Kernel && layout == KernelLayout::OutIn
    }

    /// The axis that is split over the mesh's model axis, and its dimension in the checkpoint's
    /// shape; none where every device holds the whole.
    pub fn split(&self) -> Option<(usize, &Axis)> {
        let mut axes = self.axes.iter().enumerate();
        axes.find(|(_, axis)| axis.split != Split::Whole)
    }

    /// The dimensions of a device's share, in the checkpoint's order.
    pub fn share(&self, mesh: Mesh) -> Vec<usize> {
        self.axes.iter().map(|a| a.size_on_device(mesh)).collect()
    }

    /// What the device at `index` on the model axis holds of the dimension that is split.
    pub fn slice(&self, mesh: Mesh, index: usize) -> Option<(usize, AxisShare)> {
        let (dim, axis) = self.split()?;
        Some((dim, axis.share(mesh, index)))
    }

    /// How many devices of a group hold the same part.
    pub fn copies(&self, mesh: Mesh) -> usize {
        self.split()
            .map_or(mesh.model, |(_, axis)| axis.copies(mesh))
    }

    /// Shape of a device's share, as the device holds it.
    pub fn device_shape(&self, mesh: Mesh, layout: KernelLayout) -> ArrayShape {
        let mut dims: Vec<i64> = self.share(mesh).iter().map(|&d| d as i64).collect();
        if self.is_transposed(layout) {
            dims.reverse();
        }
        ArrayShape::new(ElementType::from(self.dtype), &dims)
    }

    /// Bytes of a device's share.
    pub fn byte_size(&self, mesh: Mesh) -> usize {
        self.share(mesh).iter().product::<usize>() * self.dtype.size()
    }
}

/// Which parameter of the table a module computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParameterId(pub(super) usize);

/// The table while it is being declared.
pub(super) struct Declarations<'a> {
    table: RefCell<Vec<Parameter>>,
    compute: DType,
    /// The dtype that the checkpoint has a parameter in, by name.
    stored: &'a dyn Fn(&str) -> DType,
}

impl<'a> Declarations<'a> {
    pub fn new(compute: DType, stored: &'a dyn Fn(&str) -> DType) -> Self {
        Self {
            table: RefCell::default(),
            compute,
            stored,
        }
    }

    /// Where the names of the whole tree begin.
    pub fn root(&self) -> Scope<'_> {
        Scope {
            declarations: self,
            flax: String::new(),
            deepmind: String::new(),
        }
    }

    pub fn into_table(self) -> Vec<Parameter> {
        self.table.into_inner()
    }
}

/// A place in the trees of names: Flax's and DeepMind's. PyTorch's tree has Flax's names.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    declarations: &'a Declarations<'a>,
    flax: String,
    deepmind: String,
}

impl<'a> Scope<'a> {
    /// The place below this one that Flax calls `flax` and DeepMind `deepmind`; an empty name is
    /// this place itself.
    pub fn child(&self, flax: impl Display, deepmind: impl Display) -> Self {
        Self {
            declarations: self.declarations,
            flax: joined(&self.flax, &flax.to_string()),
            deepmind: joined(&self.deepmind, &deepmind.to_string()),
        }
    }

    /// Declares a parameter of the module at this place.
    ///
    /// Projections and the embedding are cast to the compute dtype before they are used, so they
    /// lie on the device in that dtype; an RMSNorm adds 1 to its weight in the weight's own dtype,
    /// so that keeps the stored one.
    pub fn parameter(&self, name: &str, axes: &[Axis], role: Role) -> Declared<'a> {
        let name = joined(&self.flax, name);
        let dtype = match role {
            Role::Norm => (self.declarations.stored)(&name),
            Role::Embedding | Role::Table | Role::Kernel | Role::Bias => self.declarations.compute,
        };
        let mut table = self.declarations.table.borrow_mut();
        let id = ParameterId(table.len());
        table.push(Parameter {
            name,
            axes: axes.to_vec(),
            role,
            dtype,
            stored: Vec::new(),
        });
        drop(table);
        Declared {
            scope: self.clone(),
            id,
        }
    }
}

/// A parameter that was declared just now.
pub(super) struct Declared<'a> {
    scope: Scope<'a>,
    /// Its place in the table.
    pub id: ParameterId,
}

impl Declared<'_> {
    /// PyTorch calls it `name` beside its siblings, and stores `axes`, which are Flax's `view`.
    pub fn pytorch(self, name: &str, axes: &'static str, view: &'static str) -> Self {
        let name = joined(&self.scope.flax, name);
        self.stored_as(Naming::PyTorch, name, Part::whole(axes, view))
    }

    /// PyTorch calls it `name` at the place of this scope, where it may be a part of an array.
    pub fn pytorch_part(self, name: &str, part: Part) -> Self {
        let name = joined(&self.scope.flax, name);
        self.stored_as(Naming::PyTorch, name, part)
    }

    /// DeepMind calls it `name`, at the place of this scope.
    pub fn deepmind(self, name: &str, part: Part) -> Self {
        let name = joined(&self.scope.deepmind, name);
        self.stored_as(Naming::DeepMind, name, part)
    }

    fn stored_as(self, naming: Naming, name: String, part: Part) -> Self {
        let mut table = self.scope.declarations.table.borrow_mut();
        table[self.id.0].stored.push(StoredAs {
            naming,
            name,
            axes: part.axes,
            view: part.view,
            part: part.part,
        });
        drop(table);
        self
    }
}

/// The part that a parameter is of a stored tensor, in the notation of [`StoredAs`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    axes: &'static str,
    view: &'static str,
    part: usize,
}

impl Part {
    /// The whole tensor.
    pub const fn whole(axes: &'static str, view: &'static str) -> Self {
        Self::of(axes, view, 0)
    }

    /// The part with this number along the numbered axis.
    pub const fn of(axes: &'static str, view: &'static str, part: usize) -> Self {
        Self { axes, view, part }
    }
}

fn joined(before: &str, name: &str) -> String {
    match (before, name) {
        ("", name) => name.to_owned(),
        (before, "") => before.to_owned(),
        (before, name) => format!("{before}/{name}"),
    }
}
