//! The gauges of the process, with the names that Prometheus' client libraries give them.

use std::{
    fmt::{self, Write as _},
    fs,
};

use rustix::process::Resource;

/// Appends the gauges of the process to a text for Prometheus. A gauge that cannot be read is left out.
pub(super) fn append(text: &mut String) {
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory of the process.", resident_bytes()),
        ("process_open_fds", "Open descriptors of the process.", open_descriptors()),
        ("process_max_fds", "The limit of open descriptors.", rustix::process::getrlimit(Resource::Nofile).current),
    ];
    let mut line = |line: fmt::Arguments<'_>| text.write_fmt(format_args!("{line}\n")).unwrap_or_default();
    for (name, help, value) in gauges {
        if let Some(value) = value {
            line(format_args!("# HELP {name} {help}"));
            line(format_args!("# TYPE {name} gauge"));
            line(format_args!("{name} {value}"));
        }
    }
}

/// Returns the bytes of memory that the process has in RAM.
pub(crate) fn resident_bytes() -> Option<u64> {
    resident_of(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Reads a line such as "VmRSS:     5412 kB".
fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1_024)
}

/// Returns the number of open descriptors.
fn open_descriptors() -> Option<u64> {
    descriptors_of(fs::metadata("/proc/self/fd").ok()?.len())
}

/// Returns the number of descriptors in a folder of that length. Since Linux 6.2 the length is their number. Before, it
/// is 0, and a list of half a million descriptors would take half a second of the control thread.
fn descriptors_of(length: u64) -> Option<u64> {
    (length > 0).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tringhub\nVmHWM:\t   9000 kB\nVmRSS:\t    5412 kB\nThreads:\t4\n";
        assert_eq!(resident_of(status), Some(5_412 << 10));
        assert_eq!(resident_of("Name:\tringhub\n"), None);
        assert_eq!(resident_of("VmRSS:\tmuch\n"), None);
        assert_eq!(resident_of(&format!("VmRSS:\t{} kB\n", u64::MAX)), None);
    }

    #[test]
    fn descriptors_are_not_listed() {
        assert_eq!(descriptors_of(0), None);
        assert_eq!(descriptors_of(500_000), Some(500_000));
    }

    #[test]
    fn every_gauge_has_its_head() {
        let mut text = String::new();
        append(&mut text);
        let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        let mut expected = vec!["#", "#", "process_resident_memory_bytes"];
        if open_descriptors().is_some() {
            expected.extend(["#", "#", "process_open_fds"]);
        }
        expected.extend(["#", "#", "process_max_fds"]);
        assert_eq!(names, expected, "{text}");
        assert!(!text.lines().any(|line| line.ends_with(" 0")), "{text}");
    }
}
