#![no_main]

use std::path::Path;

use gemma_xla::checkpoint::Checkpoint;
use gemma_xla_fuzz::{FILE, files, one_line, reads_agree};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match Checkpoint::from_orbax(Path::new(FILE), files(bytes)) {
    Ok(checkpoint) => reads_agree(&checkpoint),
    Err(error) => one_line(&error),
});
