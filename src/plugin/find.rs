//! From the name of a device to the file of a plugin.

use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::folder::{State, folder_from};
use super::hardware::tpu_chips;
use super::pins::{Pin, Platform};
use super::verified;
use crate::cache_dir::{Variables, process_variables};
use crate::pjrt::{PluginFile, Provenance};
use crate::trusted;

/// A plugin's file, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Located {
    /// The shared library, and how it was chosen.
    #[serde(flatten)]
    pub file: PluginFile,
    /// The kind of device, where that is known before loading.
    pub platform: Option<Platform>,
    /// The pinned build that the file was installed as, where it is one.
    pub pin: Option<&'static Pin>,
}

impl Located {
    /// The path of the shared library.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The same, once no other user can have changed the file, and where it is a pinned build, it
    /// is that build.
    ///
    /// # Errors
    /// [`Error::Untrusted`] and [`Error::Changed`].
    pub fn checked(self) -> Result<Self> {
        trusted::check(self.path())?;
        if let Some(pin) = self.pin {
            verified::check(self.path(), pin)?;
        }
        Ok(self)
    }
}

/// A name that `--device` takes.
struct DeviceName {
    name: &'static str,
    platform: Platform,
    /// Variables that name its plugin, in order of precedence.
    variables: &'static [&'static str],
    /// Its plugins, by preference.
    pins: &'static [&'static str],
    /// What to install where none is found.
    install: &'static str,
}

const CUDA_VARIABLES: &[&str] = &["GEMMA_XLA_PLUGIN_CUDA"];

/// The documented ones first, then those of single pins.
const DEVICES: [DeviceName; 6] = [
    DeviceName {
        name: "cpu",
        platform: Platform::Cpu,
        variables: &["GEMMA_XLA_PLUGIN_CPU"],
        pins: &["cpu"],
        install: "cpu",
    },
    DeviceName {
        name: "tpu",
        platform: Platform::Tpu,
        variables: &["GEMMA_XLA_PLUGIN_TPU", "TPU_LIBRARY_PATH"],
        pins: &["tpu"],
        install: "tpu",
    },
    DeviceName {
        name: "cuda",
        platform: Platform::Cuda,
        variables: CUDA_VARIABLES,
        pins: &["cuda13", "cuda12"],
        install: "cuda13",
    },
    DeviceName {
        name: "cuda12",
        platform: Platform::Cuda,
        variables: CUDA_VARIABLES,
        pins: &["cuda12"],
        install: "cuda12",
    },
    DeviceName {
        name: "cuda13",
        platform: Platform::Cuda,
        variables: CUDA_VARIABLES,
        pins: &["cuda13"],
        install: "cuda13",
    },
    DeviceName {
        name: "cpu-next",
        platform: Platform::Cpu,
        variables: &["GEMMA_XLA_PLUGIN_CPU_NEXT"],
        pins: &["cpu-next"],
        install: "cpu-next",
    },
];

/// The plugin to run on `device` with: `cpu`, `tpu`, `cuda`, or a plugin's path.
///
/// # Errors
/// As [`locate`]; and [`Error::NoTpu`] where a TPU is asked for and there is none, which libtpu
/// itself would take minutes to detect.
pub fn find(device: &str) -> Result<Located> {
    let located = locate(device)?.checked()?;
    if located.platform == Some(Platform::Tpu) && tpu_chips() == 0 {
        return Err(Error::NoTpu);
    }
    Ok(located)
}

/// The plugin of `device`, whether or not this machine has such a device: first what the
/// environment names (`GEMMA_XLA_PLUGIN_CPU`, `…_TPU`, `…_CUDA`, and `TPU_LIBRARY_PATH`), then what
/// is installed, then, for a TPU, where the system may have it.
///
/// # Errors
/// Where the name is unknown, nothing is installed (the error names the command that installs it),
/// or a path does not exist.
pub fn locate(device: &str) -> Result<Located> {
    locate_from(device, &process_variables, &system_libtpus)
}

