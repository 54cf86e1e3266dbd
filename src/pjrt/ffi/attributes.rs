//! The attributes of a custom call.

use std::ptr::NonNull;

use hlo::ElementType;

use super::frame::{AttributeList, ByteSpan, MOST, ScalarValue};
use crate::pjrt::abi::slice;

/// `XLA_FFI_AttrType_SCALAR`.
const SCALAR: i32 = 3;

/// What a program passes to a [`CustomCall`](super::CustomCall) besides operands: named constants,
/// from the call's `backend_config`, a dictionary in MLIR's text form such as
/// `{window = 512 : i64, softcap = 50.0 : f32}`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes<'a> {
    entries: Vec<(&'a str, Attribute)>,
}

/// The value of an attribute, where it has a type that calls can ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Attribute {
    I64(i64),
    F32(f32),
    Other,
}

impl<'a> Attributes<'a> {
    /// The value of an attribute of type `i64`; none where the program does not pass it.
    ///
    /// # Errors
    /// Where it has another type.
    pub fn i64(&self, name: &str) -> Result<Option<i64>, String> {
        match self.find(name) {
            None => Ok(None),
            Some(Attribute::I64(value)) => Ok(Some(value)),
            Some(_) => Err(format!("attribute {name} is not an i64")),
        }
    }

    /// The value of an attribute of type `f32`; none where the program does not pass it.
    ///
    /// # Errors
    /// Where it has another type.
    pub fn f32(&self, name: &str) -> Result<Option<f32>, String> {
        match self.find(name) {
            None => Ok(None),
            Some(Attribute::F32(value)) => Ok(Some(value)),
            Some(_) => Err(format!("attribute {name} is not an f32")),
        }
    }

    /// Checks that there are no attributes but these: a misspelled one would silently leave the
    /// call with a default.
    ///
    /// # Errors
    /// Names the first that is not among them.
    pub fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.entries.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some((name, _)) => Err(format!("attribute {name} is not known")),
        }
    }

    fn find(&self, name: &str) -> Option<Attribute> {
        let mut entries = self.entries.iter();
        entries
            .find(|(found, _)| *found == name)
            .map(|&(_, value)| value)
    }

    /// Reads the attributes of a call.
    ///
    /// # Safety
    /// `list` is part of a call frame of XLA, whose pointers are valid for `'a`.
    pub(super) unsafe fn read(list: &AttributeList) -> Result<Attributes<'a>, String> {
        if list.struct_size < size_of::<AttributeList>() || !(0..=MOST).contains(&list.size) {
            return Err(format!("a list of {} attributes", list.size));
        }
        let count = list.size as usize;
        if count == 0 {
            return Ok(Attributes::default());
        }
        if list.types.is_null() || list.names.is_null() || list.values.is_null() {
            return Err("the list of attributes is missing".to_owned());
        }
        // SAFETY: XLA provides as many types, names and values as the size states.
        let (types, names, values) = unsafe {
            (
                slice(list.types, count),
                slice(list.names, count),
                slice(list.values, count),
            )
        };
        let mut entries = Vec::with_capacity(count);
        for ((&kind, &name), &value) in types.iter().zip(names).zip(values) {
            // SAFETY: a name is a span of bytes, and a value of type SCALAR is an XLA_FFI_Scalar;
            // both live through the call.
            unsafe {
                let name = self::name(name)?;
                let value = match kind {
                    SCALAR => scalar(value.cast())
                        .ok_or_else(|| format!("attribute {name} has no value"))?,
                    _ => Attribute::Other,
                };
                entries.push((name, value));
            }
        }
        Ok(Attributes { entries })
    }
}

/// # Safety
/// `span` is null or points to a span whose bytes are valid for `'a`.
unsafe fn name<'a>(span: *const ByteSpan) -> Result<&'a str, String> {
    let Some(span) = NonNull::new(span.cast_mut()) else {
        return Err("an attribute has no name".to_owned());
    };
    // SAFETY: the caller gives a span.
    let (start, len) = unsafe { ((*span.as_ptr()).start, (*span.as_ptr()).len) };
    if start.is_null() || len > MOST as usize {
        return Err(format!("the name of an attribute has {len} bytes"));
    }
    // SAFETY: the span has that many bytes.
    std::str::from_utf8(unsafe { slice(start, len) })
        .map_err(|_| "the name of an attribute is not UTF-8".to_owned())
}

