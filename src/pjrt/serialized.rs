//! The format in which compiled programs are stored outside of the process.
//!
//! A plugin loads bytes that it once serialized and runs the machine code in them. It checks
//! little: bytes of another build may give a program that computes wrongly, and damaged bytes end
//! the process. So the bytes are stored behind a header with the plugin's fingerprint and a
//! checksum, and only complete ones of the same build reach the plugin. That guards against
//! accidents. Whoever can write the bytes can still run code in this process.

use sha2::{Digest, Sha256};

use super::error::{Error, Result};
use super::fingerprint::{DIGEST, Fingerprint};

const MAGIC: &[u8] = b"gemma-xla PJRT program 1\n";

/// A serialized executable that may be run in this process.
///
/// Loading one runs the machine code in it. What can be checked has been: the bytes are complete
/// and come from a known build of the plugin. The checksum is not a signature, though. The rest
/// depends on the folder that the bytes were read from: everyone who can write there must be
/// allowed to run code as the user. That holds for the user's own cache folder, and for a folder
/// that the user names as one of executables to run.
pub(crate) struct CheckedExecutable<'a> {
    payload: &'a [u8],
    plugin: Fingerprint,
}

impl<'a> CheckedExecutable<'a> {
    /// Checks bytes that were read from a trusted folder (see the type), for a build of a plugin.
    ///
    /// # Errors
    /// [`Error::SerializedProgram`] where the bytes are damaged or of another build.
    pub(crate) fn from_trusted_folder(plugin: &Fingerprint, bytes: &'a [u8]) -> Result<Self> {
        Ok(Self {
            payload: unwrap(plugin, bytes)?,
            plugin: *plugin,
        })
    }

    /// The plugin's bytes, where it is the build that they were checked for.
    pub(super) fn payload_for(&self, plugin: &Fingerprint) -> Result<&'a [u8]> {
        if self.plugin != *plugin {
            return Err(Error::SerializedProgram {
                reason: ANOTHER_BUILD,
            });
        }
        Ok(self.payload)
    }
}

const ANOTHER_BUILD: &str = "it was made by another build of the plugin";

/// `payload` behind its header.
pub(super) fn wrap(plugin: &Fingerprint, payload: &[u8]) -> Vec<u8> {
    let checksum = checksum(plugin, payload);
    [MAGIC, plugin, &checksum, payload].concat()
}

/// The payload behind the header, if it is complete and of this plugin.
pub(super) fn unwrap<'a>(plugin: &Fingerprint, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let bad = |reason| Error::SerializedProgram { reason };
    let (found, rest) = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_first_chunk::<DIGEST>())
        .ok_or(bad("it is not one, or is truncated"))?;
    let (stated, payload) = rest
        .split_first_chunk::<DIGEST>()
        .ok_or(bad("it is truncated"))?;
    if *stated != checksum(found, payload) {
        return Err(bad("it is damaged: its checksum differs"));
    }
    if found != plugin {
        return Err(bad(ANOTHER_BUILD));
    }
    Ok(payload)
}

fn checksum(plugin: &Fingerprint, payload: &[u8]) -> Fingerprint {
    let mut hasher = Sha256::new();
    hasher.update(plugin);
    hasher.update(payload);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUGIN: Fingerprint = [7; DIGEST];

    fn reason(bytes: &[u8]) -> &'static str {
        match unwrap(&PLUGIN, bytes) {
            Err(Error::SerializedProgram { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_wrapped_comes_back() {
        for payload in [&b""[..], b"program", &[0; 1000]] {
            let wrapped = wrap(&PLUGIN, payload);
            assert_eq!(unwrap(&PLUGIN, &wrapped), Ok(payload));
        }
    }

    #[test]
    fn any_change_and_any_cut_is_noticed() {
        let whole = wrap(&PLUGIN, b"some program");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(unwrap(&PLUGIN, &damaged).is_err(), "byte {at}");
            assert!(unwrap(&PLUGIN, &whole[..at]).is_err(), "{at} bytes");
        }
        let longer = [whole.as_slice(), b"\0"].concat();
        assert!(reason(&longer).contains("damaged"));
    }

    #[test]
    fn another_builds_program_is_told_from_a_damaged_one() {
        let other = wrap(&[8; DIGEST], b"some program");
        assert!(reason(&other).contains("another build"));
        assert!(reason(b"what the plugin itself gave").contains("not one"));
    }
}
