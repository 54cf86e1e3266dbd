//! Layouts: what fits an array, and moving elements where the plugin does not.

use hlo::ElementType;
use pjrt_sys::*;

use super::abi::{Padded, list};
use super::element_type::byte_size;
use super::error::{Error, Result};
use super::host::HostBuffer;
use super::options::TransferOptions;

/// An untiled layout. It points to `order`, which must outlive it.
pub(super) fn dense_layout(order: &[i64]) -> Padded<PJRT_Buffer_MemoryLayout> {
    Padded::with(|layout: &mut PJRT_Buffer_MemoryLayout| {
        layout.type_ = PJRT_Buffer_MemoryLayout_Type_PJRT_Buffer_MemoryLayout_Type_Tiled;
        // Stands inside the structure, so it has no room for a tail, and its size is its own.
        layout.__bindgen_anon_1.tiled = PJRT_Buffer_MemoryLayout_Tiled {
            struct_size: size_of::<PJRT_Buffer_MemoryLayout_Tiled>(),
            extension_start: std::ptr::null_mut(),
            minor_to_major: list(order),
            minor_to_major_size: order.len(),
            tile_dims: std::ptr::null(),
            tile_dim_sizes: std::ptr::null(),
            num_tiles: 0,
        };
    })
}

/// `order` is a permutation of the dimensions' numbers.
pub(super) fn check_order(order: &[i64], dims: &[i64]) -> Result<()> {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if sorted.into_iter().eq(0..dims.len() as i64) {
        return Ok(());
    }
    Err(Error::Layout {
        what: "minor_to_major",
        values: order.to_vec(),
        dims: dims.to_vec(),
    })
}

/// The host bytes are what the dimensions and strides reach: exactly where they are dense, no less
/// where strided.
pub(super) fn check_size(
    actual: usize,
    dims: &[i64],
    element_type: ElementType,
    options: &TransferOptions,
) -> Result<()> {
    let dense = byte_size(element_type, dims)?;
    let (expected, fits) = match options.host_byte_strides.as_deref() {
        None => (dense, actual == dense),
        Some(strides) => {
            let expected = strided_size(strides, dims, element_type)?;
            (expected, actual >= expected)
        }
    };
    if fits {
        return Ok(());
    }
    Err(Error::HostSize {
        element_type,
        dims: dims.to_vec(),
        expected,
        actual,
    })
}

/// Bytes from the first to the end of the last element of a strided array.
fn strided_size(strides: &[i64], dims: &[i64], element_type: ElementType) -> Result<usize> {
    let misfit = || Error::Layout {
        what: "byte_strides",
        values: strides.to_vec(),
        dims: dims.to_vec(),
    };
    if strides.len() != dims.len() {
        return Err(misfit());
    }
    if dims.contains(&0) {
        return Ok(0);
    }
    let mut end = element_type.size();
    for (&stride, &dim) in strides.iter().zip(dims) {
        let stride = usize::try_from(stride).map_err(|_| misfit())?;
        let last = usize::try_from(dim - 1).map_err(|_| misfit())?;
        end = stride
            .checked_mul(last)
            .and_then(|offset| end.checked_add(offset))
            .ok_or_else(misfit)?;
    }
    Ok(end)
}

/// The array's elements, dense in the order `minor_to_major`. The strides are those of the bytes
/// given, dense row-major ones where there are none; all fit, as checked by [`check_size`] and
/// [`check_order`].
pub(super) fn arrange(
    bytes: &[u8],
    dims: &[i64],
    element_type: ElementType,
    strides: Option<&[i64]>,
    minor_to_major: &[i64],
) -> HostBuffer {
    let row_major: Vec<i64> = (0..dims.len() as i64).rev().collect();
    let dense = dense_strides(dims, element_type, &row_major);
    let strides = strides.unwrap_or(&dense);
    let major_to_minor: Vec<usize> = minor_to_major.iter().rev().map(|&d| d as usize).collect();
    let pick = |values: &[i64]| -> Vec<usize> {
        major_to_minor
            .iter()
            .filter_map(|&dim| Some(*values.get(dim)? as usize))
            .collect()
    };
    walk(bytes, &pick(dims), &pick(strides), element_type.size())
}

/// The elements of an array that is dense in the order `minor_to_major`, in row-major order.
pub(super) fn rearrange(
    bytes: &[u8],
    dims: &[i64],
    element_type: ElementType,
    minor_to_major: &[i64],
) -> HostBuffer {
    let strides = dense_strides(dims, element_type, minor_to_major);
    let unsigned = |values: &[i64]| -> Vec<usize> { values.iter().map(|&v| v as usize).collect() };
    walk(
        bytes,
        &unsigned(dims),
        &unsigned(&strides),
        element_type.size(),
    )
}

