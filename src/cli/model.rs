//! The options that say which model to load, and onto what.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::source::locate;
use super::terminal;
use crate::checkpoint::Checkpoint;
use crate::dtype::DType;
use crate::engine::LoadOptions;
use crate::hub::Wanted;
use crate::sharding::Mesh;
use crate::source::{LoadedModel, Model};

/// Which model, in which dtype, on which device.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Folder with config.json and the checkpoint, a file of the checkpoint in it, or a model on
    /// the Hub
    #[arg(long, short, value_name = "DIR|HUB_ID")]
    pub model: PathBuf,
    /// Branch, tag or commit of a model on the Hub [default: main, or flax where main has no Flax
    /// weights]
    #[arg(long)]
    pub revision: Option<String>,
    /// Dtype to compute in: bf16, f16 or f32 [default: the checkpoint's]
    #[arg(long)]
    pub dtype: Option<DType>,
    /// cpu, tpu, cuda, or the path of a PJRT plugin
    #[arg(long, default_value = "cpu", value_parser = device_name)]
    pub device: String,
    /// CPU devices to make, for trying out meshes [default: as many as the mesh needs]
    #[arg(long, value_name = "N")]
    pub devices: Option<usize>,
    /// Devices to split over: rows of the batch over data, parameters over model
    #[arg(long, value_name = "data=D,model=M", default_value_t)]
    pub mesh: Mesh,
}

impl ModelArgs {
    /// The same with a folder as model: what is on the Hub is in the cache then.
    pub fn located(&self) -> anyhow::Result<Self> {
        let model = locate(&self.model, self.revision.as_deref(), Wanted::Checkpoint)?;
        let model = match model.is_dir() {
            true => model,
            false => folder_of_file(&model)?,
        };
        let (made, used) = (self.devices.unwrap_or(0), self.mesh.devices());
        if made > used {
            terminal::note(format_args!(
                "--devices {made} makes {made} CPU devices, and --mesh {} uses {used} of them; \
                 --mesh data={made} splits the batch over all, --mesh model={made} the model",
                self.mesh
            ));
        }
        Ok(Self {
            model,
            revision: None,
            ..self.clone()
        })
    }

    /// Loads the model, with a bar on standard error where that is a terminal.
    pub fn load(&self) -> anyhow::Result<LoadedModel> {
        load(&self.located()?.model, &self.options())
    }

    /// What the arguments say.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            dtype: self.dtype,
            device: self.device.clone(),
            devices: self.devices,
            mesh: self.mesh,
            ..LoadOptions::default()
        }
    }
}

/// Loads the model in a folder, with a bar on standard error where that is a terminal.
pub fn load(folder: &Path, options: &LoadOptions) -> anyhow::Result<LoadedModel> {
    let model = Model::open(folder)?;
    load_opened(model, options)
}

/// The same of a model that is open.
pub fn load_opened(model: Model, options: &LoadOptions) -> anyhow::Result<LoadedModel> {
    let folder = model.folder().to_path_buf();
    // indicatif draws nothing where standard error is no terminal.
    let bar = Mutex::new(None::<ProgressBar>);
    let loaded = model.load_with(options, |arrived, total| {
        let mut bar = bar.lock().unwrap_or_else(|e| e.into_inner());
        let bar = bar.get_or_insert_with(|| terminal::bar(loading_bar(total)));
        bar.set_position(arrived.max(bar.position()));
    });
    if let Some(bar) = bar.into_inner().unwrap_or_else(|e| e.into_inner()) {
        bar.finish_and_clear();
    }
    loaded.with_context(|| format!("cannot load {}", folder.display()))
}

/// The names of `--device`, with another word for a GPU.
pub(super) fn device_name(name: &str) -> Result<String, std::convert::Infallible> {
    Ok(match name {
        "gpu" => "cuda".to_owned(),
        name => name.to_owned(),
    })
}

/// The folder that a file of a checkpoint stands for. Whatever that folder has is loaded, so the
/// file must be a part of it.
fn folder_of_file(file: &Path) -> anyhow::Result<PathBuf> {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let checkpoint = Checkpoint::open(folder).with_context(|| {
        format!(
            "--model {}: expected a folder with a checkpoint",
            file.display()
        )
    })?;
    let is_part = checkpoint
        .files()
        .iter()
        .any(|part| part.file_name() == file.file_name());
    let is_index = file
        .extension()
        .is_some_and(|extension| extension == "json");
    if !is_part && !is_index {
        bail!(
            "--model {}: the checkpoint of this folder is {}; move the file to a folder of its own, with config.json",
            file.display(),
            checkpoint.path().display()
        );
    }
    Ok(folder.to_path_buf())
}

fn loading_bar(total: u64) -> ProgressBar {
    let template = "loading [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}";
    ProgressBar::new(total).with_style(
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    )
}
