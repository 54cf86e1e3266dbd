//! Arrays to devices and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gemma_xla::pjrt::{Buffer, Error, HostBuffer, HostData, Plugin, TransferOptions};
use hlo::ElementType;

use crate::support::{client, compile, doubling, f32_bytes, first, on_both_plugins, send};

on_both_plugins! {
    every_element_type_comes_back_as_it_went
    empty_arrays_and_scalars_are_arrays_too
    a_device_layout_changes_the_place_of_elements_and_not_their_value
    a_part_of_a_host_array_is_sent_by_its_strides
    owned_bytes_are_used_in_place_and_freed_once_when_the_buffer_is_gone
    owned_bytes_live_as_long_as_an_execution_that_reads_them
    owned_bytes_that_are_not_aligned_are_copied_and_freed_once
    owned_bytes_are_freed_when_they_do_not_fit_the_shape
    a_large_array_is_copied_whole
    arrays_are_copied_between_devices
    a_deleted_buffer_is_an_error_to_use
    host_memory_of_the_wrong_size_is_refused
    wrong_layouts_and_strides_are_refused
    elements_are_read_as_what_they_are
}

const ALL: [ElementType; 13] = [
    ElementType::Pred,
    ElementType::S8,
    ElementType::S16,
    ElementType::S32,
    ElementType::S64,
    ElementType::U8,
    ElementType::U16,
    ElementType::U32,
    ElementType::U64,
    ElementType::F16,
    ElementType::BF16,
    ElementType::F32,
    ElementType::F64,
];

fn every_element_type_comes_back_as_it_went(plugin: &Plugin) {
    let client = client(plugin, 1);
    let dims = [3, 5];
    for element_type in ALL {
        let size = 15 * element_type.size();
        let bytes: Vec<u8> = match element_type {
            ElementType::Pred => (0..size).map(|i| (i % 2) as u8).collect(),
            _ => (0..size).map(|i| (i * 7 + 3) as u8).collect(),
        };
        for data in [
            HostData::from(bytes.as_slice()),
            HostBuffer::from(bytes.as_slice()).into(),
        ] {
            let buffer = Buffer::from_host(first(&client), data, &dims, element_type).unwrap();
            assert_eq!(buffer.element_type(), element_type);
            assert_eq!(buffer.dims(), dims);
            assert!(buffer.on_device_size().unwrap() >= size);
            assert_eq!(buffer.to_host_vec().unwrap(), bytes, "{element_type:?}");
        }
    }
}

fn empty_arrays_and_scalars_are_arrays_too(plugin: &Plugin) {
    let client = client(plugin, 1);
    for (dims, values) in [
        (&[][..], &[2.5][..]),
        (&[0], &[]),
        (&[3, 0, 2], &[]),
        (&[1, 1], &[4.0]),
    ] {
        let buffer = send(first(&client), values, dims);
        assert_eq!(buffer.dims(), dims);
        assert_eq!(buffer.to_vec_f32().unwrap(), values);
        let program = compile(&client, &doubling(dims));
        let outputs = program
            .execute(&[vec![&buffer]], &Default::default())
            .unwrap();
        let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        assert_eq!(outputs[0][0].to_vec_f32().unwrap(), doubled);
    }
}

fn a_device_layout_changes_the_place_of_elements_and_not_their_value(plugin: &Plugin) {
    let client = client(plugin, 1);
    let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
    for order in [[2, 1, 0], [0, 1, 2], [1, 2, 0]] {
        let options = TransferOptions {
            device_minor_to_major: Some(order.to_vec()),
            ..TransferOptions::default()
        };
        let bytes = f32_bytes(&values);
        let buffer = Buffer::from_host_with(
            first(&client),
            HostBuffer::from(bytes.as_slice()),
            &[2, 3, 4],
            ElementType::F32,
            &options,
        )
        .unwrap();
        assert_eq!(buffer.to_vec_f32().unwrap(), values, "{order:?}");
    }
}

fn a_part_of_a_host_array_is_sent_by_its_strides(plugin: &Plugin) {
    let client = client(plugin, 1);
    // Columns 1 and 2 of a 3 × 4 matrix.
    let matrix: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let bytes = f32_bytes(&matrix);
    let options = TransferOptions {
        host_byte_strides: Some(vec![16, 4]),
        ..TransferOptions::default()
    };
    let buffer = Buffer::from_host_with(
        first(&client),
        &bytes[4..],
        &[3, 2],
        ElementType::F32,
        &options,
    )
    .unwrap();
    assert_eq!(
        buffer.to_vec_f32().unwrap(),
        [1.0, 2.0, 5.0, 6.0, 9.0, 10.0]
    );
    // And transposed.
    let options = TransferOptions {
        host_byte_strides: Some(vec![4, 16]),
        ..TransferOptions::default()
    };
    let buffer = Buffer::from_host_with(
        first(&client),
        bytes.as_slice(),
        &[4, 3],
        ElementType::F32,
        &options,
    )
    .unwrap();
    assert_eq!(
        buffer.to_vec_f32().unwrap(),
        [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]
    );
}

