#![no_main]

use std::path::Path;

use gemma_xla::checkpoint::shards;
use gemma_xla_fuzz::{FILE, one_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| match shards(Path::new(FILE), text) {
    Ok(shards) => {
        assert!(!shards.is_empty());
        for (shard, tensors) in shards {
            assert!(!tensors.is_empty());
            // Joined to any folder, a shard's name stays in it.
            let folder = Path::new("/folder");
            assert_eq!(folder.join(&shard).parent(), Some(folder));
            assert!(!shard.is_empty() && shard != "." && shard != "..");
        }
    }
    Err(error) => one_line(&error),
});
