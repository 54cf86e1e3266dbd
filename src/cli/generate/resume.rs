//! Continuing a run where it was interrupted.
//!
//! Results are written into the file itself, in order, so whole lines say which prompts are done.
//! A file beside it says which run they are of.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::super::model::ModelArgs;
use super::Shard;
use crate::config::CONFIG_FILE;
use crate::engine::GenerateOptions;
use crate::input_file;
use crate::source::Model;
use crate::whole_file::{Mode, WholeFile};

/// Bytes of each file of a checkpoint that tell it from others, from its beginning and its middle.
const SAMPLE: u64 = 1 << 20;

/// The most bytes of a configuration, and of the file that says which run results are of.
const MAX_FILE: u64 = 1 << 24;

/// What tells a run from others, by name.
pub(super) type Run = BTreeMap<String, String>;

/// What results depend on.
pub(super) fn fingerprint(
    model: &Model,
    args: &ModelArgs,
    options: &GenerateOptions,
    shard: Shard,
    chat: bool,
) -> anyhow::Result<Run> {
    let mut hash = Sha256::new();
    let config = input_file::read(&model.folder().join(CONFIG_FILE), MAX_FILE);
    hash.update(config.ok().flatten().unwrap_or_default());
    for file in model.checkpoint().files() {
        let named = || format!("{}: cannot be read", file.display());
        let mut from = File::open(file).with_context(named)?;
        let size = from.metadata().with_context(named)?.len();
        hash.update(size.to_le_bytes());
        for start in [0, size / 2] {
            let mut part = Vec::new();
            from.seek(SeekFrom::Start(start)).with_context(named)?;
            (&mut from)
                .take(SAMPLE)
                .read_to_end(&mut part)
                .with_context(named)?;
            hash.update(part);
        }
    }
    let digest = hash.finalize();
    let model_hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let dtype = args
        .dtype
        .map_or("the checkpoint's".to_owned(), |dtype| dtype.to_string());
    let entries = [
        ("model", model_hash),
        ("dtype", dtype),
        ("max_new_tokens", options.max_new_tokens.to_string()),
        ("choice of tokens", format!("{:?}", options.sampling)),
        ("shard", format!("{}/{}", shard.index, shard.count)),
        ("chat", chat.to_string()),
    ];
    Ok(entries
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

/// The results of an earlier run, or of none.
pub(super) struct Resumed {
    /// Where further results go.
    pub file: File,
    /// The last prompt that is done.
    pub last: Option<usize>,
}

/// What a line of results says of its place.
#[derive(Deserialize)]
struct Line {
    index: usize,
    #[serde(default)]
    sequence: usize,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    delta: Option<serde::de::IgnoredAny>,
}

impl Resumed {
    /// Opens the output, which `--resume` requires, and looks how far it is. What is not whole at
    /// its end is cut off.
    pub fn open(
        output: Option<&Path>,
        run: &Run,
        shard: Shard,
        replies: usize,
    ) -> anyhow::Result<Self> {
        let path = output.context("--resume needs --output FILE")?;
        let name = format!("--output {}", path.display());
        let beside = beside(path);
        let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
        match input_file::read(&beside, MAX_FILE) {
            Ok(content) => {
                let content = content.unwrap_or_default();
                let earlier: Run = serde_json::from_slice(&content)
                    .with_context(|| format!("{}: not a run's", beside.display()))?;
                for (key, value) in run {
                    let found = earlier.get(key).map_or("nothing", String::as_str);
                    ensure!(
                        found == value,
                        "{name}: --resume: its results are of another run, whose {key} was {found}, not {value}"
                    );
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                ensure!(
                    length == 0,
                    "{name}: --resume: it has results, and no {} that says which run they are of",
                    beside.display()
                );
                let mut file =
                    WholeFile::create(&beside, Mode::Users, true).with_context(|| name.clone())?;
                let written = serde_json::to_writer(&mut file, run).map_err(std::io::Error::from);
                written
                    .and_then(|()| file.commit())
                    .with_context(|| beside.display().to_string())?;
            }
            Err(error) => return Err(error).context(beside.display().to_string()),
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| name.clone())?;
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        ensure!(is_regular, "{name}: --resume: not a regular file");
        let (end, last) = done(&file, &name, shard, replies)?;
        let mut file = file;
        file.set_len(end).with_context(|| name.clone())?;
        file.seek(SeekFrom::Start(end))
            .with_context(|| name.clone())?;
        Ok(Self { file, last })
    }
}

/// Where the results of the last prompt that has all of them end, and that prompt.
fn done(
    file: &File,
    name: &str,
    shard: Shard,
    replies: usize,
) -> anyhow::Result<(u64, Option<usize>)> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let (mut offset, mut end, mut last) = (0, 0, None);
    let (mut next, mut sequence) = (shard.index, 0);
    for number in 1.. {
        line.clear();
        let read = reader
            .read_until(b'\n', &mut line)
            .with_context(|| name.to_owned())?;
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        offset += read as u64;
        let Ok(found) = serde_json::from_slice::<Line>(&line) else {
            bail!("{name}: --resume: line {number} is not a result");
        };
        if found.delta.is_some() {
            continue;
        }
        ensure!(
            found.index == next && found.sequence == sequence,
            "{name}: --resume: line {number} has prompt {}, expected prompt {next}",
            found.index
        );
        sequence += 1;
        if sequence == replies || found.error.is_some() {
            (end, last) = (offset, Some(next));
            (next, sequence) = (next + shard.count, 0);
        }
    }
    Ok((end, last))
}

/// The file that says which run results are of.
fn beside(output: &Path) -> PathBuf {
    let mut name = OsString::from(output);
    name.push(".run.json");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn of(content: &str, shard: Shard, replies: usize) -> anyhow::Result<(u64, Option<usize>)> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content.as_bytes()).expect("written");
        file.rewind().expect("rewound");
        done(&file, "out", shard, replies)
    }

    #[test]
    fn whole_lines_say_which_prompts_are_done() {
        let line = |index| format!("{{\"index\":{index},\"token_ids\":[]}}\n");
        let whole = line(0) + &line(1);
        let (end, last) = of(&whole, Shard::WHOLE, 1).expect("valid");
        assert_eq!((end, last), (whole.len() as u64, Some(1)));
        let cut = whole.clone() + "{\"index\":2,\"tok";
        let (end, last) = of(&cut, Shard::WHOLE, 1).expect("valid");
        assert_eq!((end, last), (whole.len() as u64, Some(1)));
        assert_eq!(of("", Shard::WHOLE, 1).expect("valid"), (0, None));
        let third = Shard { index: 1, count: 3 };
        let (_, last) = of(&(line(1) + &line(4)), third, 1).expect("valid");
        assert_eq!(last, Some(4));
        assert!(of(&(line(1) + &line(3)), third, 1).is_err());
        assert!(of("no JSON\n", Shard::WHOLE, 1).is_err());
    }

    #[test]
    fn a_prompt_with_some_of_its_replies_is_done_again() {
        let line = |index, sequence| format!("{{\"index\":{index},\"sequence\":{sequence}}}\n");
        let first = line(0, 0) + &line(0, 1);
        let (end, last) = of(&(first.clone() + &line(1, 0)), Shard::WHOLE, 2).expect("valid");
        assert_eq!((end, last), (first.len() as u64, Some(0)));
        let failed = first.clone() + "{\"index\":1,\"error\":\"x\"}\n";
        let (end, last) = of(&failed, Shard::WHOLE, 2).expect("valid");
        assert_eq!((end, last), (failed.len() as u64, Some(1)));
    }
}
