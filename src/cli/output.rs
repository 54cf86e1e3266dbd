//! Where results go, and in which form.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::value::RawValue;
use tempfile::NamedTempFile;

use super::input::Prompt;
use super::terminal::Results;
use crate::engine::Generation;

/// The format of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// The prompt and what follows it; an empty line between results.
    Text,
    /// A JSON object a line.
    Jsonl,
}

/// One line of JSON output.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    id: Option<&'a RawValue>,
    token_ids: &'a [u32],
    text: Option<&'a str>,
    finish_reason: &'static str,
}

/// Writes `generation` as a line of JSON.
pub fn write_jsonl(
    to: &mut dyn Write,
    prompt: &Prompt,
    generation: &Generation,
    text: Option<&str>,
) -> io::Result<()> {
    let line = Line {
        index: generation.index,
        id: prompt.id.as_deref(),
        token_ids: &generation.token_ids,
        text,
        finish_reason: generation.finish_reason.name(),
    };
    serde_json::to_writer(&mut *to, &line)?;
    to.write_all(b"\n")?;
    to.flush()
}

/// Standard output, or a file that appears under its name when it is complete.
pub enum Output {
    /// Standard output, or a device or pipe that was named.
    Stream(Box<dyn Write>),
    /// Written beside its final place and renamed by [`finish`](Self::finish).
    File {
        /// The file as it is written.
        file: BufWriter<NamedTempFile>,
        /// Its final name.
        path: PathBuf,
    },
}

impl Output {
    /// Opens `path`, or standard output where none is given.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Output::Stream(Box::new(Results::new())));
        };
        let name = || format!("--output {}", path.display());
        let is_special = path
            .metadata()
            .is_ok_and(|meta| !meta.is_file() && !meta.is_dir());
        if is_special {
            let file = File::options().write(true).open(path).with_context(name)?;
            return Ok(Output::Stream(Box::new(file)));
        }
        anyhow::ensure!(!path.is_dir(), "{}: is a folder", name());
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        // A result is as readable as any file that the user makes, unlike a temporary file.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder
            .prefix(".gemma-xla-")
            .tempfile_in(folder)
            .with_context(name)?;
        Ok(Output::File {
            file: BufWriter::new(file),
            path: path.to_owned(),
        })
    }

    /// Takes results and keeps none.
    pub fn nowhere() -> Self {
        Output::Stream(Box::new(io::sink()))
    }

    /// What to write to.
    pub fn writer(&mut self) -> &mut dyn Write {
        match self {
            Output::Stream(stream) => stream,
            Output::File { file, .. } => file,
        }
    }

    /// Puts a file under its final name.
    pub fn finish(self) -> anyhow::Result<()> {
        match self {
            Output::Stream(mut stream) => Ok(stream.flush()?),
            Output::File { file, path } => {
                let name = || format!("--output {}", path.display());
                let file = file
                    .into_inner()
                    .map_err(|e| e.into_error())
                    .with_context(name)?;
                file.persist(&path).with_context(name)?;
                Ok(())
            }
        }
    }
}
