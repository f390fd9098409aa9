//! How much memory this process may have.

use std::fmt;

/// The memory that a process can have, and the source of the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// The number of bytes.
    pub bytes: u64,
    /// Whether the number is the limit of a cgroup; otherwise it is the memory of the machine.
    pub is_cgroup: bool,
}

impl fmt::Display for Available {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_cgroup { "this container or cgroup may have" } else { "this machine has" })
    }
}

/// Returns the memory of the machine or, if that is less, the limit of this process's cgroup as a container sees it
/// (`memory.max` of cgroup v2, or `memory.limit_in_bytes` of v1). Returns `None` if neither can be read.
#[must_use]
pub fn available() -> Option<Available> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cgroup = read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    least(read("/proc/meminfo").as_deref(), cgroup.as_deref())
}

/// Gives the free memory that the allocator keeps back to the kernel, if the allocator has a call for that. Other
/// threads that need the allocator wait meanwhile.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time on any thread; it locks each arena, and frees nothing that is in
    // use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the smaller of both. The text of a cgroup without a limit is "max", or in v1 a number beyond any machine.
fn least(meminfo: Option<&str>, cgroup: Option<&str>) -> Option<Available> {
    let machine = meminfo.and_then(total).map(|bytes| Available { bytes, is_cgroup: false });
    let cgroup = cgroup.and_then(|text| text.trim().parse().ok()).map(|bytes| Available { bytes, is_cgroup: true });
    machine.into_iter().chain(cgroup).min_by_key(|available| available.bytes)
}

/// Reads the line "MemTotal:        8008128 kB".
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_counts() {
        let meminfo = "MemTotal:        8008128 kB\nMemFree:          123 kB\n";
        let found = |meminfo, cgroup| least(meminfo, cgroup).map(|found| (found.bytes, found.is_cgroup));
        assert_eq!(found(Some(meminfo), None), Some((8_008_128 << 10, false)));
        assert_eq!(found(Some(meminfo), Some("max\n")), Some((8_008_128 << 10, false)));
        assert_eq!(found(Some(meminfo), Some("1048576\n")), Some((1 << 20, true)));
        assert_eq!(found(Some(meminfo), Some("9223372036854771712\n")), Some((8_008_128 << 10, false)));
        assert_eq!(found(None, Some("7")), Some((7, true)));
        assert_eq!(found(Some("MemFree: 1 kB"), None), None);
        assert!(available().is_some_and(|available| available.bytes > 0));
    }
}
