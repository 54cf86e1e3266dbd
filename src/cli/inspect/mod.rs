//! `gemma-xla inspect`: what a checkpoint contains, and whether it fits its configuration.
//! The exit status is 1 where it does not.

mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::Outcome;
use super::convert::folder_of;
use super::source::locate;
use super::terminal;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::{CONFIG_FILE, GemmaConfig};
use crate::engine::checkpoint_dtype;
use crate::hub::Wanted;
use crate::input_file;
use crate::json_text;
use crate::model::{Distribution, ModelSpec, Xla, parameters};
use crate::sharding::Mesh;
use crate::source::{fitted, open_checkpoint, open_config, tokenizer_folder};
use crate::tokenizer;

/// The most bytes of a configuration.
const MAX_CONFIG: u64 = 1 << 24;

/// Options of `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Folder with the checkpoint, or its file, or a model on the Hub
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Branch, tag or commit of a model on the Hub
    #[arg(long)]
    revision: Option<String>,
    /// Show how each parameter is split over these devices, and how many bytes each device has
    #[arg(long, value_name = "data=D,model=M")]
    mesh: Option<Mesh>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> anyhow::Result<Outcome> {
    let model = locate(&args.model, args.revision.as_deref(), Wanted::Checkpoint)?;
    let report = Report::of(&model, args.mesh)?;
    if args.json {
        terminal::print_json(&report)?;
    } else {
        table::render(&report, table::terminal_width())?.print()?;
    }
    Ok(match &report.fit {
        Some(fit) if !fit.fits => Outcome::Negative,
        _ => Outcome::Done,
    })
}

/// Everything that is known about a checkpoint.
#[derive(Serialize)]
struct Report {
    /// As text: a name that is not UTF-8 cannot be written in JSON.
    path: String,
    format: String,
    /// Whose names and layouts the files use.
    naming: String,
    files: Vec<FileRow>,
    tensors: Vec<TensorRow>,
    dtypes: BTreeMap<&'static str, Totals>,
    total: Totals,
    config: Config,
    tokenizer: Tokenizer,
    /// How tensors and configuration differ; absent without a configuration.
    fit: Option<Fit>,
    /// What a row of as many tokens as the model has positions for takes in the caches; absent
    /// without a configuration.
    caches: Option<CacheRow>,
    /// How the parameters are split over the devices of a mesh, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<MeshSplit>,
}

#[derive(Serialize)]
struct CacheRow {
    tokens: usize,
    bytes: u64,
    /// If layers with a window kept all tokens.
    bytes_without_windows: u64,
}

#[derive(Serialize)]
struct MeshSplit {
    mesh: String,
    devices: usize,
    #[serde(flatten)]
    distribution: Distribution,
}

