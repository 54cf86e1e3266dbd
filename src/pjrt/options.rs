//! Named values, and the options of clients, compilations and executions.

use std::ffi::c_char;

use pjrt_sys::protos::xla;
use pjrt_sys::*;
use prost::Message;

use super::abi::{slice, text};
use super::error::{Error, Result};

/// A value with a name: an option of a client, an attribute of a device, a figure of a cost analysis.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // The variants are the types that they hold.
pub enum NamedValue {
    String(String),
    Int64(i64),
    Int64List(Vec<i64>),
    Float(f32),
    Bool(bool),
}

impl std::fmt::Display for NamedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NamedValue::String(value) => write!(f, "{value}"),
            NamedValue::Int64(value) => write!(f, "{value}"),
            NamedValue::Int64List(values) => write!(f, "{values:?}"),
            NamedValue::Float(value) => write!(f, "{value}"),
            NamedValue::Bool(value) => write!(f, "{value}"),
        }
    }
}

impl From<&str> for NamedValue {
    fn from(value: &str) -> Self {
        NamedValue::String(value.to_owned())
    }
}

impl From<String> for NamedValue {
    fn from(value: String) -> Self {
        NamedValue::String(value)
    }
}

impl From<i64> for NamedValue {
    fn from(value: i64) -> Self {
        NamedValue::Int64(value)
    }
}

impl From<bool> for NamedValue {
    fn from(value: bool) -> Self {
        NamedValue::Bool(value)
    }
}

/// The C form of `values`. It points into them, so they must outlive it.
///
/// Plugins step through this array by their own idea of an element's size, so elements are not padded; the structure has
/// not changed since API 0.30.
pub(super) fn to_raw(values: &[(String, NamedValue)]) -> Vec<PJRT_NamedValue> {
    values
        .iter()
        .map(|(name, value)| {
            let (type_, union, value_size) = match value {
                NamedValue::String(value) => (
                    PJRT_NamedValue_Type_PJRT_NamedValue_kString,
                    PJRT_NamedValue__bindgen_ty_1 {
                        string_value: value.as_ptr().cast::<c_char>(),
                    },
                    value.len(),
                ),
                NamedValue::Int64(value) => (
                    PJRT_NamedValue_Type_PJRT_NamedValue_kInt64,
                    PJRT_NamedValue__bindgen_ty_1 {
                        int64_value: *value,
                    },
                    1,
                ),
                NamedValue::Int64List(values) => (
                    PJRT_NamedValue_Type_PJRT_NamedValue_kInt64List,
                    PJRT_NamedValue__bindgen_ty_1 {
                        int64_array_value: values.as_ptr(),
                    },
                    values.len(),
                ),
                NamedValue::Float(value) => (
                    PJRT_NamedValue_Type_PJRT_NamedValue_kFloat,
                    PJRT_NamedValue__bindgen_ty_1 {
                        float_value: *value,
                    },
                    1,
                ),
                NamedValue::Bool(value) => (
                    PJRT_NamedValue_Type_PJRT_NamedValue_kBool,
                    PJRT_NamedValue__bindgen_ty_1 { bool_value: *value },
                    1,
                ),
            };
            PJRT_NamedValue {
                struct_size: size_of::<PJRT_NamedValue>(),
                extension_start: std::ptr::null_mut(),
                name: name.as_ptr().cast::<c_char>(),
                name_size: name.len(),
                type_,
                __bindgen_anon_1: union,
                value_size,
            }
        })
        .collect()
}

