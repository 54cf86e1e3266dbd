//! PJRT plugins: which are known, where they are, how they are installed, and whether they work.
//!
//! Plugins are shared libraries of hundreds of megabytes that others build and publish on the
//! Python package index. The ones known here are pinned: see [`PINS`]. [`install()`] downloads one
//! and checks it; [`find`] returns the file for a device; [`doctor`] tests one.

mod doctor;
mod error;
mod find;
mod folder;
mod hardware;
mod install;
mod pins;
mod verified;

pub use crate::trusted::Distrust;
pub use doctor::{Check, Report, Verdict, doctor};
pub use error::{Error, Result};
pub use find::{Located, find, locate};
pub use folder::{Listed, State, folder, list};
pub use hardware::{has_nvidia_gpu, tpu_chips};
pub use install::{InstallOptions, Installed, Step, install};
pub use pins::{PINS, Pin, Platform};

/// Variables that libtpu needs in its environment to compile on a machine without a TPU: without
/// them it queries a metadata server for minutes, and keeps other processes from loading it. On a
/// machine with a TPU they must not be set.
pub const TPU_COMPILE_VARIABLES: [(&str, &str); 5] = [
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_WORKER_ID", "0"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
];

/// The environment that libtpu needs, before it is loaded, in a process that only compiles: all of
/// [`TPU_COMPILE_VARIABLES`] where there is no TPU, otherwise only the permission to be loaded
/// beside the process that uses the TPU.
pub fn tpu_compile_environment() -> &'static [(&'static str, &'static str)] {
    if tpu_chips() == 0 {
        &TPU_COMPILE_VARIABLES
    } else {
        &[("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")]
    }
}
