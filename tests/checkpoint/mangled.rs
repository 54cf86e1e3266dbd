//! Bytes that no one wrote on purpose: whatever they are, an answer, and never a panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::encode::{FILE, encode, everything, open};
use super::reading::trees;

/// Opens the bytes; where they make a checkpoint, its tensors must be whole and within the bytes.
fn survive(bytes: &[u8]) -> Result<(), TestCaseError> {
    match open(bytes) {
        Ok(checkpoint) => {
            prop_assert!(checkpoint.total_bytes() <= bytes.len() as u64);
            for tensor in checkpoint.tensors() {
                let elements: usize = tensor.shape().iter().product();
                prop_assert_eq!(tensor.byte_len(), elements * tensor.dtype().size());
                tensor.read_at(0, &mut vec![0; tensor.byte_len()]).unwrap();
            }
        }
        Err(error) => {
            let message = error.to_string();
            prop_assert!(
                message.contains(FILE) && !message.contains('\n'),
                "{}",
                message
            );
        }
    }
    Ok(())
}

/// A change of one place: overwrite, insert, remove, or repeat what is there.
#[derive(Clone, Debug)]
pub enum Edit {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Repeat(usize, usize),
    Cut(usize),
}

/// A few changes.
pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = any::<usize>();
    // Heads of every kind, and their neighbours, more often than chance would have them.
    let byte = prop_oneof![any::<u8>(), 0x80..=0x9f_u8, 0xc0..=0xdf_u8, Just(0xff)];
    vec(
        prop_oneof![
            6 => (place, byte.clone()).prop_map(|(at, byte)| Edit::Set(at, byte)),
            2 => (place, byte).prop_map(|(at, byte)| Edit::Insert(at, byte)),
            2 => place.prop_map(Edit::Remove),
            1 => (place, 1..40_usize).prop_map(|(at, len)| Edit::Repeat(at, len)),
            1 => place.prop_map(Edit::Cut),
        ],
        1..6,
    )
}

/// The bytes with the changes made.
pub fn apply(mut bytes: Vec<u8>, edits: Vec<Edit>) -> Vec<u8> {
    for edit in edits {
        let len = bytes.len();
        if len == 0 {
            break;
        }
        match edit {
            Edit::Set(at, byte) => bytes[at % len] = byte,
            Edit::Insert(at, byte) => bytes.insert(at % len, byte),
            Edit::Remove(at) => drop(bytes.remove(at % len)),
            Edit::Repeat(at, count) => {
                let at = at % len;
                let part = bytes[at..len.min(at + count)].to_vec();
                bytes.splice(at..at, part);
            }
            Edit::Cut(at) => bytes.truncate(at % len),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_mangled_file_with_every_structure_never_panics(edits in edits()) {
        survive(&apply(encode(&everything()), edits))?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        survive(&bytes)?;
    }
}

proptest! {
    #[test]
    fn a_mangled_file_of_any_tree_never_panics(tree in trees(), edits in edits()) {
        survive(&apply(encode(&tree), edits))?;
    }
}

#[test]
fn every_byte_set_to_every_value_never_panics() {
    let whole = encode(&everything());
    for at in 0..whole.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            survive(&bytes).unwrap();
        }
    }
}
