#![no_main]

use std::path::Path;

use gemma_xla::checkpoint::Checkpoint;
use gemma_xla_fuzz::{FILE, holds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holds(Checkpoint::from_npz(Path::new(FILE), bytes.to_vec())));