/// Copies a plugin's array of named values. A value of a type that is not known here is left out.
///
/// # Safety
/// `values` is null or points to `len` values that live through the call.
#[allow(non_upper_case_globals)] // The names of the C enumeration.
pub(super) unsafe fn from_raw(
    values: *const PJRT_NamedValue,
    len: usize,
) -> Vec<(String, NamedValue)> {
    if values.is_null() || len == 0 {
        return Vec::new();
    }
    // A plugin with a longer structure steps by its own size, which it states. Anything else there is no size.
    // SAFETY: there is at least one value, and each begins with its size.
    let stated = unsafe { (&raw const (*values).struct_size).read() };
    let own = size_of::<PJRT_NamedValue>();
    let stride = if (own..=own + 256).contains(&stated) && stated.is_multiple_of(8) {
        stated
    } else {
        own
    };
    (0..len)
        .filter_map(|index| {
            // SAFETY: index is below len, and the elements are stride bytes apart.
            let value = unsafe { values.byte_add(index * stride).read() };
            let union = value.__bindgen_anon_1;
            // SAFETY: the type says which member of the union was written; strings and lists are value_size long.
            let parsed = unsafe {
                match value.type_ {
                    PJRT_NamedValue_Type_PJRT_NamedValue_kString => {
                        NamedValue::String(text(union.string_value, value.value_size))
                    }
                    PJRT_NamedValue_Type_PJRT_NamedValue_kInt64 => {
                        NamedValue::Int64(union.int64_value)
                    }
                    PJRT_NamedValue_Type_PJRT_NamedValue_kInt64List => NamedValue::Int64List(
                        slice(union.int64_array_value, value.value_size).to_vec(),
                    ),
                    PJRT_NamedValue_Type_PJRT_NamedValue_kFloat => {
                        NamedValue::Float(union.float_value)
                    }
                    PJRT_NamedValue_Type_PJRT_NamedValue_kBool => {
                        NamedValue::Bool(union.bool_value)
                    }
                    _ => return None,
                }
            };
            // SAFETY: the name is name_size bytes long.
            Some((unsafe { text(value.name, value.name_size) }, parsed))
        })
        .collect()
}

/// How to compile a program.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileOptions {
    /// Copies of the program that run at the same time, each on a device and data of its own.
    pub replicas: usize,
    /// Parts that the compiler splits each replica into. 1 unless a partitioner is wanted.
    pub partitions: usize,
    /// Device ids, `partitions` of them for the first replica, then the second's, and so on. The client's default where
    /// none is given.
    pub device_assignment: Option<Vec<i64>>,
    /// The shape, with its layout, of every parameter; what the module itself says of layouts is not followed. The
    /// device's default where none are given: on a CPU row-major.
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
    /// Options for `replicas` copies of a program, one a device.
    pub fn with_replicas(replicas: usize) -> CompileOptions {
        CompileOptions {
            replicas,
            ..CompileOptions::default()
        }
    }

    /// These options with the layouts of the module's parameters and result, where they have none of their own.
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

    /// The serialized `xla.CompileOptionsProto`. Equal options give equal bytes, so that these can be part of a key.
    ///
    /// # Errors
    /// [`Error::DeviceAssignment`] where the assignment is not one device a replica and partition, and
    /// [`Error::OutOfRange`] for counts that the protobuf cannot hold.
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
                .map(hlo::Shape::to_proto)
                .collect(),
            executable_build_options: Some(xla::ExecutableBuildOptionsProto {
                result_layout: self.result_layout.as_ref().map(hlo::Shape::to_proto),
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
        // The overrides are a map, whose order in the generated code changes from run to run. Messages may be
        // concatenated, so one message an override, in the order given, says the same in a fixed order.
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

/// How to run an executable once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecuteOptions {
    /// Where not zero: names this launch, so that a runtime of many hosts can detect launches out of order.
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

    #[test]
    fn named_values_survive_the_way_through_their_c_form() {
        let values = vec![
            ("name".to_owned(), NamedValue::from("value")),
            ("count".to_owned(), NamedValue::Int64(-7)),
            ("list".to_owned(), NamedValue::Int64List(vec![1, 2, 3])),
            ("none".to_owned(), NamedValue::Int64List(vec![])),
            ("ratio".to_owned(), NamedValue::Float(0.25)),
            ("flag".to_owned(), NamedValue::Bool(true)),
        ];
        let raw = to_raw(&values);
        // SAFETY: raw points into values, and both live to the end of the test.
        let back = unsafe { from_raw(raw.as_ptr(), raw.len()) };
        assert_eq!(back, values);
    }
}
