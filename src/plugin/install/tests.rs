//! Wheels made here stand for the pinned ones: small, and as wrong as each test wants them.

use std::fs::File;

use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use super::*;
use crate::plugin::Platform;

const LIBRARY: &str = "package/library.so";
const CONTENT: &[u8] = b"\x7fELF and more";

/// A folder with a wheel in it, beside a folder for plugins.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    fn wheel(&self, files: &[(&str, &[u8])]) -> PathBuf {
        let path = self.folder.path().join("package-1.0-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, content) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    fn install(&self, pin: &'static Pin, wheel: &Path) -> Result<Installed> {
        let python = Path::new("/no/python/is/needed");
        install_in(&self.plugins(), pin, Some(wheel), python, &mut |_| {})
    }

    /// Every file and folder in the folder for plugins.
    fn left(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.plugins()) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// A pin of this wheel, with a library of [`CONTENT`].
fn pin_of(wheel: &Path) -> Pin {
    Pin {
        name: "small",
        platform: Platform::Cpu,
        package: "package",
        version: "1.0",
        wheel_sha256: sha256(wheel).unwrap().leak(),
        library: LIBRARY,
        library_sha256: hash_of(CONTENT).leak(),
        library_size: CONTENT.len() as u64,
    }
}

fn hash_of(bytes: &[u8]) -> String {
    copy_hashing(&mut &*bytes, &mut std::io::sink())
        .ok()
        .unwrap()
}

fn leak(pin: Pin) -> &'static Pin {
    Box::leak(Box::new(pin))
}

#[test]
fn sha256_is_that_of_the_standard() {
    // The example of FIPS 180-2, appendix B.1.
    assert_eq!(
        hash_of(b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn a_wheel_is_unpacked_to_its_place_and_the_second_time_nothing_is_done() {
    let place = Place::new();
    let wheel = place.wheel(&[("package/__init__.py", b""), (LIBRARY, CONTENT)]);
    let pin = leak(pin_of(&wheel));
    let first = place.install(pin, &wheel).unwrap();
    assert_eq!(first.path, place.plugins().join("small-1.0/library.so"));
    assert!(!first.already);
    assert_eq!(fs::read(&first.path).unwrap(), CONTENT);
    let folder = first.path.parent().unwrap();
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "no other file");

    fs::remove_file(&wheel).unwrap();
    let second = place.install(pin, &wheel).unwrap();
    assert!(second.already);
    assert_eq!(second.path, first.path);
}

#[test]
fn a_damaged_plugin_is_replaced() {
    let place = Place::new();
    let wheel = place.wheel(&[(LIBRARY, CONTENT)]);
    let pin = leak(pin_of(&wheel));
    let path = place.install(pin, &wheel).unwrap().path;
    fs::write(&path, "something else").unwrap();
    let again = place.install(pin, &wheel).unwrap();
    assert!(!again.already);
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
}

#[test]
fn a_wheel_of_another_hash_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let pin = leak(pin_of(&place.wheel(&[(LIBRARY, CONTENT)])));
    let other = place.wheel(&[(LIBRARY, CONTENT), ("more", b"")]);
    let error = place.install(pin, &other).unwrap_err();
    let Error::Hash {
        file,
        expected,
        actual,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(file, &other);
    assert_eq!(*expected, pin.wheel_sha256);
    assert_eq!(*actual, sha256(&other).unwrap());
    let message = error.to_string();
    assert!(message.contains(expected) && message.contains(actual.as_str()));
    assert_eq!(place.left(), [] as [PathBuf; 0]);
}

#[test]
fn a_library_of_another_hash_is_refused_and_leaves_nothing() {
    for content in [&b"\x7fELF and less"[..], b"", &[0; 100]] {
        let place = Place::new();
        let wheel = place.wheel(&[(LIBRARY, content)]);
        let error = place.install(leak(pin_of(&wheel)), &wheel).unwrap_err();
        assert!(
            matches!(&error, Error::Hash { file, .. } if file.ends_with(LIBRARY)),
            "{error}"
        );
        assert_eq!(place.left(), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_wheel_without_the_library_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let wheel = place.wheel(&[("package/other.so", CONTENT)]);
    let message = place
        .install(leak(pin_of(&wheel)), &wheel)
        .unwrap_err()
        .to_string();
    assert!(message.contains(LIBRARY), "{message}");
    assert_eq!(place.left(), [] as [PathBuf; 0]);
}

#[test]
fn a_file_that_is_no_wheel_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let file = place.folder.path().join("notes.txt");
    fs::write(&file, "no zip file").unwrap();
    // Its hash is pinned, so that unpacking is what fails.
    let error = place.install(leak(pin_of(&file)), &file).unwrap_err();
    assert!(matches!(error, Error::Wheel { .. }), "{error}");
    assert_eq!(place.left(), [] as [PathBuf; 0]);
}

#[test]
fn a_wheel_that_is_not_there_is_named() {
    let place = Place::new();
    let pin = leak(pin_of(&place.wheel(&[])));
    let message = place
        .install(pin, Path::new("/no/such.whl"))
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("/no/such.whl: "), "{message}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::new();
    let wheel = place.wheel(&[(LIBRARY, CONTENT)]);
    // A file where the folder should be: this fails for root too.
    fs::write(place.plugins(), "").unwrap();
    let message = place
        .install(leak(pin_of(&wheel)), &wheel)
        .unwrap_err()
        .to_string();
    let named = place.plugins().join("small-1.0");
    assert!(message.starts_with(named.to_str().unwrap()), "{message}");
}

#[test]
fn pips_reason_is_its_last_error_or_else_its_last_line() {
    let output =
        b"Collecting\nERROR: first\nERROR: No matching distribution\n\nhint: see above\n\n";
    assert_eq!(
        last_line(output).as_deref(),
        Some("ERROR: No matching distribution")
    );
    assert_eq!(
        last_line(b"python3: No module named pip\n").as_deref(),
        Some("python3: No module named pip")
    );
    assert_eq!(last_line(b"\n \n"), None);
}
