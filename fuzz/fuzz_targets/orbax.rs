#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use gemma_xla::checkpoint::{Checkpoint, NameTable};
use gemma_xla::model::name_tables;
use gemma_xla_fuzz::{FILE, files, one_line, reads_agree};
use libfuzzer_sys::fuzz_target;

static NAMES: LazyLock<Vec<NameTable>> = LazyLock::new(name_tables);

fuzz_target!(|bytes: &[u8]| {
    let stored = Checkpoint::from_orbax(Path::new(FILE), files(bytes));
    match stored.and_then(|stored| stored.canonical(&NAMES)) {
        Ok(checkpoint) => reads_agree(&checkpoint),
        Err(error) => one_line(&error),
    }
});
