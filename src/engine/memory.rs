//! Whether what a program needs fits into the memory of this machine, before it is asked for: an
//! allocation that fails ends the process without a word.

use super::devices::Devices;
use super::error::{Error, Result};
use crate::model::ModelSpec;

/// What Linux says of the machine's memory and of the limits of this process's group.
const MEMORY_INFO: &str = "/proc/meminfo";
const GROUP_LIMIT: &str = "/sys/fs/cgroup/memory.max";
const GROUP_USE: &str = "/sys/fs/cgroup/memory.current";
const GROUP_STATISTICS: &str = "/sys/fs/cgroup/memory.stat";

/// Checks that the parameters fit where they share the host's memory.
///
/// # Errors
/// [`Error::Memory`] where they do not.
pub(super) fn check_parameters(spec: &ModelSpec, devices: &Devices) -> Result<()> {
    if !devices.share_host_memory() {
        return Ok(());
    }
    let each = spec.parameter_bytes() as u64;
    let needed = each.saturating_mul(devices.local().len() as u64);
    check("the parameters", needed, || {
        "take a smaller dtype, or fewer devices".to_owned()
    })
}

/// Checks that a program's inputs and results fit, its parameters apart, which are loaded. On a
/// device with memory of its own only the tables are held against the host's.
///
/// # Errors
/// [`Error::Memory`] where they do not.
pub(super) fn check_program(
    module: &hlo::Module,
    positions: usize,
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
    // While they are made, the host has the tables twice besides.
    let ropes = spec.gemma.spec().ropes.iter();
    let tables = ropes.map(|rope| 2 * 4 * (rope.head_dim / 2) as u64 * positions as u64);
    let tables = tables.fold(0, u64::saturating_add).saturating_mul(2);
    let on_devices = match devices.share_host_memory() {
        // Caches that are updated are in both, and in the same memory.
        true => inputs.max(results),
        false => 0,
    };
    let needed = on_devices
        .saturating_mul(devices.local().len() as u64)
        .saturating_add(tables);
    check(
        &format!("the caches and tables of program '{}'", module.name()),
        needed,
        || {
            "take fewer new tokens (max_new_tokens), shorter prompts, or fewer rows (batch_size)"
                .to_owned()
        },
    )
}

fn check(what: &str, needed: u64, advice: impl Fn() -> String) -> Result<()> {
    match available() {
        Some(available) if needed > available => Err(Error::Memory {
            what: what.to_owned(),
            needed,
            available,
            advice: advice(),
        }),
        _ => Ok(()),
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
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

/// What can be had without swapping, and what can be swapped.
fn of_machine(text: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(field("MemAvailable:")?.saturating_add(field("SwapFree:").unwrap_or_default()))
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
    fn what_does_not_fit_is_refused_with_both_figures() {
        let error = check("the caches", u64::MAX, || "take less".to_owned());
        // Not every system says what there is.
        if let Err(error) = error {
            let message = error.to_string();
            assert!(
                message.contains("the caches") && message.contains("take less"),
                "{message}"
            );
        }
        check("nothing", 0, String::new).unwrap();
    }
}