#[derive(Serialize)]
struct FileRow {
    name: String,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    shape: Vec<usize>,
    dtype: &'static str,
    parameters: u64,
    bytes: u64,
    file: String,
    stored_name: String,
    stored_shape: Vec<usize>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Totals {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

/// The configuration as its file has it, or why it cannot be used.
#[derive(Serialize)]
struct Config {
    values: Option<serde_json::Value>,
    problem: Option<String>,
    /// The published model whose configuration is assumed, where the folder has none.
    assumed: Option<&'static str>,
}

#[derive(Serialize)]
struct Tokenizer {
    file: Option<&'static str>,
    vocabulary_size: Option<usize>,
    problem: Option<String>,
}

/// How the tensors differ from those that the configuration describes.
#[derive(Serialize)]
struct Fit {
    fits: bool,
    missing: Vec<Named>,
    left_over: Vec<Named>,
    wrong_shape: Vec<WrongShape>,
    /// A head that differs from the embedding although the configuration ties the two.
    untied_head: Option<String>,
    /// What is stored beside the parameters and is not loaded.
    left_out: Vec<String>,
    /// Parts of a multimodal model that are not loaded.
    other_parts: Vec<String>,
}

#[derive(Serialize)]
struct Named {
    name: String,
    shape: Vec<usize>,
}

#[derive(Serialize)]
struct WrongShape {
    name: String,
    expected: Vec<usize>,
    found: Vec<usize>,
}

impl Report {
    fn of(model: &Path, mesh: Option<Mesh>) -> anyhow::Result<Self> {
        let folder = folder_of(model);
        let (parsed, assumed) = match open_config(folder) {
            Ok((config, assumed)) => (Ok(config), assumed),
            Err(error) => (Err(error), None),
        };
        let checkpoint = match (open_checkpoint(model)?, &parsed) {
            (checkpoint, Ok(config)) => fitted(&checkpoint, config),
            (checkpoint, Err(_)) => checkpoint,
        };
        let tensors: Vec<TensorRow> = checkpoint.tensors().map(tensor_row).collect();
        let mut dtypes: BTreeMap<_, Totals> = BTreeMap::new();
        let mut total = Totals::default();
        for row in &tensors {
            for totals in [dtypes.entry(row.dtype).or_default(), &mut total] {
                totals.tensors += 1;
                totals.parameters += row.parameters;
                totals.bytes += row.bytes;
            }
        }
        let split = match (mesh, &parsed) {
            (None, _) => None,
            (Some(mesh), Ok(config)) => Some(split(&checkpoint, config, mesh)?),
            (Some(_), Err(_)) => {
                // The same error again, as one that can be returned.
                GemmaConfig::from_dir(folder).context("--mesh needs the model's sizes")?;
                None
            }
        };
        let fit = match &parsed {
            Ok(config) => Some(fit(&checkpoint, config)?),
            Err(_) => None,
        };
        let caches = match &parsed {
            Ok(config) => caches(&checkpoint, config),
            Err(_) => None,
        };
        Ok(Report {
            path: checkpoint.path().display().to_string(),
            format: checkpoint.format().to_string(),
            naming: checkpoint.naming().to_string(),
            files: checkpoint
                .files()
                .iter()
                .map(|file| file_row(file))
                .collect(),
            tensors,
            dtypes,
            total,
            config: config(folder, parsed, assumed),
            tokenizer: tokenizer(&tokenizer_folder(folder)),
            caches,
            fit,
            split,
        })
    }
}

/// How `generate` would split the parameters over a mesh, in the checkpoint's own dtype.
fn split(checkpoint: &Checkpoint, config: &GemmaConfig, mesh: Mesh) -> anyhow::Result<MeshSplit> {
    let compute = checkpoint_dtype(checkpoint, config)?;
    let stored = |name: &str| checkpoint.get(name).map_or(compute, |t| t.dtype());
    let spec = ModelSpec::new(config.clone(), compute, Xla::CPU, mesh, stored)?;
    Ok(MeshSplit {
        mesh: mesh.to_string(),
        devices: mesh.devices(),
        distribution: Distribution::of(&spec),
    })
}

/// What a row takes in the caches in the checkpoint's own dtype; none where the checkpoint has no
/// fitting embedding, which says it.
fn caches(checkpoint: &Checkpoint, config: &GemmaConfig) -> Option<CacheRow> {
    let compute = checkpoint_dtype(checkpoint, config).ok()?;
    let spec = ModelSpec::new(config.clone(), compute, Xla::CPU, Mesh::SINGLE, |_| compute).ok()?;
    let tokens = config.max_position_embeddings();
    Some(CacheRow {
        tokens,
        bytes: spec.cache_bytes(1, tokens) as u64,
        bytes_without_windows: spec.cache_bytes_without_windows(1, tokens) as u64,
    })
}

fn file_name(file: &Path) -> String {
    file.file_name()
        .map_or_else(|| file.to_string_lossy(), |name| name.to_string_lossy())
        .into_owned()
}

fn file_row(file: &Path) -> FileRow {
    FileRow {
        name: file_name(file),
        bytes: file.metadata().ok().map(|metadata| metadata.len()),
    }
}

fn tensor_row(tensor: &Tensor) -> TensorRow {
    TensorRow {
        name: tensor.name().to_owned(),
        shape: tensor.shape().to_vec(),
        dtype: tensor.stored_dtype(),
        parameters: (tensor.byte_len() / tensor.dtype().size()) as u64,
        bytes: tensor.stored_bytes(),
        file: file_name(tensor.file()),
        stored_name: tensor.stored_name().to_owned(),
        stored_shape: tensor.stored_shape().to_vec(),
    }
}

fn config<E: std::error::Error>(
    folder: &Path,
    parsed: Result<GemmaConfig, E>,
    assumed: Option<&'static str>,
) -> Config {
    let file = folder.join(CONFIG_FILE);
    let problem = match parsed {
        Ok(_) if assumed.is_some() => None,
        // A link to nothing has an error of its own.
        _ if matches!(input_file::exists(&file), Ok(false)) => {
            Some(format!("{}: there is none", file.display()))
        }
        Ok(_) => None,
        Err(error) => Some(match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }),
    };
    // Keys that this program does not know are shown too.
    let values = match problem {
        Some(_) => None,
        None => input_file::read(&file, MAX_CONFIG)
            .ok()
            .flatten()
            .and_then(|text| serde_json::from_slice(&json_text::standard(&text)).ok()),
    };
    Config {
        values,
        problem,
        assumed,
    }
}

fn tokenizer(folder: &Path) -> Tokenizer {
    let names = [tokenizer::JSON_FILE, tokenizer::MODEL_FILE];
    let file = names
        .into_iter()
        .find(|name| !matches!(input_file::exists(&folder.join(name)), Ok(false)));
    let (vocabulary_size, problem) = match tokenizer::Tokenizer::from_dir(folder) {
        Ok(found) => (found.map(|tokenizer| tokenizer.vocabulary_size()), None),
        Err(tokenizer::Error::Unreadable { problem, .. }) => (None, Some(problem)),
        Err(error) => (None, Some(error.to_string())),
    };
    Tokenizer {
        file,
        vocabulary_size,
        problem,
    }
}

fn fit(checkpoint: &Checkpoint, config: &GemmaConfig) -> anyhow::Result<Fit> {
    let expected: Vec<_> = parameters(config)
        .into_iter()
        .map(|parameter| {
            let shape = parameter.shape();
            (parameter.name, shape)
        })
        .collect();
    let comparison = checkpoint.compare(&expected)?;
    let named = |(name, shape)| Named { name, shape };
    let left_over = |tensor: &Tensor| Named {
        name: tensor.name().to_owned(),
        shape: tensor.shape().to_vec(),
    };
    let wrong_shape = |(tensor, expected): &(Tensor, Vec<usize>)| WrongShape {
        name: tensor.name().to_owned(),
        expected: expected.clone(),
        found: tensor.shape().to_vec(),
    };
    Ok(Fit {
        fits: comparison.fits(),
        left_over: comparison.left_over.iter().map(left_over).collect(),
        wrong_shape: comparison.wrong_shape.iter().map(wrong_shape).collect(),
        untied_head: comparison
            .untied_head
            .map(|head| head.stored_name().to_owned()),
        missing: comparison.missing.into_iter().map(named).collect(),
        left_out: comparison.left_out,
        other_parts: comparison.other_parts,
    })
}