fn locate_from(
    device: &str,
    variables: Variables,
    system_libtpus: &dyn Fn() -> Vec<PathBuf>,
) -> Result<Located> {
    let Some(name) = DEVICES.iter().find(|known| known.name == device) else {
        return given(device);
    };
    for &variable in name.variables {
        if let Some(path) = variables(variable).map(PathBuf::from) {
            return Ok(Located {
                file: PluginFile::new(existing(path, variable)?, Provenance::Variable(variable)),
                platform: Some(name.platform),
                pin: None,
            });
        }
    }
    let mut damaged = None;
    let folder = folder_from(variables)?;
    for pin in name.pins.iter().filter_map(|pin| Pin::named(pin)) {
        let path = pin.path_in(&folder);
        match pin.state_in(&folder) {
            State::Installed => {
                return Ok(Located {
                    file: PluginFile::new(path, Provenance::Folder),
                    platform: Some(name.platform),
                    pin: Some(pin),
                });
            }
            State::Damaged { size } => {
                damaged = damaged.or(Some(Error::Damaged {
                    path,
                    name: pin.name,
                    expected: pin.library_size,
                    actual: size,
                }));
            }
            State::Missing => {}
        }
    }
    if let Some(error) = damaged {
        return Err(error);
    }
    if name.platform == Platform::Tpu
        && let Some(path) = system_libtpus().into_iter().find(|path| path.is_file())
    {
        return Ok(Located {
            file: PluginFile::new(path, Provenance::System),
            platform: Some(Platform::Tpu),
            pin: None,
        });
    }
    Err(Error::NotInstalled {
        device: device.to_owned(),
        install: name.install,
    })
}

/// A device that is not one of the names: a path, if it looks like one.
fn given(device: &str) -> Result<Located> {
    let path = Path::new(device);
    let looks_like_one = device.contains('/') || device.contains(".so");
    if !looks_like_one && !path.is_file() {
        return Err(Error::UnknownDevice {
            device: device.to_owned(),
        });
    }
    // libtpu is recognized by its name, so that it does not search for a TPU where there is none.
    let is_libtpu = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("libtpu"));
    Ok(Located {
        file: PluginFile::new(existing(path.to_owned(), "--device")?, Provenance::Given),
        platform: is_libtpu.then_some(Platform::Tpu),
        pin: None,
    })
}

fn existing(path: PathBuf, named_by: &str) -> Result<PathBuf> {
    match path.metadata() {
        Ok(_) => Ok(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::FileMissing {
            path,
            named_by: named_by.to_owned(),
        }),
        Err(source) => Err(Error::Io { path, source }),
    }
}

