//! How the parameters lie over the devices of a mesh: what is split, what is held more than once.

use serde::Serialize;

use super::ModelSpec;

/// Every parameter, and the sums.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// The parameters, in the order in which programs take them.
    pub parameters: Vec<Distributed>,
    /// Bytes of the whole model, each element once.
    pub model_bytes: u64,
    /// Bytes that each device holds, padding included.
    pub bytes_per_device: u64,
    /// Bytes that all devices of one group hold, which share the model; the data axis has this as
    /// often as it is long.
    pub bytes_per_group: u64,
    /// By how much that is more than the model, as a part of the model.
    pub excess: f64,
    /// What is held more than once in a group, or padded.
    pub replicated: Vec<Replicated>,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distributed {
    /// Path in the Flax tree, joined with `/`.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// numpy's name of the dtype on the device.
    pub dtype: &'static str,
    /// The dimension of that shape which is split, and what it runs over; none where every device
    /// holds the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitDimension>,
    /// Dimensions of a device's share, in the checkpoint's order.
    pub share: Vec<usize>,
    /// Devices of a group that hold the same part.
    pub copies: usize,
    /// Bytes of the whole.
    pub bytes: u64,
    /// Bytes of a device's share.
    pub bytes_per_device: u64,
}

/// A dimension that is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SplitDimension {
    /// Which.
    pub dimension: usize,
    /// What it runs over.
    pub over: &'static str,
}

/// Parameters of one kind that cost more than their bytes, over all layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replicated {
    /// The name, with `*` for the layer.
    pub name: String,
    /// Devices of a group that hold the same part; 1 where the excess is padding.
    pub copies: usize,
    /// Bytes over a group beyond those of the model.
    pub excess_bytes: u64,
}

impl Distribution {
    /// How the parameters of `spec` lie over its mesh.
    pub fn of(spec: &ModelSpec) -> Self {
        let mesh = spec.mesh;
        let group = mesh.model as u64;
        let parameters: Vec<_> = spec
            .parameters
            .iter()
            .map(|parameter| {
                let split = parameter.split();
                let split = split.map(|(dimension, axis)| SplitDimension {
                    dimension,
                    over: axis.over,
                });
                Distributed {
                    name: parameter.name.clone(),
                    shape: parameter.shape(),
                    dtype: parameter.dtype.numpy_name(),
                    split,
                    share: parameter.share(mesh),
                    copies: parameter.copies(mesh),
                    bytes: (parameter.elements() * parameter.dtype.size()) as u64,
                    bytes_per_device: parameter.byte_size(mesh) as u64,
                }
            })
            .collect();
        let model_bytes = parameters.iter().map(|p| p.bytes).sum();
        let bytes_per_device: u64 = parameters.iter().map(|p| p.bytes_per_device).sum();
        let bytes_per_group = bytes_per_device * group;
        let mut replicated: Vec<Replicated> = Vec::new();
        for parameter in &parameters {
            let excess = (parameter.bytes_per_device * group).saturating_sub(parameter.bytes);
            if excess == 0 {
                continue;
            }
            let name = without_layer(&parameter.name);
            match replicated.iter_mut().find(|found| found.name == name) {
                Some(found) => found.excess_bytes += excess,
                None => replicated.push(Replicated {
                    name,
                    copies: parameter.copies,
                    excess_bytes: excess,
                }),
            }
        }
        replicated.sort_by_key(|found| std::cmp::Reverse(found.excess_bytes));
        Self {
            excess: bytes_per_group as f64 / model_bytes as f64 - 1.0,
            parameters,
            model_bytes,
            bytes_per_device,
            bytes_per_group,
            replicated,
        }
    }
}

/// `model/layers/3/mlp/…` as `model/layers/*/mlp/…`.
fn without_layer(name: &str) -> String {
    name.split('/')
        .map(|part| {
            if part.parse::<usize>().is_ok() {
                "*"
            } else {
                part
            }
        })
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GemmaConfig;
    use crate::dtype::DType;
    use crate::model::Xla;
    use crate::sharding::Mesh;

    fn distribution(name: &str, data: usize, model: usize) -> Distribution {
        let config = GemmaConfig::named(name).expect("a known name");
        let mesh = Mesh { data, model };
        let spec = ModelSpec::new(config, DType::BF16, Xla::TPU, mesh, |_| DType::BF16);
        Distribution::of(&spec.expect("it divides"))
    }

    #[test]
    fn one_device_holds_the_model_once() {
        let found = distribution("gemma-2b", 1, 1);
        assert_eq!(found.model_bytes, 2 * 2_506_172_416);
        assert_eq!(found.bytes_per_device, found.model_bytes);
        assert_eq!(found.replicated, []);
    }

    #[test]
    fn four_devices_hold_little_more_of_2b_and_what_is_more_is_named() {
        let found = distribution("gemma-2b", 1, 4);
        assert!(
            found.excess > 0.0 && found.excess < 0.05,
            "{}",
            found.excess
        );
        let names: Vec<_> = found.replicated.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(
            names[..2],
            [
                "model/layers/*/self_attn/k_proj/kernel",
                "model/layers/*/self_attn/v_proj/kernel"
            ]
        );
        assert_eq!(found.replicated[0].copies, 4);
        let named: u64 = found.replicated.iter().map(|r| r.excess_bytes).sum();
        assert_eq!(found.model_bytes + named, found.bytes_per_group);
    }

    #[test]
    fn the_data_axis_changes_no_share() {
        let (one, four) = (
            distribution("gemma-7b", 1, 8),
            distribution("gemma-7b", 4, 8),
        );
        assert_eq!(one, four);
    }
}
