//! Whether what a program needs fits into the memory of this machine, before it is asked for: an
//! allocation that fails ends the process without a word.

use rustix::process::{Resource, getrlimit};

use super::devices::Devices;
use super::error::{Error, Result};
use super::program_key::ProgramKey;
use crate::dtype::DType;
use crate::model::ModelSpec;
use crate::model::programs::Caches;
use crate::pjrt::{CompiledMemoryStats, MemoryStats};
use crate::proc_file::kibibytes;

/// What Linux says of the machine's memory and of the limits of this process's group.
const MEMORY_INFO: &str = "/proc/meminfo";
const GROUP_LIMIT: &str = "/sys/fs/cgroup/memory.max";
const GROUP_USE: &str = "/sys/fs/cgroup/memory.current";
const GROUP_STATISTICS: &str = "/sys/fs/cgroup/memory.stat";
const PROCESS_STATUS: &str = "/proc/self/status";
/// What `ulimit -v` and `ulimit -d` set, and the field of the process's status with what counts.
const LIMITS: [(Resource, &str); 2] = [(Resource::As, "VmSize:"), (Resource::Data, "VmData:")];

/// Whether the parameters are on the devices already, where they count as used memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameters {
    /// They are still to be read.
    Expected,
    /// They are there.
    Loaded,
}

/// Checks that the parameters fit into the memory of the devices.
///
/// # Errors
/// [`Error::Memory`] where they do not.
pub(super) fn check_parameters(spec: &ModelSpec, devices: &Devices) -> Result<()> {
    let bytes = spec.parameter_bytes() as u64;
    let advice = |_: u64| match spec.compute {
        DType::F32 => format!(
            "in bfloat16 they need {:.1} GB; or take fewer devices",
            bytes as f64 / 2e9
        ),
        _ => "take a smaller model, or fewer devices".to_owned(),
    };
    check("the parameters", Need::on_devices(bytes), devices, advice)
}

/// Checks that caches of this size fit, before they are made.
///
/// # Errors
/// [`Error::Memory`] where they do not.
pub(super) fn check_caches(
    rows: usize,
    length: usize,
    parameters: Parameters,
    spec: &ModelSpec,
    devices: &Devices,
) -> Result<()> {
    let bytes = spec.cache_bytes(rows, length) as u64;
    let need = Need {
        // They are zeros of the host first.
        host: if devices.share_host_memory() {
            0
        } else {
            bytes
        },
        ..Need::on_devices(bytes)
    };
    let (what, need) = with_parameters("the caches", need, parameters, spec);
    check(&what, need, devices, |free| {
        what_fits(rows, length, free, bytes)
    })
}

/// Checks that a program's inputs and results fit, and what it needs while it runs, which the
/// compiler says.
///
/// # Errors
/// [`Error::Memory`] where they do not.
pub(super) fn check_program(
    key: ProgramKey,
    module: &hlo::Module,
    compiled: Option<&CompiledMemoryStats>,
    parameters: Parameters,
    spec: &ModelSpec,
    devices: &Devices,
) -> Result<()> {
    let bytes = |shapes: &[hlo::Shape]| -> u64 {
        let sizes = shapes.iter().map(|shape| shape.byte_size() as u64);
        sizes.fold(0, u64::saturating_add)
    };
    let inputs = bytes(
        module
            .parameters()
            .get(spec.parameters.len()..)
            .unwrap_or_default(),
    );
    let results = bytes(std::slice::from_ref(module.result_shape()));
    // Caches that are updated are in both, and in the same memory. Once parameters are loaded, the
    // caches have been made before the program that updates them.
    let made = match (parameters, key.caches()) {
        (Parameters::Loaded, Caches::Updated { rows, length }) => spec.cache_bytes(rows, length),
        _ => 0,
    };
    let arrays = inputs.max(results).saturating_sub(made as u64);
    let need = Need {
        device: arrays.saturating_add(compiled.map_or(0, beside_arrays)),
        host: table_bytes(spec, key.positions()),
    };
    let what = match compiled {
        Some(_) => format!(
            "the caches, tables and temporaries of program '{}'",
            key.name()
        ),
        None => format!("the caches and tables of program '{}'", key.name()),
    };
    let (what, with_parameters) = with_parameters(&what, need, parameters, spec);
    let size = |names: &[&str]| {
        let sizes = key.sizes().into_iter();
        let mut sizes = sizes.filter(|(name, _)| names.contains(name));
        sizes.next().map_or(1, |(_, size)| size)
    };
    let each = need.total(devices);
    check(&what, with_parameters, devices, |free| {
        what_fits(size(&["rows", "batch"]), key.positions(), free, each)
    })
}

