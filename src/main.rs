//! The `gemma-xla` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    gemma_xla::cli::main()
}
