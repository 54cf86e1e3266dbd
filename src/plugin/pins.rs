//! The known plugins, each pinned to one build.

use std::fmt;

/// The kind of device that a plugin drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// The processor, through XLA's CPU compiler.
    Cpu,
    /// Google's TPUs.
    Tpu,
    /// NVIDIA's GPUs.
    Cuda,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Platform::Cpu => "cpu",
            Platform::Tpu => "tpu",
            Platform::Cuda => "cuda",
        })
    }
}

/// One build of a plugin: the wheel that holds it and the library in that wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Pin {
    /// What `plugin install` calls it.
    pub name: &'static str,
    /// The kind of device.
    pub platform: Platform,
    /// The package on the Python package index.
    pub package: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// SHA-256 of the wheel for Linux on x86-64 (and CPython 3.12 where wheels differ by that), in
    /// hexadecimal.
    pub wheel_sha256: &'static str,
    /// The library's path inside the wheel.
    pub library: &'static str,
    /// SHA-256 of the library.
    pub library_sha256: &'static str,
    /// Bytes of the library.
    pub library_size: u64,
}

impl Pin {
    /// The pin of that name.
    pub fn named(name: &str) -> Option<&'static Pin> {
        PINS.iter().find(|pin| pin.name == name)
    }

    /// The library's file name.
    pub fn file_name(&self) -> &'static str {
        self.library
            .rsplit_once('/')
            .map_or(self.library, |(_, name)| name)
    }
}

/// The known plugins.
pub const PINS: [Pin; 5] = [
    Pin {
        name: "cpu",
        platform: Platform::Cpu,
        package: "xla-cpu-pjrt",
        version: "0.0.1",
        wheel_sha256: "55837b6b7b47daa717f2d9a5a03563ea0ceaa338d06a81a1e2d3f060d960decc",
        library: "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so",
        library_sha256: "88c3f28c5900f48ad4a82cab9e79bba9537809743395e341485f8794268820dc",
        library_size: 259_284_552,
    },
    Pin {
        name: "cpu-next",
        platform: Platform::Cpu,
        package: "lammps-jax-pjrt-cpu",
        version: "0.11.2",
        wheel_sha256: "1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1",
        library: "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
        library_sha256: "ad1309ac822b1b24d51b7f9947c7c9fa9ef5d67f390584cbc3d1fa2428fed9c2",
        library_size: 201_600_336,
    },
    Pin {
        name: "tpu",
        platform: Platform::Tpu,
        package: "libtpu",
        version: "0.0.52",
        wheel_sha256: "f76ab1f4d697c346371c50058796f6baa93317b89be8cf8a1012715a2655120d",
        library: "libtpu/libtpu.so",
        library_sha256: "f86de4d04a058e6b5101f73e0824b95f27e2cec996d2b9191d9cffda75c03077",
        library_size: 467_479_448,
    },
    Pin {
        name: "cuda12",
        platform: Platform::Cuda,
        package: "jax-cuda12-pjrt",
        version: "0.12.0.1",
        wheel_sha256: "5ec28e06198d094031c37590b4ea753ae8cde4879ab4b60baf40f0dffb673286",
        library: "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
        library_sha256: "921aaa9c635255fb7b7a660d11c8f702c78a70e7f7d005d4f377c2dc5f0fede2",
        library_size: 486_596_368,
    },
    Pin {
        name: "cuda13",
        platform: Platform::Cuda,
        package: "jax-cuda13-pjrt",
        version: "0.12.0.1",
        wheel_sha256: "5899bb6177eda86ea532afb9a26794f2bdd04966f6a01f9028266b16c2b6cf90",
        library: "jax_plugins/xla_cuda13/xla_cuda_plugin.so",
        library_sha256: "b6de513893c09af2c77e71afcef46d9706f8c259337cdef4cd5cae2353886f75",
        library_size: 395_967_648,
    },
];

/// The Python that wheels are requested for, whatever Python the machine has: the library inside
/// does not use it.
pub(super) const PYTHON_VERSION: &str = "3.12";

/// The platform tags that the pinned wheels may carry. pip accepts no range, so each is listed.
pub(super) const PLATFORM_TAGS: [&str; 6] = [
    "manylinux2014_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_31_x86_64",
    "manylinux_2_34_x86_64",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn pins_are_told_apart_by_name_and_carry_whole_hashes() {
        let names: HashSet<_> = PINS.iter().map(|pin| pin.name).collect();
        assert_eq!(names.len(), PINS.len());
        for pin in &PINS {
            for hash in [pin.wheel_sha256, pin.library_sha256] {
                assert_eq!(hash.len(), 64, "{}", pin.name);
                assert!(hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            }
            assert!(pin.file_name().ends_with(".so"));
        }
    }
}
