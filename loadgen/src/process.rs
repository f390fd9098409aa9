//! Reads CPU time and user-space memory of a process from `/proc`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;

/// The CPU time of all threads of a process since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Nanoseconds in user space, in steps of a clock tick (10 ms).
    pub user_ns: u64,
    /// Nanoseconds in the kernel, in steps of a clock tick (10 ms).
    pub system_ns: u64,
}

impl Cpu {
    /// Returns the sum of both times in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.user_ns + self.system_ns
    }

    /// Returns the CPU time since `earlier`.
    pub fn since(&self, earlier: Cpu) -> Cpu {
        Cpu {
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
        }
    }
}

/// User-space memory of a process in bytes; `None` for values that the kernel does not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All resident pages, shared libraries included.
    pub rss: Option<u64>,
    /// The highest `rss` since the process started, or since [`reset_peak`].
    #[serde(default)]
    pub rss_peak: Option<u64>,
    /// Resident anonymous pages: heap and stacks.
    pub rss_anon: Option<u64>,
    /// Proportional share of all resident pages.
    pub pss: Option<u64>,
}

impl fmt::Display for Memory {
    /// Writes the memory for people; that of a process that has ended has no number.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("RSS", self.rss), ("anonymous", self.rss_anon), ("PSS", self.pss)];
        let parts = parts.iter().filter_map(|(name, bytes)| Some(format!("{name} {} KiB", (*bytes)? / 1_024)));
        let parts: Vec<String> = parts.collect();
        out.write_str(if parts.is_empty() { "the process has ended" } else { "" })?;
        out.write_str(&parts.join(", "))
    }
}

/// Returns the CPU time of process `pid`, from `/proc/PID/stat`.
///
/// # Errors
/// An error is returned if there is no such process.
pub fn cpu_of(pid: u32) -> io::Result<Cpu> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat, rustix::param::clock_ticks_per_second())
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat does not have the form that proc(5) describes")))
}

/// The CPU time of the machine since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachineTime {
    /// The busy time of all CPUs together, in nanoseconds. Time that a hypervisor took away counts as busy.
    pub(crate) busy_ns: u64,
    /// The time that a hypervisor took away.
    pub(crate) stolen_ns: u64,
}

/// Returns the busy time of all CPUs together since the machine started, in nanoseconds. Time that a hypervisor took
/// away counts as busy.
///
/// # Errors
/// An error is returned if `/proc/stat` cannot be read.
pub fn machine_busy_ns() -> io::Result<u64> {
    machine_time().map(|time| time.busy_ns)
}

/// Returns the CPU time of the machine, from `/proc/stat`.
///
/// # Errors
/// An error is returned if `/proc/stat` cannot be read.
pub(crate) fn machine_time() -> io::Result<MachineTime> {
    let stat = fs::read_to_string("/proc/stat")?;
    parse_machine_stat(&stat, rustix::param::clock_ticks_per_second())
        .ok_or_else(|| io::Error::other("/proc/stat does not have the form that proc(5) describes"))
}

/// Returns the time for which the calling thread was ready to run and had no CPU; `None` if the kernel does not count
/// it.
pub(crate) fn waited_ns() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns the CPUs that process `pid` may use, from `/proc/PID/status`.
///
/// # Errors
/// An error is returned if there is no such process.
pub(crate) fn cpus_of(pid: u32) -> io::Result<Vec<usize>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.and_then(|list| parse_cpus(list.trim()))
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/status does not have the form that proc(5) describes")))
}

/// Reads a list such as `0-3,8`.
fn parse_cpus(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

/// Returns the memory of process `pid`, from `/proc/PID/status` and `smaps_rollup`.
pub fn memory_of(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Memory {
        rss: kilobytes(&status, "VmRSS:"),
        rss_peak: kilobytes(&status, "VmHWM:"),
        rss_anon: kilobytes(&status, "RssAnon:"),
        pss: kilobytes(&rollup, "Pss:"),
    }
}

/// Resets [`Memory::rss_peak`] of process `pid` to its current resident memory.
///
/// # Errors
/// An error is returned if the process belongs to another user or has ended.
pub fn reset_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// Reads fields 14 and 15 of `stat` (proc(5)). They are counted from the end of the command, which may contain spaces
/// and parentheses.
fn parse_stat(stat: &str, ticks_per_second: u64) -> Option<Cpu> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let mut fields = after_command.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    let tick_ns = 1_000_000_000 / ticks_per_second;
    Some(Cpu { user_ns: user * tick_ns, system_ns: system * tick_ns })
}

/// Reads the first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal, then guest
/// and guest_nice, which user and nice include.
fn parse_machine_stat(stat: &str, ticks_per_second: u64) -> Option<MachineTime> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = ticks[..] else { return None };
    let tick_ns = 1_000_000_000 / ticks_per_second;
    let busy_ns = (user + nice + system + irq + softirq + steal) * tick_ns;
    Some(MachineTime { busy_ns, stolen_ns: steal * tick_ns })
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_command_name() {
        let stat = "42 (a) b) (c) R 1 42 42 0 -1 4194304 500 0 0 0 321 123 0 0 20 0 1 0 7 1 2";
        assert_eq!(parse_stat(stat, 100), Some(Cpu { user_ns: 3_210_000_000, system_ns: 1_230_000_000 }));
        assert_eq!(parse_stat("42 (short) R 1", 100), None);
    }

    #[test]
    fn machine_is_busy_unless_idle_or_waiting() {
        let stat = "cpu  1 2 4 1000 1000 8 16 32 1 2\ncpu0 1 2 4 1000 1000 8 16 32 1 2\n";
        let time = MachineTime { busy_ns: 63 * 10_000_000, stolen_ns: 32 * 10_000_000 };
        assert_eq!(parse_machine_stat(stat, 100), Some(time));
        assert_eq!(parse_machine_stat("cpu  1 2 3", 100), None);
        assert!(machine_busy_ns().is_ok_and(|busy| busy > 0));
    }

    #[test]
    fn status_lines() {
        let status = "Name:\tx\nVmRSS:\t    1234 kB\nRssAnon:\t     200 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(1_234 * 1_024));
        assert_eq!(kilobytes(status, "RssAnon:"), Some(200 * 1_024));
        assert_eq!(kilobytes(status, "Pss:"), None);
    }

    #[test]
    fn own_process_is_readable() {
        assert!(cpu_of(std::process::id()).is_ok());
        assert!(memory_of(std::process::id()).rss.is_some_and(|bytes| bytes > 0));
        assert!(reset_peak(std::process::id()).is_ok());
        assert!(memory_of(std::process::id()).rss_peak.is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_cpus("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpus("x"), None);
        assert!(cpus_of(std::process::id()).is_ok_and(|cpus| !cpus.is_empty()));
        assert!(cpus_of(u32::MAX).is_err());
    }
}