/// What a program needs beside its inputs and results.
fn beside_arrays(stats: &CompiledMemoryStats) -> u64 {
    let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
    bytes(stats.temporaries).saturating_add(bytes(stats.generated_code))
}

/// While tables of rotary embeddings are made, the host has them twice.
fn table_bytes(spec: &ModelSpec, positions: usize) -> u64 {
    let ropes = spec.gemma.spec().ropes.iter();
    let tables = ropes.map(|rope| 2 * 4 * (rope.head_dim / 2) as u64 * positions as u64);
    tables.fold(0, u64::saturating_add).saturating_mul(2)
}

/// The need with the parameters, where they are not loaded yet.
fn with_parameters(
    what: &str,
    need: Need,
    parameters: Parameters,
    spec: &ModelSpec,
) -> (String, Need) {
    match parameters {
        Parameters::Loaded => (what.to_owned(), need),
        Parameters::Expected => (
            format!("the parameters, with {what},"),
            Need {
                device: need.device.saturating_add(spec.parameter_bytes() as u64),
                ..need
            },
        ),
    }
}

/// Bytes of each device, and of the host besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    device: u64,
    host: u64,
}

impl Need {
    fn on_devices(device: u64) -> Self {
        Self { device, host: 0 }
    }

    /// Of the host's memory where the devices share it, else of one device's.
    fn total(self, devices: &Devices) -> u64 {
        match devices.share_host_memory() {
            true => self
                .device
                .saturating_mul(devices.local().len() as u64)
                .saturating_add(self.host),
            false => self.device,
        }
    }
}

/// Holds a need against the memory that there is. `advice` is told how many bytes too many it is.
fn check(what: &str, need: Need, devices: &Devices, advice: impl Fn(u64) -> String) -> Result<()> {
    if devices.share_host_memory() {
        return hold(what, need.total(devices), available(), "available", advice);
    }
    for replica in devices.local() {
        // A plugin need not know; what then fails is its allocation, with an error.
        let free = replica
            .device
            .memory_stats()
            .ok()
            .flatten()
            .and_then(free_on);
        hold(what, need.device, free, "free on a device", &advice)?;
    }
    hold(what, need.host, available(), "available", advice)
}

/// What a device has left.
fn free_on(stats: MemoryStats) -> Option<u64> {
    let free = stats.bytes_limit?.checked_sub(stats.bytes_in_use)?;
    u64::try_from(free).ok()
}

fn hold(
    what: &str,
    needed: u64,
    available: Option<u64>,
    place: &'static str,
    advice: impl Fn(u64) -> String,
) -> Result<()> {
    match available {
        Some(available) if needed > available => Err(Error::Memory {
            what: what.to_owned(),
            needed,
            available,
            place,
            advice: advice(needed - available),
        }),
        _ => Ok(()),
    }
}

/// What would fit of `bytes` for so many rows and positions, which are `excess` too many. All of
/// them grow with both.
fn what_fits(rows: usize, positions: usize, excess: u64, bytes: u64) -> String {
    let share = bytes.saturating_sub(excess) as f64 / bytes.max(1) as f64;
    let fitting = |count: usize| (count as f64 * share) as usize;
    let rows_that_fit = match fitting(rows) {
        count if count >= 1 && rows > 1 => {
            format!("about {count} of {rows} rows (batch_size) would fit, or ")
        }
        _ => String::new(),
    };
    match fitting(positions) {
        0 => "nothing is left for them: take a smaller dtype, or fewer devices".to_owned(),
        count => {
            format!(
                "{rows_that_fit}about {count} of {positions} positions \
             (prompt and max_new_tokens)"
            ) + if rows_that_fit.is_empty() {
                " would fit"
            } else {
                ""
            }
        }
    }
}

