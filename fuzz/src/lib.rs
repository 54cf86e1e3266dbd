//! What the targets for forms of weights share.

use std::sync::Once;

use gemma_xla::checkpoint::{Checkpoint, Error};

/// The name that the bytes go by.
pub const FILE: &str = "fuzzed";

/// The most bytes that a tensor of a fuzzed file is read with.
const MAX_READ: usize = 1 << 16;

/// Whatever the bytes were: tensors are whole and read alike in both ways, and errors are one line
/// that names the file.
pub fn holds(opened: Result<Checkpoint, Error>) {
    match opened {
        Ok(checkpoint) => {
            for tensor in checkpoint.tensors() {
                let elements: usize = tensor.shape().iter().product();
                assert_eq!(tensor.byte_len(), elements * tensor.dtype().size());
                if tensor.byte_len() > MAX_READ {
                    continue;
                }
                let mut whole = vec![0; tensor.byte_len()];
                let mut ranges = vec![0; tensor.byte_len()];
                tensor
                    .read_into(tensor.dtype(), &mut whole)
                    .expect("its bytes are there");
                let (first, second) = ranges.split_at_mut(tensor.byte_len() / 3);
                tensor.read_at(0, first).expect("its bytes are there");
                tensor
                    .read_at(first.len(), second)
                    .expect("its bytes are there");
                assert_eq!(whole, ranges);
            }
        }
        Err(error) => one_line(&error),
    }
}

/// An error's message is one line that names the file.
pub fn one_line(error: &dyn std::error::Error) {
    let message = error.to_string();
    assert!(
        message.contains(FILE) && !message.contains('\n'),
        "{message}"
    );
}

/// Lets panics of a tokenizer library pass that become errors. libFuzzer's panic hook ends the
/// process at every panic, caught or not.
pub fn leave_caught_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !gemma_xla::tokenizer::is_catching_panics() {
                report(panic);
            }
        }));
    });
}
