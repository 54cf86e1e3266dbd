//! The `gemma-xla` command.

fn main() {}
