//! Values with names, as plugins take and give them.

use std::ffi::c_char;

use pjrt_sys::*;

use super::abi::{slice, text};

/// A value with a name: an option of a client, an attribute of a device, a figure of a cost
/// analysis.
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
/// Plugins step through this array by their own idea of an element's size, so elements are not
/// padded; the structure has not changed since API 0.30.
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
    // A plugin with a longer structure steps by its own size, which it states. Anything else there
    // is no size. SAFETY: there is at least one value, and each begins with its size.
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
            // SAFETY: the type says which member of the union was written; strings and lists are
            // value_size long.
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

#[cfg(test)]
mod tests {
    use super::*;

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
