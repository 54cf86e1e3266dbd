//! Element types: HLO's names for them and PJRT's numbers.

use hlo::ElementType;
use pjrt_sys::*;

use super::error::{Error, Result};

/// Every element type that both sides have.
const TABLE: [(ElementType, PJRT_Buffer_Type); 13] = [
    (ElementType::Pred, PJRT_Buffer_Type_PJRT_Buffer_Type_PRED),
    (ElementType::S8, PJRT_Buffer_Type_PJRT_Buffer_Type_S8),
    (ElementType::S16, PJRT_Buffer_Type_PJRT_Buffer_Type_S16),
    (ElementType::S32, PJRT_Buffer_Type_PJRT_Buffer_Type_S32),
    (ElementType::S64, PJRT_Buffer_Type_PJRT_Buffer_Type_S64),
    (ElementType::U8, PJRT_Buffer_Type_PJRT_Buffer_Type_U8),
    (ElementType::U16, PJRT_Buffer_Type_PJRT_Buffer_Type_U16),
    (ElementType::U32, PJRT_Buffer_Type_PJRT_Buffer_Type_U32),
    (ElementType::U64, PJRT_Buffer_Type_PJRT_Buffer_Type_U64),
    (ElementType::F16, PJRT_Buffer_Type_PJRT_Buffer_Type_F16),
    (ElementType::BF16, PJRT_Buffer_Type_PJRT_Buffer_Type_BF16),
    (ElementType::F32, PJRT_Buffer_Type_PJRT_Buffer_Type_F32),
    (ElementType::F64, PJRT_Buffer_Type_PJRT_Buffer_Type_F64),
];

/// PJRT's number of an element type.
pub(super) fn to_raw(element_type: ElementType) -> PJRT_Buffer_Type {
    TABLE
        .iter()
        .find(|(known, _)| *known == element_type)
        .map_or(PJRT_Buffer_Type_PJRT_Buffer_Type_INVALID, |(_, raw)| *raw)
}

/// The element type of one of PJRT's numbers.
pub(super) fn from_raw(buffer_type: PJRT_Buffer_Type) -> Result<ElementType> {
    TABLE
        .iter()
        .find(|(_, raw)| *raw == buffer_type)
        .map(|(element_type, _)| *element_type)
        .ok_or(Error::UnsupportedElementType { buffer_type })
}

/// Bytes of a dense array.
///
/// # Errors
/// [`Error::Dimensions`] where a dimension is negative or the size cannot be addressed.
pub(super) fn byte_size(element_type: ElementType, dims: &[i64]) -> Result<usize> {
    let impossible = || Error::Dimensions {
        element_type,
        dims: dims.to_vec(),
    };
    let mut bytes = element_type.size();
    for &dim in dims {
        let dim = usize::try_from(dim).map_err(|_| impossible())?;
        bytes = bytes.checked_mul(dim).ok_or_else(impossible)?;
    }
    // More than this cannot be the length of an allocation.
    if bytes > isize::MAX as usize {
        return Err(impossible());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_has_a_number_of_its_own_and_comes_back() {
        for (element_type, raw) in TABLE {
            assert_eq!(to_raw(element_type), raw);
            assert_eq!(from_raw(raw), Ok(element_type));
        }
        assert!(from_raw(PJRT_Buffer_Type_PJRT_Buffer_Type_INVALID).is_err());
        assert!(from_raw(PJRT_Buffer_Type_PJRT_Buffer_Type_C64).is_err());
    }

    #[test]
    fn byte_size_refuses_what_cannot_be_an_array() {
        assert_eq!(byte_size(ElementType::F32, &[2, 3]), Ok(24));
        assert_eq!(byte_size(ElementType::F64, &[]), Ok(8));
        assert_eq!(byte_size(ElementType::F64, &[0, 5]), Ok(0));
        assert!(byte_size(ElementType::U8, &[-1]).is_err());
        assert!(byte_size(ElementType::U8, &[i64::MAX, 4]).is_err());
        assert!(byte_size(ElementType::U16, &[i64::MAX]).is_err());
    }
}
