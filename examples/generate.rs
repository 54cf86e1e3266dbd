//! Continues prompts with the model in a folder, on the CPU.
//!
//! `cargo run --example generate FOLDER PROMPT…`, for instance
//! `cargo run --example generate tests/data/gemma-small She "Mr Darcy"`. The CPU's plugin must be
//! installed: `gemma-xla plugin install cpu`.

use gemma_xla::{GenerateOptions, LoadOptions, Model};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), prompts) = (arguments.next(), arguments) else {
        anyhow::bail!("usage: generate FOLDER PROMPT…");
    };
    let model = Model::open(folder)?.load(&LoadOptions::default())?;
    for text in model.generate(prompts, &GenerateOptions::default())? {
        println!("{text}");
    }
    Ok(())
}
