//! What the operating system says of this process's memory.

use crate::proc_file::kibibytes;

/// The largest resident set that this process has had, in bytes: `VmHWM` of Linux's
/// `/proc/self/status`, child processes not counted. `None` where there is no such file.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse(&status)
}

fn parse(status: &str) -> Option<u64> {
    kibibytes(status, "VmHWM:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tgemma-xla\nVmPeak:\t  900 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 1000 kB\n";
        assert_eq!(parse(status), Some(1234 * 1024));
        assert_eq!(parse("VmHWM:\tmuch\n"), None);
        assert_eq!(parse("VmRSS:\t 1 kB\n"), None);
        assert_eq!(parse(&format!("VmHWM: {} kB", u64::MAX)), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_counts_memory_that_was_given_back() {
        let held = vec![1_u8; 64 << 20];
        std::hint::black_box(&held);
        drop(held);
        assert!(peak_resident_bytes().is_some_and(|peak| peak >= 64 << 20));
    }
}
