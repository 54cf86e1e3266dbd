//! `gemma-xla convert`: the same weights in another format.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::source::locate;
use super::{Outcome, signals, terminal};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::write::{Staging, WriteError, WriteFormat, WriteOptions, write};
use crate::config::{CONFIG_FILE, GemmaConfig};
use crate::dtype::DType;
use crate::hub::Wanted;
use crate::input_file;
use crate::json_text;
use crate::source::{fitted, open_checkpoint};

/// Options of `convert`.
#[derive(Args)]
pub struct ConvertArgs {
    /// Folder with the checkpoint, or its file, or a model on the Hub
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// Branch, tag or commit of a model on the Hub
    #[arg(long)]
    revision: Option<String>,
    /// Folder to create; configuration and tokenizer are copied into it
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
    /// Format of the weights
    #[arg(long, value_name = "FORMAT")]
    to: Format,
    /// Cast every tensor: bf16, f16 or f32 [default: each keeps its own]
    #[arg(long)]
    dtype: Option<DType>,
    /// Most bytes of tensors in a file of msgpack or safetensors; npz is always one file
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    max_shard_size: u64,
    /// Replace DESTINATION if it has nothing in it but a checkpoint
    #[arg(long)]
    force: bool,
}

/// The formats that weights are written in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// As Flax saves it: Flax's names and layouts
    Msgpack,
    /// As numpy.savez saves it: Flax's names joined by slashes, Flax's layouts
    Npz,
    /// As Transformers saves its PyTorch models: PyTorch's names and layouts, kernels as [out, in]
    Safetensors,
}

/// Runs the command.
pub fn run(args: &ConvertArgs) -> anyhow::Result<Outcome> {
    let source = locate(&args.source, args.revision.as_deref(), Wanted::Checkpoint)?;
    let interrupted = signals::deferred();

    let folder = folder_of(&source);
    let mut checkpoint = open_checkpoint(&source)?;
    if let Ok(config) = GemmaConfig::from_dir(folder) {
        checkpoint = fitted(&checkpoint, &config);
    }
    let checkpoint = checkpoint.parameters_only(is_tied(folder)?)?;
    refuse_nesting(folder, &args.destination)?;
    let staging = match Staging::beside(&args.destination, args.force) {
        Err(error @ WriteError::Exists { .. }) => bail!("{error}; --force replaces it"),
        staging => staging?,
    };
    let companions = staging.copy_companions(folder, args.dtype)?;
    if !companions.contains(&CONFIG_FILE) {
        tracing::warn!("{} has no {CONFIG_FILE} to copy", folder.display());
    }

    let options = WriteOptions {
        format: match args.to {
            Format::Msgpack => WriteFormat::Msgpack,
            Format::Npz => WriteFormat::Npz,
            Format::Safetensors => WriteFormat::Safetensors,
        },
        dtype: args.dtype,
        max_shard_bytes: args.max_shard_size,
    };
    let bar = terminal::bar(progress_bar(written_bytes(&checkpoint, args.dtype)));
    let written = write(&checkpoint, staging.path(), &options, &mut |bytes| {
        bar.inc(bytes);
        match interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    bar.finish_and_clear();
    let written = match written {
        Ok(written) => written,
        Err(WriteError::Interrupted) => return Ok(Outcome::Interrupted),
        Err(error) => return Err(error.into()),
    };
    staging.commit()?;
    warn_of_overflow(&written.overflowed, args.dtype);
    terminal::note(format_args!(
        "{}: {} tensors in {} of {}",
        args.destination.display(),
        checkpoint.tensors().len(),
        match written.files.len() {
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        },
        options.format
    ));
    Ok(Outcome::Done)
}

/// Whether the configuration beside a checkpoint ties the head to the embedding, which it does
/// unless it says otherwise. Without one, a head is a parameter like any other.
fn is_tied(folder: &Path) -> anyhow::Result<bool> {
    const LIMIT: u64 = 1 << 24;
    let file = folder.join(CONFIG_FILE);
    let content = match input_file::read(&file, LIMIT) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        read => read.with_context(|| format!("cannot read {}", file.display()))?,
    };
    // What else is wrong with the file does not matter here: it is copied as it is.
    let Some(config) = content.and_then(|text| {
        serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(&json_text::standard(&text))
            .ok()
    }) else {
        return Ok(false);
    };
    Ok(config
        .get("tie_word_embeddings")
        .and_then(serde_json::Value::as_bool)
        .unwrap_or(true))
}

fn warn_of_overflow(overflowed: &[(String, u64)], dtype: Option<DType>) {
    let (Some((name, most)), Some(dtype)) = (overflowed.first(), dtype) else {
        return;
    };
    let all: u64 = overflowed.iter().map(|(_, count)| count).sum();
    let values = match all {
        1 => "1 value is too large for".to_owned(),
        all => format!("{all} values are too large for"),
    };
    tracing::warn!(
        "{values} {dtype} and became infinite, in {} tensors; \
         tensor {name:?} has most of them, {most}",
        overflowed.len()
    );
}

/// The folder of a checkpoint: itself, or the one that its file is in.
pub(super) fn folder_of(source: &Path) -> &Path {
    match source.parent() {
        _ if source.is_dir() => source,
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The source is read while the destination is replaced: neither may be in the other.
fn refuse_nesting(source: &Path, destination: &Path) -> anyhow::Result<()> {
    let Ok(existing) = destination.canonicalize() else {
        return Ok(());
    };
    let source = source
        .canonicalize()
        .with_context(|| format!("cannot open {}", source.display()))?;
    if source.starts_with(&existing) {
        bail!("{}: contains the source", destination.display());
    }
    Ok(())
}

fn written_bytes(checkpoint: &Checkpoint, dtype: Option<DType>) -> u64 {
    let bytes = |tensor: &crate::checkpoint::Tensor| {
        let elements = tensor.byte_len() / tensor.dtype().size();
        elements as u64 * dtype.unwrap_or(tensor.dtype()).size() as u64
    };
    checkpoint.tensors().map(bytes).sum()
}

fn progress_bar(total: u64) -> ProgressBar {
    let template = "writing [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}";
    ProgressBar::new(total).with_style(
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    )
}

/// Reads a number of bytes with a unit, as huggingface_hub does: `5GB` is 5 · 10^9, `5GiB` is 5 ·
/// 2^30.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        unit => {
            return Err(format!(
                "unknown unit '{unit}' (known: B, KB, MB, GB, KiB, MiB, GiB)"
            ));
        }
    };
    let number: u64 = digits
        .trim_end()
        .parse()
        .map_err(|_| "not a whole number of bytes, such as 5GB".to_owned())?;
    match number.checked_mul(unit) {
        Some(0) => Err("must be at least 1 byte".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("too many bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("3MiB"), Ok(3 << 20));
        assert_eq!(parse_size("17"), Ok(17));
        for wrong in ["", "GB", "5XB", "-5GB", "1.5GB", "0", "99999999999TB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
