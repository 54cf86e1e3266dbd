//! The options of compilations, executions and transfers.

use pjrt_sys::protos::xla;
use prost::Message;

use super::error::{Error, Result};

/// How to compile a program.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileOptions {
    /// Copies of the program that run at the same time, each on a device and data of its own.
    pub replicas: usize,
    /// Parts that the compiler splits each replica into. 1 unless a partitioner is wanted.
    pub partitions: usize,
    /// Device ids, `partitions` of them for the first replica, then the second's, and so on. The
    /// client's default where none is given.
    pub device_assignment: Option<Vec<i64>>,
    /// The shape, with its layout, of every parameter; the layouts in the module itself are
    /// ignored. An array in row-major order has the device's default layout, which on a CPU is
    /// that; so have all where none are given.
    pub argument_layouts: Option<Vec<hlo::Shape>>,
    /// The shape, with its layout, of the result. As for the parameters.
    pub result_layout: Option<hlo::Shape>,
    /// Overrides of XLA's debug options (what XLA_FLAGS sets), by name, without the leading dashes.
    pub overrides: Vec<(String, OptionValue)>,
}

impl Default for CompileOptions {
    /// One replica, one partition, the client's default device, nothing overridden.
    fn default() -> Self {
        CompileOptions {
            replicas: 1,
            partitions: 1,
            device_assignment: None,
            argument_layouts: None,
            result_layout: None,
            overrides: Vec::new(),
        }
    }
}

/// The shape with those of its layouts that are not row-major: XLA puts the device's default where
/// there is none.
fn layout_proto(shape: &hlo::Shape) -> xla::ShapeProto {
    fn clear(proto: &mut xla::ShapeProto) {
        let row_major = |order: &[i64]| order.iter().rev().copied().eq(0..order.len() as i64);
        if matches!(&proto.layout, Some(layout) if row_major(&layout.minor_to_major)) {
            proto.layout = None;
        }
        proto.tuple_shapes.iter_mut().for_each(clear);
    }
    let mut proto = shape.to_proto();
    clear(&mut proto);
    proto
}

/// The value of one of XLA's debug options.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The variants are the types that they hold.
pub enum OptionValue {
    String(String),
    Bool(bool),
    Int(i64),
    Double(f64),
}

impl CompileOptions {
    /// Options for `replicas` copies of a program, one per device.
    pub fn with_replicas(replicas: usize) -> CompileOptions {
        CompileOptions {
            replicas,
            ..CompileOptions::default()
        }
    }

    /// These options with the layouts of the module's parameters and result, where they have none
    /// of their own.
    pub fn with_layouts_of(&self, module: &hlo::Module) -> CompileOptions {
        let mut options = self.clone();
        options
            .argument_layouts
            .get_or_insert_with(|| module.parameters().to_vec());
        options
            .result_layout
            .get_or_insert_with(|| module.result_shape().clone());
        options
    }

