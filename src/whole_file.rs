//! Files that are whole or not there: written beside their place, and renamed when they are
//! complete.

use std::fs::{self, File, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::leftovers::{self, Claim};

/// What the name of an unfinished file begins with.
pub(crate) const UNFINISHED: &str = ".unfinished-";
/// The most links that are followed from a name, as on Linux.
const MOST_LINKS: usize = 40;

/// The permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Those of the file that is replaced, else those of any file that the user creates.
    Users,
    /// These, whatever the user's umask is.
    Exactly(u32),
}

/// A file that is being written. Dropped before [`WholeFile::commit`], it leaves nothing behind.
pub(crate) struct WholeFile {
    file: NamedTempFile,
    claim: Claim,
    target: PathBuf,
    durable: bool,
}

impl WholeFile {
    /// Begins a file of this name. Where the name is a symbolic link, the file that it leads to is
    /// replaced and the link stays. A `durable` file is on the disk once it has its name.
    ///
    /// # Errors
    /// Where the name is a folder's, where its folder does not exist or cannot be written to, and
    /// where no file can have the name: all of it before anything is written.
    pub(crate) fn create(path: &Path, mode: Mode, durable: bool) -> io::Result<Self> {
        let target = followed(path)?;
        let replaced = match target.metadata() {
            Ok(found) if found.is_dir() => return Err(io::Error::other("is a folder")),
            Ok(found) => Some(found.permissions()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if target.file_name().is_none() {
            return Err(io::Error::other("not the name of a file"));
        }
        let folder = folder_of(&target);
        if !folder.try_exists()? {
            let message = format!("the folder {} does not exist", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        let mut builder = tempfile::Builder::new();
        if mode == Mode::Users {
            // The umask takes its part off these; a temporary file is for its owner alone.
            builder.permissions(Permissions::from_mode(0o666));
        }
        leftovers::sweep(folder, |name| name.starts_with(UNFINISHED));
        builder.prefix(UNFINISHED);
        let (file, claim) = Claim::make(|| builder.tempfile_in(folder), NamedTempFile::path)?;
        let permissions = match mode {
            Mode::Users => replaced,
            Mode::Exactly(bits) => Some(Permissions::from_mode(bits)),
        };
        if let Some(permissions) = permissions {
            file.as_file().set_permissions(permissions)?;
        }
        Ok(WholeFile {
            file,
            claim,
            target,
            durable,
        })
    }

    /// Whether nothing has been written.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(feature = "cli")]
    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        Ok(self.file.as_file().metadata()?.len() == 0)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn commit(self) -> io::Result<()> {
        if self.durable {
            self.file.as_file().sync_all()?;
        }
        self.claim
            .rename(|| self.file.persist(&self.target))
            .map_err(|error| error.error)?;
        if self.durable {
            sync_folder_of(&self.target)?;
        }
        Ok(())
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for WholeFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.as_file_mut().seek(to)
    }
}

/// The folder that a file or folder of this name lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Waits until the names in the folder that `path` lies in are on the disk.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// The name that symbolic links lead to from `path`, whether or not there is a file.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => path = folder_of(&path).join(fs::read_link(&path)?),
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, mode: Mode, text: &str) -> io::Result<()> {
        let mut file = WholeFile::create(path, mode, true)?;
        file.write_all(text.as_bytes())?;
        file.commit()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_has_its_name_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = WholeFile::create(&path, Mode::Users, false).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        write(&path, Mode::Users, "whole").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn the_mode_is_the_replaced_files_or_the_given_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("file"), folder.path().join("plain"));
        fs::write(&plain, "").unwrap();
        write(&path, Mode::Users, "").unwrap();
        assert_eq!(mode(&path), mode(&plain));
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        write(&path, Mode::Users, "").unwrap();
        assert_eq!(mode(&path), 0o640);
        write(&path, Mode::Exactly(0o755), "").unwrap();
        assert_eq!(mode(&path), 0o755);
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("inner/file", &link).unwrap();
        // At first there is nothing where the link leads to.
        for text in ["first", "second"] {
            write(&link, Mode::Users, text).unwrap();
            assert!(link.is_symlink());
            assert_eq!(fs::read_to_string(inner.join("file")).unwrap(), text);
        }
        let round = folder.path().join("round");
        std::os::unix::fs::symlink("round", &round).unwrap();
        assert!(write(&round, Mode::Users, "").is_err());
    }

    #[test]
    fn a_name_that_no_file_can_have_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str| {
            let created = WholeFile::create(&folder.path().join(name), Mode::Users, false);
            created
                .err()
                .expect("no file can have this name")
                .to_string()
        };
        assert!(refused("").contains("is a folder"));
        refused(&"n".repeat(300));
        refused("..");
        let message = refused("missing/file");
        assert!(message.contains("missing does not exist"), "{message}");
        fs::write(folder.path().join("plain"), "").unwrap();
        refused("plain/file");
    }
}