/// # Safety
/// `scalar` is null or points to a scalar whose value is null or of the type that it names.
unsafe fn scalar(scalar: *const ScalarValue) -> Option<Attribute> {
    let scalar = NonNull::new(scalar.cast_mut())?;
    // SAFETY: the caller gives a scalar; its value is read without relying on alignment.
    unsafe {
        let (dtype, value) = ((*scalar.as_ptr()).dtype, (*scalar.as_ptr()).value);
        let value = NonNull::new(value.cast_mut())?.as_ptr();
        Some(if dtype == ElementType::S64.to_proto() as i32 {
            Attribute::I64(value.cast::<i64>().read_unaligned())
        } else if dtype == ElementType::F32.to_proto() as i32 {
            Attribute::F32(value.cast::<f32>().read_unaligned())
        } else {
            Attribute::Other
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_by_name_and_type() {
        let attributes = Attributes {
            entries: vec![
                ("cap", Attribute::F32(50.0)),
                ("names", Attribute::Other),
                ("window", Attribute::I64(512)),
            ],
        };
        assert_eq!(attributes.i64("window"), Ok(Some(512)));
        assert_eq!(attributes.f32("cap"), Ok(Some(50.0)));
        assert_eq!(attributes.i64("scale"), Ok(None));
        assert_eq!(attributes.f32("scale"), Ok(None));
        for name in ["cap", "names"] {
            let error = attributes.i64(name).expect_err("another type");
            assert_eq!(error, format!("attribute {name} is not an i64"));
        }
        for name in ["window", "names"] {
            let error = attributes.f32(name).expect_err("another type");
            assert_eq!(error, format!("attribute {name} is not an f32"));
        }
        assert_eq!(attributes.only(&["window", "cap", "names"]), Ok(()));
        let error = attributes.only(&["window", "names"]);
        assert_eq!(error, Err("attribute cap is not known".to_owned()));
    }

    /// The frame's list of some attributes, each with its type.
    fn read(
        attributes: &[(i32, Option<&'static str>, Option<&ScalarValue>)],
    ) -> Result<Attributes<'static>, String> {
        let types: Vec<i32> = attributes.iter().map(|attribute| attribute.0).collect();
        let spans: Vec<Option<ByteSpan>> = attributes
            .iter()
            .map(|attribute| {
                attribute.1.map(|name| ByteSpan {
                    start: name.as_ptr(),
                    len: name.len(),
                })
            })
            .collect();
        let names: Vec<*const ByteSpan> = spans
            .iter()
            .map(|span| span.as_ref().map_or(std::ptr::null(), std::ptr::from_ref))
            .collect();
        let values: Vec<*const std::ffi::c_void> = attributes
            .iter()
            .map(|attribute| {
                attribute
                    .2
                    .map_or(std::ptr::null(), |value| std::ptr::from_ref(value).cast())
            })
            .collect();
        let list = AttributeList {
            struct_size: size_of::<AttributeList>(),
            extension_start: std::ptr::null_mut(),
            size: attributes.len() as i64,
            types: types.as_ptr(),
            names: names.as_ptr(),
            values: values.as_ptr(),
        };
        // SAFETY: the pointers lead to what lives here, and the names are static.
        unsafe { Attributes::read(&list) }
    }

    #[test]
    fn scalars_are_read_as_the_frame_has_them() {
        let number = 1_i64 << 40;
        let cap = 30.5_f32;
        let scalar = |element_type: ElementType, value| ScalarValue {
            dtype: element_type.to_proto() as i32,
            value,
        };
        let window = scalar(ElementType::S64, std::ptr::from_ref(&number).cast());
        let softcap = scalar(ElementType::F32, std::ptr::from_ref(&cap).cast());
        let narrow = scalar(ElementType::S32, std::ptr::from_ref(&number).cast());
        let found = read(&[
            (SCALAR, Some("softcap"), Some(&softcap)),
            (SCALAR, Some("narrow"), Some(&narrow)),
            (SCALAR, Some("window"), Some(&window)),
            (4, Some("text"), None),
        ])
        .expect("attributes");
        assert_eq!(found.i64("window"), Ok(Some(number)));
        assert_eq!(found.f32("softcap"), Ok(Some(cap)));
        assert!(found.i64("narrow").is_err());
        assert!(found.i64("text").is_err());
        assert_eq!(read(&[]), Ok(Attributes::default()));
    }

    #[test]
    fn attributes_without_a_name_or_value_are_refused() {
        let empty = ScalarValue {
            dtype: ElementType::S64.to_proto() as i32,
            value: std::ptr::null(),
        };
        for (attribute, message) in [
            ((SCALAR, None, None), "an attribute has no name"),
            (
                (SCALAR, Some("window"), None),
                "attribute window has no value",
            ),
            (
                (SCALAR, Some("window"), Some(&empty)),
                "attribute window has no value",
            ),
        ] {
            assert_eq!(read(&[attribute]), Err(message.to_owned()));
        }
    }
}