/// For each dimension, the bytes from one element to the next of a dense array.
fn dense_strides(dims: &[i64], element_type: ElementType, minor_to_major: &[i64]) -> Vec<i64> {
    let mut strides = vec![0; dims.len()];
    let mut stride = element_type.size() as i64;
    for &dim in minor_to_major {
        if let (Some(place), Some(size)) = (strides.get_mut(dim as usize), dims.get(dim as usize)) {
            *place = stride;
            stride = stride.saturating_mul(*size);
        }
    }
    strides
}

/// Collects elements, the last dimension fastest, each dimension stepping by its stride.
fn walk(bytes: &[u8], dims: &[usize], strides: &[usize], size: usize) -> HostBuffer {
    let mut out = HostBuffer::zeroed(dims.iter().product::<usize>() * size);
    let mut index = vec![0; dims.len()];
    let mut at = 0;
    for element in out.chunks_exact_mut(size) {
        if let Some(source) = bytes.get(at..at + size) {
            element.copy_from_slice(source);
        }
        // To the next index, as an odometer counts, with its offset kept alongside.
        for ((index, &dim), &stride) in index.iter_mut().zip(dims).zip(strides).rev() {
            *index += 1;
            at += stride;
            if *index < dim {
                break;
            }
            at -= *index * stride;
            *index = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_reach_exactly_to_the_end_of_the_last_element() {
        // Two rows of three f32, five apart.
        assert_eq!(strided_size(&[20, 4], &[2, 3], ElementType::F32), Ok(32));
        assert_eq!(strided_size(&[], &[], ElementType::F64), Ok(8));
        assert_eq!(strided_size(&[8, 4], &[0, 3], ElementType::F32), Ok(0));
        assert_eq!(strided_size(&[0, 4], &[9, 3], ElementType::F32), Ok(12));
    }

    #[test]
    fn strides_that_leave_the_data_are_refused() {
        assert!(strided_size(&[-4], &[2], ElementType::F32).is_err());
        assert!(strided_size(&[4], &[2, 2], ElementType::F32).is_err());
        assert!(strided_size(&[i64::MAX, 4], &[3, 2], ElementType::F32).is_err());
    }

    #[test]
    fn a_layout_must_name_every_dimension_once() {
        assert_eq!(check_order(&[0, 2, 1], &[5, 6, 7]), Ok(()));
        assert_eq!(check_order(&[], &[]), Ok(()));
        for wrong in [&[0, 1][..], &[0, 0, 1], &[1, 2, 3], &[-1, 0, 1]] {
            assert!(check_order(wrong, &[5, 6, 7]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn elements_are_arranged_in_a_layouts_order_and_back() {
        // 0 1 2
        // 3 4 5
        let rows = [0_u8, 1, 2, 3, 4, 5];
        let columns = arrange(&rows, &[2, 3], ElementType::U8, None, &[0, 1]);
        assert_eq!(&*columns, [0, 3, 1, 4, 2, 5]);
        let back = rearrange(&columns, &[2, 3], ElementType::U8, &[0, 1]);
        assert_eq!(&*back, rows);

        let cube: Vec<u8> = (0..48).collect();
        for order in [[2, 1, 0], [0, 1, 2], [1, 2, 0], [2, 0, 1]] {
            let arranged = arrange(&cube, &[2, 3, 4], ElementType::U16, None, &order);
            let back = rearrange(&arranged, &[2, 3, 4], ElementType::U16, &order);
            assert_eq!(*back, *cube, "{order:?}");
        }
    }

    #[test]
    fn elements_are_arranged_from_strided_bytes() {
        // Columns 1 and 2 of 3 × 4 bytes, column by column.
        let bytes: Vec<u8> = (0..12).collect();
        let arranged = arrange(
            &bytes[1..],
            &[3, 2],
            ElementType::U8,
            Some(&[4, 1]),
            &[0, 1],
        );
        assert_eq!(&*arranged, [1, 5, 9, 2, 6, 10]);
    }

    #[test]
    fn scalars_and_empty_arrays_are_arranged_too() {
        assert_eq!(&*arrange(&[7], &[], ElementType::U8, None, &[]), [7]);
        assert!(arrange(&[], &[0, 3], ElementType::U8, None, &[0, 1]).is_empty());
    }
}
