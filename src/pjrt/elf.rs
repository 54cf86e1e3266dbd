//! Checks of a shared library before it is loaded.
//!
//! The dynamic linker maps what a library's header describes, and a process that touches mapped
//! pages beyond the end of the file is killed: a truncated copy of a plugin would take the process
//! with it. So the header is compared with the file first.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Length of the header of a 64-bit ELF file, and of one of its program headers.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// The type of a program header whose bytes are mapped.
const LOAD: u32 = 1;

/// Reports what is wrong with the file as a shared library for this machine, judged by its headers.
/// Offsets and numbers are those of the ELF-64 object file format.
pub(super) fn check(path: &Path) -> std::io::Result<Result<(), String>> {
    if !cfg!(all(
        target_os = "linux",
        target_pointer_width = "64",
        target_endian = "little"
    )) {
        return Ok(Ok(()));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut header = [0; HEADER];
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"\x7fELF") {
        return Ok(Err("not an ELF file".to_owned()));
    }
    if header.get(4..6) != Some(&[2, 1]) {
        return Ok(Err("not for a 64-bit little-endian machine".to_owned()));
    }
    let machine = number(&header, 18, 2);
    if own_machine().is_some_and(|own| own != machine) {
        return Ok(Err(format!(
            "for another kind of machine (ELF machine {machine})"
        )));
    }
    let offset = number(&header, 32, 8);
    let (size, count) = (number(&header, 54, 2), number(&header, 56, 2));
    if size < PROGRAM_HEADER as u64 {
        return Ok(Err("without program headers".to_owned()));
    }
    if offset > length {
        return Ok(Err("truncated in its headers".to_owned()));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut entry = vec![0; size as usize];
    for _ in 0..count {
        if file.read_exact(&mut entry).is_err() {
            return Ok(Err("truncated in its headers".to_owned()));
        }
        let end = number(&entry, 8, 8).checked_add(number(&entry, 32, 8));
        if number(&entry, 0, 4) == u64::from(LOAD) && end.is_none_or(|end| end > length) {
            return Ok(Err(format!(
                "truncated: {length} bytes, of {} at least",
                end.unwrap_or(u64::MAX)
            )));
        }
    }
    Ok(Ok(()))
}

/// The little-endian number of `size` bytes at `at`; 0 beyond the end, which no caller reads.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let bytes = bytes.get(at..at + size).unwrap_or_default();
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// This machine's number in ELF headers, where known.
fn own_machine() -> Option<u64> {
    if cfg!(target_arch = "x86_64") {
        Some(62)
    } else if cfg!(target_arch = "aarch64") {
        Some(183)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn verdict(bytes: &[u8]) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        check(file.path()).unwrap()
    }

    #[test]
    fn this_very_program_is_well_and_a_cut_of_it_is_not() {
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(verdict(&whole), Ok(()));
        for length in [0, 3, 4, 63, 64, 100, 300, 4096] {
            assert!(verdict(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn headers_of_nonsense_are_refused() {
        let mut header = vec![0xff; 4096];
        assert!(verdict(&header).is_err());
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(verdict(&header).is_err());
        header[18..20].copy_from_slice(&[62, 0]);
        let machine = verdict(&header).unwrap_err();
        assert!(machine.contains("truncated") || machine.contains("machine"));
    }
}
