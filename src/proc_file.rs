//! Fields of the files in Linux's `/proc`.

/// The bytes of a field that a file gives in kibibytes, such as `VmHWM:` of `/proc/self/status` or
/// `MemAvailable:` of `/proc/meminfo`.
pub(crate) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
