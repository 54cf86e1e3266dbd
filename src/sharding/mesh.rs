//! The arrangement of devices.

use std::fmt;
use std::str::FromStr;

/// A rectangle of devices: `data` groups that work on rows of their own, each of `model` devices
/// that share the parameters. Replica `d · model + m` is device `m` of group `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mesh {
    /// Groups that the rows of a batch are split over.
    pub data: usize,
    /// Devices that a group's parameters are split over.
    pub model: usize,
}

/// A text that is no mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no mesh: {problem} (write data=D,model=M)")]
pub struct MeshError {
    text: String,
    problem: String,
}

impl Mesh {
    /// One device.
    pub const SINGLE: Self = Self { data: 1, model: 1 };
    /// More devices than any slice has.
    const MOST_DEVICES: usize = 1 << 16;

    /// How many devices there are.
    pub fn devices(self) -> usize {
        self.data * self.model
    }

    /// The place on the model axis of a replica.
    pub fn model_index(self, replica: usize) -> usize {
        replica % self.model
    }

    /// The replicas that share parameters: one list a group.
    pub fn model_groups(self) -> Vec<Vec<i64>> {
        (0..self.data)
            .map(|d| {
                (0..self.model)
                    .map(|m| (d * self.model + m) as i64)
                    .collect()
            })
            .collect()
    }

    /// The replicas that hold the same parameters: one list a place on the model axis.
    pub fn data_groups(self) -> Vec<Vec<i64>> {
        (0..self.model)
            .map(|m| {
                (0..self.data)
                    .map(|d| (d * self.model + m) as i64)
                    .collect()
            })
            .collect()
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::SINGLE
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data={},model={}", self.data, self.model)
    }
}

impl FromStr for Mesh {
    type Err = MeshError;

    /// Reads `data=D,model=M`, in any order; an axis that is left out is 1.
    fn from_str(text: &str) -> Result<Self, MeshError> {
        let failed = |problem: String| MeshError {
            text: text.to_owned(),
            problem,
        };
        let (mut data, mut model) = (None, None);
        for part in text.split(',') {
            let (axis, size) = part
                .split_once('=')
                .ok_or_else(|| failed(format!("'{part}' has no '='")))?;
            let place = match axis.trim() {
                "data" => &mut data,
                "model" => &mut model,
                other => return Err(failed(format!("there is no axis '{other}'"))),
            };
            let size = size.trim();
            let parsed: usize = size
                .parse()
                .ok()
                .filter(|size| (1..=Self::MOST_DEVICES).contains(size))
                .ok_or_else(|| failed(format!("'{size}' is no size")))?;
            if place.replace(parsed).is_some() {
                return Err(failed(format!("{axis} is given twice")));
            }
        }
        let mesh = Self {
            data: data.unwrap_or(1),
            model: model.unwrap_or(1),
        };
        if mesh.devices() > Self::MOST_DEVICES {
            return Err(failed(format!("{} devices are too many", mesh.devices())));
        }
        Ok(mesh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_is_read_and_written_in_one_form() {
        let mesh: Mesh = "model=4,data=2".parse().expect("a mesh");
        assert_eq!(mesh, Mesh { data: 2, model: 4 });
        assert_eq!(mesh.to_string(), "data=2,model=4");
        assert_eq!("model=8".parse(), Ok(Mesh { data: 1, model: 8 }));
    }

    #[test]
    fn what_is_no_mesh_is_named() {
        for (text, part) in [
            ("4", "no '='"),
            ("model=0", "'0'"),
            ("model=-1", "'-1'"),
            ("rows=2", "'rows'"),
            ("model=2,model=2", "twice"),
            ("data=65536,model=65536", "too many"),
        ] {
            let error = text.parse::<Mesh>().expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn groups_cover_each_replica_once() {
        let mesh = Mesh { data: 2, model: 3 };
        assert_eq!(mesh.model_groups(), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(mesh.data_groups(), [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(mesh.model_index(5), 2);
    }
}