/// The bytes that this process can still have, where the system says.
fn available() -> Option<u64> {
    let read = |file| std::fs::read_to_string(file).ok();
    let machine = read(MEMORY_INFO).and_then(|text| of_machine(&text));
    let number = |file| read(file)?.trim().parse::<u64>().ok();
    let used = number(GROUP_USE).unwrap_or_default();
    let cached = read(GROUP_STATISTICS).map_or(0, |text| of_files(&text));
    let group = number(GROUP_LIMIT).map(|limit| limit.saturating_sub(used.saturating_sub(cached)));
    let status = read(PROCESS_STATUS).unwrap_or_default();
    let limits = LIMITS.map(|(limit, used)| {
        let used = kibibytes(&status, used).unwrap_or_default();
        Some(getrlimit(limit).current?.saturating_sub(used))
    });
    [machine, group].into_iter().chain(limits).flatten().min()
}

/// What can be had without swapping, and what can be swapped.
fn of_machine(text: &str) -> Option<u64> {
    let swap = kibibytes(text, "SwapFree:").unwrap_or_default();
    Some(kibibytes(text, "MemAvailable:")?.saturating_add(swap))
}

/// What a group uses for copies of files, which gives way.
fn of_files(statistics: &str) -> u64 {
    let fields = statistics.lines().filter_map(|line| line.split_once(' '));
    let files = fields.filter(|(name, _)| matches!(*name, "inactive_file" | "active_file"));
    let bytes = files.filter_map(|(_, bytes)| bytes.parse::<u64>().ok());
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_memory_and_swap() {
        let text = "MemTotal:  100 kB\nMemAvailable:   40 kB\nSwapFree: 2 kB\n";
        assert_eq!(of_machine(text), Some(42 * 1024));
        assert_eq!(of_machine("MemTotal: 1 kB\n"), None);
        assert_eq!(of_files("anon 5\ninactive_file 2\nactive_file 4\nx\n"), 6);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures_and_what_would() {
        let advice = |excess| what_fits(8, 1000, excess, 4_000_000_000);
        let refused = |needed, available| {
            hold("the caches", needed, Some(available), "available", advice)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(5_000_000_000, 4_000_000_000),
            "the caches need 5.0 GB of memory, and 4.0 GB are available: about 6 of 8 rows \
             (batch_size) would fit, or about 750 of 1000 positions (prompt and max_new_tokens)"
        );
        assert!(
            refused(9_000_000_000, 4_000_000_000).ends_with("a smaller dtype, or fewer devices")
        );
        hold("what fits", 4, Some(4), "available", advice).unwrap();
        // Not every system says what there is.
        hold("anything", u64::MAX, None, "available", advice).unwrap();
        assert_eq!(
            what_fits(1, 1000, 1, 2),
            "about 500 of 1000 positions (prompt and max_new_tokens) would fit"
        );
    }

    #[test]
    fn a_device_has_left_what_is_not_in_use() {
        let stats = |limit, used| MemoryStats {
            bytes_limit: limit,
            bytes_in_use: used,
            ..MemoryStats::default()
        };
        assert_eq!(free_on(stats(Some(16), 6)), Some(10));
        assert_eq!(free_on(stats(None, 6)), None);
        assert_eq!(free_on(stats(Some(6), 16)), None);
    }

    #[test]
    fn temporaries_and_code_count_beside_inputs_and_results() {
        let stats = CompiledMemoryStats {
            temporaries: 3,
            generated_code: 4,
            arguments: 100,
            ..CompiledMemoryStats::default()
        };
        assert_eq!(beside_arrays(&stats), 7);
        let negative = CompiledMemoryStats {
            temporaries: -1,
            ..CompiledMemoryStats::default()
        };
        assert_eq!(beside_arrays(&negative), 0);
    }
}
