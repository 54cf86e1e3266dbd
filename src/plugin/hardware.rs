//! Which accelerators this machine has, from what the kernel lists, without loading anything.

use std::fs;
use std::path::Path;

/// Google as a PCI vendor. Its network cards have the same number, so the device number is needed
/// too.
const GOOGLE: &str = "0x1ae0";

/// TPU chips as PCI devices: v2 and v3, v4, v5p, v5e, v6e, 7x. (The numbers that JAX looks for.)
const TPU_CHIPS: [&str; 7] = [
    "0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076",
];

/// How many TPU chips this machine has.
pub fn tpu_chips() -> usize {
    let on_bus = pci_tpus(Path::new("/sys/bus/pci/devices"));
    if on_bus > 0 {
        return on_bus;
    }
    // In a container the bus may be hidden while the devices are passed through.
    accelerator_nodes(Path::new("/dev"))
}

/// Whether an NVIDIA driver shows a GPU.
pub fn has_nvidia_gpu() -> bool {
    // The last is that of the Windows Subsystem for Linux.
    ["/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"]
        .iter()
        .any(|node| Path::new(node).exists())
}

fn pci_tpus(devices: &Path) -> usize {
    let Ok(entries) = fs::read_dir(devices) else {
        return 0;
    };
    let is = |folder: &Path, file: &str, wanted: &[&str]| {
        fs::read_to_string(folder.join(file)).is_ok_and(|text| wanted.contains(&text.trim()))
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|folder| is(folder, "vendor", &[GOOGLE]) && is(folder, "device", &TPU_CHIPS))
        .count()
}

fn accelerator_nodes(dev: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dev) else {
        return 0;
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix("accel")
                .is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tpus_are_told_from_googles_network_cards_and_from_others_devices() {
        let bus = tempfile::tempdir().unwrap();
        for (slot, vendor, device) in [
            ("00:01", "0x1ae0\n", "0x0063\n"),
            ("00:02", "0x1ae0\n", "0x0063\n"),
            ("00:03", "0x1ae0\n", "0x0042\n"),
            ("00:04", "0x10de\n", "0x0063\n"),
        ] {
            let folder = bus.path().join(slot);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("vendor"), vendor).unwrap();
            fs::write(folder.join("device"), device).unwrap();
        }
        assert_eq!(pci_tpus(bus.path()), 2);
        assert_eq!(pci_tpus(&bus.path().join("missing")), 0);
    }

    #[test]
    fn accelerator_nodes_are_counted_by_number() {
        let dev = tempfile::tempdir().unwrap();
        for name in ["accel0", "accel1", "accelerate", "null"] {
            fs::write(dev.path().join(name), "").unwrap();
        }
        assert_eq!(accelerator_nodes(dev.path()), 2);
    }
}