    /// The serialized `xla.CompileOptionsProto`. Equal options give equal bytes, so that these can
    /// be part of a key.
    ///
    /// # Errors
    /// [`Error::DeviceAssignment`] where the assignment does not have one device per replica and
    /// partition, and [`Error::OutOfRange`] for counts that the protobuf cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let device_assignment = self
            .device_assignment
            .as_deref()
            .map(|devices| self.assignment_proto(devices))
            .transpose()?;
        let mut bytes = xla::CompileOptionsProto {
            argument_layouts: self
                .argument_layouts
                .iter()
                .flatten()
                .map(layout_proto)
                .collect(),
            executable_build_options: Some(xla::ExecutableBuildOptionsProto {
                result_layout: self.result_layout.as_ref().map(layout_proto),
                // -1 is "not set"; 0 would pin the program to the first device.
                device_ordinal: -1,
                num_replicas: count("replica count", self.replicas)?.into(),
                num_partitions: count("partition count", self.partitions)?.into(),
                use_spmd_partitioning: self.partitions > 1,
                device_assignment,
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec();
        // The overrides are a map, whose order in the generated code changes from run to run.
        // Messages may be concatenated, so one message per override, in the order given, means the
        // same in a fixed order.
        for (name, value) in &self.overrides {
            let value = match value.clone() {
                OptionValue::String(value) => xla::option_override_proto::Value::StringField(value),
                OptionValue::Bool(value) => xla::option_override_proto::Value::BoolField(value),
                OptionValue::Int(value) => xla::option_override_proto::Value::IntField(value),
                OptionValue::Double(value) => xla::option_override_proto::Value::DoubleField(value),
            };
            let proto = xla::CompileOptionsProto {
                env_option_overrides: [(
                    name.clone(),
                    xla::OptionOverrideProto { value: Some(value) },
                )]
                .into(),
                ..Default::default()
            };
            bytes.extend(proto.encode_to_vec());
        }
        Ok(bytes)
    }

    fn assignment_proto(&self, devices: &[i64]) -> Result<xla::DeviceAssignmentProto> {
        let expected = self.replicas.checked_mul(self.partitions);
        if expected != Some(devices.len()) || devices.is_empty() {
            return Err(Error::DeviceAssignment {
                given: devices.len(),
                replicas: self.replicas,
                partitions: self.partitions,
            });
        }
        // The protobuf lists partitions, and for each of them the device of every replica.
        let computation_devices = (0..self.partitions)
            .map(
                |partition| xla::device_assignment_proto::ComputationDevice {
                    replica_device_ids: devices
                        .iter()
                        .skip(partition)
                        .step_by(self.partitions)
                        .copied()
                        .collect(),
                },
            )
            .collect();
        Ok(xla::DeviceAssignmentProto {
            replica_count: count("replica count", self.replicas)?,
            computation_count: count("partition count", self.partitions)?,
            computation_devices,
        })
    }
}

/// How host bytes are laid out, and how the device is to lay them out. By default both are dense,
/// the last dimension fastest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferOptions {
    /// The device's dimensions from the fastest to the slowest.
    pub device_minor_to_major: Option<Vec<i64>>,
    /// For each dimension, the bytes from one element to the next on the host. With these a part of
    /// a larger array is sent without a copy of it being made first. Not negative.
    pub host_byte_strides: Option<Vec<i64>>,
}

/// How to run an executable once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecuteOptions {
    /// Where not zero: names this launch, so that a runtime of many hosts can detect launches out
    /// of order.
    pub launch_id: i32,
    /// Parameters whose buffers must be kept although the program may alias them to an output.
    pub non_donatable: Vec<usize>,
}

/// A count as the C int or int32 that carries it.
pub(super) fn count(what: &'static str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::OutOfRange {
        what,
        value: value as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_assignment_is_given_replica_by_replica_and_encoded_partition_by_partition() {
        let options = CompileOptions {
            replicas: 3,
            partitions: 2,
            device_assignment: Some(vec![10, 11, 20, 21, 30, 31]),
            ..CompileOptions::default()
        };
        let proto =
            xla::CompileOptionsProto::decode(options.to_bytes().unwrap().as_slice()).unwrap();
        let assignment = proto
            .executable_build_options
            .and_then(|options| options.device_assignment)
            .unwrap();
        let columns: Vec<_> = assignment
            .computation_devices
            .iter()
            .map(|column| column.replica_device_ids.as_slice())
            .collect();
        assert_eq!(columns, [[10, 20, 30], [11, 21, 31]]);
    }

    #[test]
    fn a_device_assignment_of_the_wrong_length_is_refused() {
        for devices in [vec![], vec![0], vec![0, 1, 2]] {
            let options = CompileOptions {
                replicas: 2,
                device_assignment: Some(devices),
                ..CompileOptions::default()
            };
            assert!(matches!(
                options.to_bytes(),
                Err(Error::DeviceAssignment { .. })
            ));
        }
    }

    #[test]
    fn equal_options_encode_to_equal_bytes_and_keep_every_override() {
        let options = CompileOptions {
            overrides: (0..20)
                .map(|i| (format!("xla_option_{i}"), OptionValue::Int(i)))
                .collect(),
            ..CompileOptions::default()
        };
        let bytes = options.to_bytes().unwrap();
        assert_eq!(options.to_bytes().unwrap(), bytes);
        let proto = xla::CompileOptionsProto::decode(bytes.as_slice()).unwrap();
        assert_eq!(proto.env_option_overrides.len(), 20);
        assert_eq!(
            proto
                .executable_build_options
                .map(|options| options.num_replicas),
            Some(1)
        );
    }
}
