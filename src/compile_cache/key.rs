//! The key of a compiled program.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::pjrt::{self, Client, CompileOptions};

/// Changed whenever older entries must not be loaded.
const VERSION: &str = "gemma-xla compile cache 1";
/// Variables with flags that change what plugins compile.
const FLAG_VARIABLES: [&str; 4] = ["XLA_FLAGS", "LIBTPU_INIT_ARGS", "PJRT_NPROC", "NPROC"];

/// A SHA-256 over everything that a compiled program depends on: the serialized module, the compile
/// options, the plugin's build ([`Plugin::fingerprint`](pjrt::Plugin::fingerprint)), platform and
/// kinds of devices, this host's processor where it is the device, and the environment's compiler
/// flags. It prints as hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of a program that `client` compiles.
    ///
    /// # Errors
    /// A plugin file that can no longer be read, options that cannot be encoded.
    pub fn new(
        client: &Client,
        module: &hlo::Module,
        options: &CompileOptions,
    ) -> pjrt::Result<Self> {
        let mut hasher = Hasher::default();
        hasher.part(VERSION.as_bytes());
        hasher.part(&module.serialize());
        hasher.part(&options.with_layouts_of(module).to_bytes()?);
        hasher.part(&client.plugin().fingerprint()?);
        hasher.part(client.platform_name().as_bytes());
        for device in client.devices() {
            hasher.part(device.kind().as_bytes());
        }
        if client.platform_name() == "cpu" {
            hasher.part(processor().as_bytes());
        }
        hasher.flags();
        Ok(Self(hasher.finish()))
    }

    /// The key of something that follows from these parts and from the environment's compiler
    /// flags alone.
    pub(crate) fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::default();
        hasher.part(VERSION.as_bytes());
        parts.iter().for_each(|part| hasher.part(part));
        hasher.flags();
        Self(hasher.finish())
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Hashes a list of parts such that different lists give different input bytes.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The environment's compiler flags.
    fn flags(&mut self) {
        for name in FLAG_VARIABLES {
            let value = std::env::var_os(name).unwrap_or_default();
            self.part(value.as_encoded_bytes());
        }
    }

    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The host's processor: XLA compiles for its instruction set and number of threads, and different
/// machines may share a home folder.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| info.lines().find(|line| line.starts_with(name));
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{} {:?} {:?} {threads}",
        std::env::consts::ARCH,
        line("model name"),
        line("flags")
    )
}