/// The paths where TPU machines and Python packages put libtpu.
fn system_libtpus() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["/lib", "/usr/lib", "/usr/local/lib"]
        .iter()
        .map(|folder| Path::new(folder).join("libtpu.so"))
        .collect();
    let user = process_variables("HOME").map(|home| Path::new(&home).join(".local/lib"));
    for lib in user.into_iter().chain([PathBuf::from("/usr/local/lib")]) {
        let Ok(entries) = lib.read_dir() else {
            continue;
        };
        for python in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            for packages in ["site-packages", "dist-packages"] {
                found.push(python.join(packages).join("libtpu/libtpu.so"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with the environment that makes it the folder for plugins.
    struct Machine {
        folder: tempfile::TempDir,
        set: Vec<(&'static str, PathBuf)>,
        system: Vec<PathBuf>,
    }

    impl Machine {
        fn new() -> Machine {
            Machine {
                folder: tempfile::tempdir().unwrap(),
                set: Vec::new(),
                system: Vec::new(),
            }
        }

        fn file(&self, name: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, "").unwrap();
            path
        }

        /// A file of the pinned size (all holes) where the pin is looked for.
        fn install(&self, name: &str, size: impl Fn(u64) -> u64) -> PathBuf {
            let pin = Pin::named(name).unwrap();
            let path = pin.path_in(self.folder.path());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = fs::File::create(&path).unwrap();
            file.set_len(size(pin.library_size)).unwrap();
            path
        }

        fn locate(&self, device: &str) -> Result<Located> {
            let variables = |name: &str| {
                if name == "GEMMA_XLA_PLUGINS" {
                    return Some(self.folder.path().into());
                }
                let (_, value) = self.set.iter().find(|(set, _)| *set == name)?;
                Some(value.into())
            };
            locate_from(device, &variables, &|| self.system.clone())
        }
    }

    #[test]
    fn without_a_plugin_the_error_names_the_command_that_installs_it() {
        let machine = Machine::new();
        for (device, command) in [
            ("cpu", "gemma-xla plugin install cpu"),
            ("tpu", "gemma-xla plugin install tpu"),
            ("cuda", "gemma-xla plugin install cuda13"),
            ("cpu-next", "gemma-xla plugin install cpu-next"),
        ] {
            let message = machine.locate(device).unwrap_err().to_string();
            assert!(message.contains(&format!("`{command}`")), "{message}");
        }
    }

    #[test]
    fn the_environment_comes_before_what_is_installed() {
        let mut machine = Machine::new();
        let installed = machine.install("cpu", |size| size);
        assert_eq!(machine.locate("cpu").unwrap().path(), installed);
        let other = machine.file("other.so");
        machine.set.push(("GEMMA_XLA_PLUGIN_CPU", other.clone()));
        let located = machine.locate("cpu").unwrap();
        assert_eq!(located.path(), other);
        assert_eq!(
            located.file.provenance(),
            Provenance::Variable("GEMMA_XLA_PLUGIN_CPU")
        );
        assert_eq!(located.pin, None);
    }

    #[test]
    fn a_variable_that_leads_nowhere_is_named() {
        let mut machine = Machine::new();
        machine.install("cpu", |size| size);
        machine
            .set
            .push(("GEMMA_XLA_PLUGIN_CPU", "/no/such/plugin.so".into()));
        assert_eq!(
            machine.locate("cpu").unwrap_err().to_string(),
            "/no/such/plugin.so: no such file, named by GEMMA_XLA_PLUGIN_CPU"
        );
    }

    #[test]
    fn libtpu_is_looked_for_in_its_own_variable_then_installed_then_in_the_system() {
        let mut machine = Machine::new();
        let system = machine.file("system-libtpu.so");
        machine.system = vec!["/no/such/libtpu.so".into(), system.clone()];
        assert_eq!(machine.locate("tpu").unwrap().path(), system);
        let installed = machine.install("tpu", |size| size);
        assert_eq!(machine.locate("tpu").unwrap().path(), installed);
        let own = machine.file("own-libtpu.so");
        machine.set.push(("TPU_LIBRARY_PATH", own.clone()));
        assert_eq!(machine.locate("tpu").unwrap().path(), own);
        let named = machine.file("named-libtpu.so");
        machine.set.push(("GEMMA_XLA_PLUGIN_TPU", named.clone()));
        assert_eq!(machine.locate("tpu").unwrap().path(), named);
    }

    #[test]
    fn cuda_is_whichever_is_installed_the_newer_first() {
        let machine = Machine::new();
        let twelve = machine.install("cuda12", |size| size);
        assert_eq!(machine.locate("cuda").unwrap().path(), twelve);
        let thirteen = machine.install("cuda13", |size| size);
        assert_eq!(machine.locate("cuda").unwrap().path(), thirteen);
        assert_eq!(machine.locate("cuda12").unwrap().path(), twelve);
    }

    #[test]
    fn a_truncated_plugin_is_damaged_and_the_error_says_how_to_mend_it() {
        let machine = Machine::new();
        let path = machine.install("cpu", |size| size - 1);
        let message = machine.locate("cpu").unwrap_err().to_string();
        assert!(
            message.starts_with(&path.display().to_string()),
            "{message}"
        );
        assert!(
            message.contains("gemma-xla plugin install cpu"),
            "{message}"
        );
    }

    #[test]
    fn a_path_stands_for_itself_and_must_exist() {
        let machine = Machine::new();
        let path = machine.file("some_plugin.so");
        let located = machine.locate(path.to_str().unwrap()).unwrap();
        assert_eq!(
            (located.path(), located.file.provenance()),
            (path.as_path(), Provenance::Given)
        );
        assert_eq!(
            machine.locate("/no/such.so").unwrap_err().to_string(),
            "/no/such.so: no such file, named by --device"
        );
        assert!(matches!(
            machine.locate("gpu"),
            Err(Error::UnknownDevice { .. })
        ));
    }

    #[test]
    fn libtpu_given_by_path_is_known_as_a_tpus() {
        let machine = Machine::new();
        let path = machine.file("libtpu.so");
        let located = machine.locate(path.to_str().unwrap()).unwrap();
        assert_eq!(located.platform, Some(Platform::Tpu));
    }
}
