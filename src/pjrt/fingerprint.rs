//! The identity of a plugin's build.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Length of a SHA-256.
pub(super) const DIGEST: usize = 32;

/// A hash of a plugin's file.
pub(super) type Fingerprint = [u8; DIGEST];

/// The SHA-256 of the SHA-256s of the file's parts, which are hashed in parallel: a plugin has
/// hundreds of megabytes.
pub(super) fn of_file(path: &Path) -> std::io::Result<Fingerprint> {
    const PART: u64 = 16 << 20;
    let parts = std::fs::metadata(path)?.len().div_ceil(PART);
    let hashes = (0..parts)
        .into_par_iter()
        .map(|part| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(part * PART))?;
            let mut hasher = Sha256::new();
            let mut rest = PART;
            let mut buffer = vec![0; 1 << 18];
            while rest > 0 {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                let wanted = usize::try_from(rest).unwrap_or(count).min(count);
                hasher.update(buffer.get(..wanted).unwrap_or_default());
                rest -= wanted as u64;
            }
            Ok(hasher.finalize())
        })
        .collect::<std::io::Result<Vec<_>>>()?;
    let mut whole = Sha256::new();
    hashes.iter().for_each(|hash| whole.update(hash));
    Ok(whole.finalize().into())
}
