//! Files whose content is run as machine code: plugins and compiled programs. They are taken only
//! from where no other user can have put or changed them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::whole_file::folder_of;

/// Permission of a group or of all users to write.
const OTHERS_WRITE: u32 = 0o022;
/// Permission of all users to write.
const ALL_WRITE: u32 = 0o002;
/// In a folder with this bit nobody can rename or remove what belongs to another user.
const STICKY: u32 = 0o1000;

/// Why a file is not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// It, or a folder that it is in, belongs to somebody else.
    #[error(
        "{}: belongs to user {owner}, and its content would be run: take a file of your own",
        path.display()
    )]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// The number of the user.
        owner: u32,
    },
    /// It, or a folder that it is in, can be written to by others.
    #[error(
        "{}: other users can write to it, and its content would be run: chmod go-w '{}'",
        path.display(),
        path.display()
    )]
    Writable {
        /// The file or folder.
        path: PathBuf,
    },
    /// It cannot be looked at.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Distrust {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Distrust::Io { path, source }
    }
}

/// Opens a file of machine code. Links are not followed: an entry of a cache is a file.
///
/// # Errors
/// A file or folder that another user owns or can change.
pub(crate) fn open(path: &Path) -> Result<File, Distrust> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(Distrust::io(path))?;
    let metadata = file.metadata().map_err(Distrust::io(path))?;
    if !metadata.is_file() {
        return Err(Distrust::io(path)(io::Error::other("not a regular file")));
    }
    check_owner_and_mode(path, &metadata)?;
    check_folder(folder_of(path))?;
    Ok(file)
}

/// Checks a file of machine code that a library opens by its name, and what its links lead to.
///
/// # Errors
/// As [`open`].
pub(crate) fn check(path: &Path) -> Result<(), Distrust> {
    let target = path.canonicalize().map_err(Distrust::io(path))?;
    for path in [path, &target] {
        let metadata = path.metadata().map_err(Distrust::io(path))?;
        if !metadata.is_file() {
            return Err(Distrust::io(path)(io::Error::other("not a regular file")));
        }
        check_owner_and_mode(path, &metadata)?;
        check_folder(folder_of(path))?;
    }
    Ok(())
}

/// Checks a folder of machine code, and that nobody can put another in the place of one above it.
///
/// # Errors
/// As [`open`].
pub(crate) fn check_folder(folder: &Path) -> Result<(), Distrust> {
    let folder = folder.canonicalize().map_err(Distrust::io(folder))?;
    let metadata = folder.metadata().map_err(Distrust::io(&folder))?;
    check_owner_and_mode(&folder, &metadata)?;
    for above in folder.ancestors().skip(1) {
        let metadata = above.metadata().map_err(Distrust::io(above))?;
        if metadata.mode() & ALL_WRITE != 0 && metadata.mode() & STICKY == 0 {
            return Err(Distrust::Writable {
                path: above.to_path_buf(),
            });
        }
    }
    Ok(())
}

fn check_owner_and_mode(path: &Path, metadata: &Metadata) -> Result<(), Distrust> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(Distrust::Owner {
            path: path.to_path_buf(),
            owner: metadata.uid(),
        });
    }
    let is_sticky_folder = metadata.is_dir() && metadata.mode() & STICKY != 0;
    if metadata.mode() & OTHERS_WRITE != 0 && !is_sticky_folder {
        return Err(Distrust::Writable {
            path: path.to_path_buf(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_write_to_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("program");
        fs::write(&file, "code").unwrap();
        let both = |expected: Option<&Path>| {
            for found in [open(&file).map(drop), check(&file)] {
                match (found, expected) {
                    (Ok(()), None) => {}
                    (Err(error @ Distrust::Writable { .. }), Some(path)) => {
                        let message = error.to_string();
                        let command = format!("chmod go-w '{}'", path.display());
                        assert!(message.ends_with(&command), "{message}");
                    }
                    (found, _) => panic!("{found:?}, expected {expected:?}"),
                }
            }
        };
        set_mode(&inner, 0o755);
        set_mode(&file, 0o644);
        both(None);
        for mode in [0o664, 0o646] {
            set_mode(&file, mode);
            both(Some(&file));
        }
        set_mode(&file, 0o600);
        for mode in [0o775, 0o757] {
            set_mode(&inner, mode);
            both(Some(&inner.canonicalize().unwrap()));
        }
        set_mode(&inner, 0o700);
        set_mode(folder.path(), 0o777);
        both(Some(&folder.path().canonicalize().unwrap()));
        // As /tmp is.
        set_mode(folder.path(), 0o1777);
        both(None);
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        fs::write(&file, "code").unwrap();
        // Only root can give a file away.
        if std::os::unix::fs::chown(&file, Some(12_345), None).is_ok() {
            for found in [open(&file).map(drop), check(&file)] {
                let message = found.unwrap_err().to_string();
                assert!(message.contains("belongs to user 12345"), "{message}");
            }
        }
    }

    #[test]
    fn a_link_is_not_opened_and_what_it_leads_to_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        fs::write(&file, "code").unwrap();
        set_mode(&file, 0o666);
        let link = folder.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(matches!(open(&link), Err(Distrust::Io { .. })));
        assert!(matches!(check(&link), Err(Distrust::Writable { .. })));
        let none = open(&folder.path().join("none"));
        assert!(matches!(none, Err(Distrust::Io { .. })));
    }
}