/// Bytes that count how often they are dropped.
struct Counted {
    bytes: HostBuffer,
    start: usize,
    drops: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // So that a use after this would be seen.
        self.bytes.fill(0xff);
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

/// `values` behind `start` bytes of nothing, and the count of its drops.
fn counted(values: &[f32], start: usize) -> (HostData<'static>, Arc<AtomicUsize>) {
    let drops = Arc::new(AtomicUsize::new(0));
    let mut bytes = HostBuffer::zeroed(start + values.len() * 4);
    bytes[start..].copy_from_slice(&f32_bytes(values));
    let owner = Counted {
        bytes,
        start,
        drops: Arc::clone(&drops),
    };
    (HostData::Owned(Box::new(owner)), drops)
}

/// The plugin may let go of bytes on a thread of its own: they must be dropped soon, and once.
fn assert_dropped_once(drops: &AtomicUsize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while drops.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "never dropped");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

fn owned_bytes_are_used_in_place_and_freed_once_when_the_buffer_is_gone(plugin: &Plugin) {
    let client = client(plugin, 1);
    let values: Vec<f32> = (0..1024).map(|i| i as f32).collect();
    let (data, drops) = counted(&values, 0);
    let buffer = Buffer::from_host(first(&client), data, &[1024], ElementType::F32).unwrap();
    buffer.ready().unwrap().wait().unwrap();
    let program = compile(&client, &doubling(&[1024]));
    let outputs = program
        .execute(&[vec![&buffer]], &Default::default())
        .unwrap();
    assert_eq!(outputs[0][0].to_vec_f32().unwrap()[1023], 2046.0);
    assert_eq!(buffer.to_vec_f32().unwrap(), values);
    // A copy would have been made and the bytes dropped by now.
    assert_eq!(drops.load(Ordering::SeqCst), 0, "not used in place");
    drop(buffer);
    assert_dropped_once(&drops);
    drop((outputs, program, client));
    assert_dropped_once(&drops);
}

fn owned_bytes_live_as_long_as_an_execution_that_reads_them(plugin: &Plugin) {
    let client = client(plugin, 1);
    // Long enough a chain of products that the execution is still under way when the buffer is
    // dropped.
    let side = 256;
    let program = compile(
        &client,
        &crate::support::module(&[&[side, side]], |b, p| {
            let mut x = p[0];
            for _ in 0..20 {
                let dims = hlo::DotDims {
                    lhs_contracting: vec![1],
                    rhs_contracting: vec![0],
                    ..hlo::DotDims::default()
                };
                x = b.dot_general(x, p[0], dims, None, hlo::Precision::Highest)?;
            }
            Ok(x)
        }),
    );
    // The identity: every power of it is itself.
    let count = (side * side) as usize;
    let values: Vec<f32> = (0..count)
        .map(|i| {
            if i % (side as usize + 1) == 0 {
                1.0
            } else {
                0.0
            }
        })
        .collect();
    let (data, drops) = counted(&values, 0);
    let buffer = Buffer::from_host(first(&client), data, &[side, side], ElementType::F32).unwrap();
    let outputs = program
        .execute(&[vec![&buffer]], &Default::default())
        .unwrap();
    drop(buffer);
    assert_eq!(outputs[0][0].to_vec_f32().unwrap(), values);
    assert_dropped_once(&drops);
}

fn owned_bytes_that_are_not_aligned_are_copied_and_freed_once(plugin: &Plugin) {
    let client = client(plugin, 1);
    let (data, drops) = counted(&[1.0, 2.0, 3.0], 1);
    let buffer = Buffer::from_host(first(&client), data, &[3], ElementType::F32).unwrap();
    assert_eq!(buffer.to_vec_f32().unwrap(), [1.0, 2.0, 3.0]);
    assert_dropped_once(&drops);
    assert_eq!(buffer.to_vec_f32().unwrap(), [1.0, 2.0, 3.0]);
}

fn owned_bytes_are_freed_when_they_do_not_fit_the_shape(plugin: &Plugin) {
    let client = client(plugin, 1);
    let (data, drops) = counted(&[1.0, 2.0], 0);
    let sent = Buffer::from_host(first(&client), data, &[3], ElementType::F32);
    assert!(matches!(sent, Err(Error::HostSize { .. })));
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

fn a_large_array_is_copied_whole(plugin: &Plugin) {
    let client = client(plugin, 1);
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let dims = [8, 1_000_000];
    let buffer =
        Buffer::from_host(first(&client), bytes.as_slice(), &dims, ElementType::U8).unwrap();
    // The plugin may not look at the bytes any more.
    let kept = bytes.clone();
    drop(bytes);
    assert!(buffer.to_host_vec().unwrap() == kept);
}

fn arrays_are_copied_between_devices(plugin: &Plugin) {
    let client = client(plugin, 2);
    let buffer = send(first(&client), &[1.0, -2.0], &[2]);
    let copy = buffer.copy_to_device(&client.devices()[1]).unwrap();
    drop(buffer);
    assert_eq!(copy.to_vec_f32().unwrap(), [1.0, -2.0]);
}

fn a_deleted_buffer_is_an_error_to_use(plugin: &Plugin) {
    let client = client(plugin, 2);
    let buffer = send(first(&client), &[1.0], &[1]);
    assert!(!buffer.is_deleted().unwrap());
    buffer.delete().unwrap();
    buffer.delete().unwrap();
    assert!(buffer.is_deleted().unwrap());
    assert_eq!(buffer.to_host_vec().unwrap_err(), Error::BufferDeleted);
    assert_eq!(buffer.on_device_size().unwrap_err(), Error::BufferDeleted);
    assert!(matches!(buffer.ready(), Err(Error::BufferDeleted)));
    let copied = buffer.copy_to_device(&client.devices()[1]);
    assert!(matches!(copied, Err(Error::BufferDeleted)));
    // What it was is still known.
    assert_eq!(buffer.dims(), [1]);
    assert_eq!(buffer.element_type(), ElementType::F32);
}

fn host_memory_of_the_wrong_size_is_refused(plugin: &Plugin) {
    let client = client(plugin, 1);
    let buffer = send(first(&client), &[1.0, 2.0], &[2]);
    for size in [0, 7, 9] {
        let error = buffer.to_host(&mut vec![0; size]).unwrap_err();
        assert!(
            matches!(error, Error::HostSize { expected: 8, actual, .. } if actual == size),
            "{error}"
        );
        let sent = Buffer::from_host(
            first(&client),
            vec![0; size].as_slice(),
            &[2],
            ElementType::F32,
        );
        assert!(matches!(sent, Err(Error::HostSize { .. })));
    }
    for dims in [&[-1][..], &[i64::MAX, i64::MAX]] {
        let sent = Buffer::from_host(first(&client), &[][..], dims, ElementType::F32);
        assert!(matches!(sent, Err(Error::Dimensions { .. })));
    }
}

fn wrong_layouts_and_strides_are_refused(plugin: &Plugin) {
    let client = client(plugin, 1);
    let send = |device: Option<&[i64]>, host: Option<&[i64]>| {
        let options = TransferOptions {
            device_minor_to_major: device.map(<[_]>::to_vec),
            host_byte_strides: host.map(<[_]>::to_vec),
        };
        Buffer::from_host_with(
            first(&client),
            &[0_u8; 24][..],
            &[2, 3],
            ElementType::F32,
            &options,
        )
        .unwrap_err()
    };
    for order in [&[0][..], &[0, 0], &[0, 2], &[0, 1, 2]] {
        assert!(matches!(send(Some(order), None), Error::Layout { .. }));
    }
    for strides in [&[12][..], &[-12, 4], &[i64::MAX, i64::MAX]] {
        assert!(matches!(send(None, Some(strides)), Error::Layout { .. }));
    }
    // These leave the 24 bytes.
    assert!(matches!(
        send(None, Some(&[16, 4])),
        Error::HostSize { expected: 28, .. }
    ));
}

fn elements_are_read_as_what_they_are(plugin: &Plugin) {
    let client = client(plugin, 1);
    let bytes: Vec<u8> = [7_i32, -1].iter().flat_map(|i| i.to_ne_bytes()).collect();
    let buffer =
        Buffer::from_host(first(&client), bytes.as_slice(), &[2], ElementType::S32).unwrap();
    assert_eq!(buffer.to_vec_i32().unwrap(), [7, -1]);
    assert_eq!(
        buffer.to_vec_f32().unwrap_err(),
        Error::ElementTypeMismatch {
            asked: ElementType::F32,
            actual: ElementType::S32
        }
    );
}
