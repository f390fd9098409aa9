//! The numbers of the process, with the names that Prometheus' client libraries give them.

use std::{
    fmt, fs,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    process::Resource,
    time::{ClockId, clock_gettime},
};

use super::Kind;

/// A number of the process.
pub(super) struct Number {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) value: Value,
}

/// The value of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Count(u64),
    /// Seconds, to the hundredth.
    Seconds(f64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(count) => write!(f, "{count}"),
            Value::Seconds(seconds) => write!(f, "{seconds:.2}"),
        }
    }
}

/// Returns the numbers of the process. A number that cannot be read is left out.
pub(super) fn numbers() -> impl Iterator<Item = Number> {
    let stat = fs::read_to_string("/proc/self/stat").ok();
    let stat = stat.as_deref().and_then(Stat::read);
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    let (counter, gauge, count) = (Kind::Counter, Kind::Gauge, Value::Count);
    let rows = [
        (
            "process_cpu_seconds_total",
            counter,
            "Time of CPUs that the process has used, its own and the kernel's for it.",
            stat.map(|stat| Value::Seconds(stat.cpu.as_secs_f64())),
        ),
        (
            "process_start_time_seconds",
            gauge,
            "The start of the process, in seconds since 1970.",
            stat.and_then(start_time).map(Value::Seconds),
        ),
        (
            "process_virtual_memory_bytes",
            gauge,
            "Virtual memory of the process.",
            stat.map(|stat| count(stat.virtual_bytes)),
        ),
        ("process_resident_memory_bytes", gauge, "Resident memory of the process.", resident_bytes().map(count)),
        ("process_open_fds", gauge, "Open descriptors of the process.", open_descriptors().map(count)),
        ("process_max_fds", gauge, "The limit of open descriptors.", limit.map(count)),
    ];
    rows.into_iter().filter_map(|(name, kind, help, value)| Some(Number { name, kind, help, value: value? }))
}

/// The line of `/proc/self/stat`, as far as it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    cpu: Duration,
    /// The time from the machine's start to that of the process.
    started: Duration,
    virtual_bytes: u64,
}

impl Stat {
    /// Reads the line, see proc_pid_stat(5). The program's name stands in parentheses, and may have any characters.
    fn read(line: &str) -> Option<Stat> {
        let mut fields = line[line.rfind(')')? + 1..].split_ascii_whitespace();
        // The first of these fields is the third of the line.
        let mut field = |number: usize, last: usize| fields.nth(number - last - 1)?.parse::<u64>().ok();
        let (user, system) = (field(14, 2)?, field(15, 14)?);
        let (started, virtual_bytes) = (field(22, 15)?, field(23, 22)?);
        Some(Stat { cpu: ticks(user.checked_add(system)?)?, started: ticks(started)?, virtual_bytes })
    }
}

/// Returns the time of so many ticks of the files in `/proc`.
fn ticks(count: u64) -> Option<Duration> {
    Some(Duration::from_millis(count.checked_mul(1_000 / TICKS_PER_SECOND)?))
}

/// The ticks of a second, by which `/proc` counts on x86-64 and aarch64 whatever the kernel's own clock is.
const TICKS_PER_SECOND: u64 = 100;

/// Returns the start of the process in seconds since 1970. It is computed once: a change of the wall clock would move
/// it.
fn start_time(stat: Stat) -> Option<f64> {
    static START: OnceLock<Option<f64>> = OnceLock::new();
    *START.get_or_init(|| {
        // /proc/stat has the time of the machine's start, but it may be hidden (ProcSubset=pid).
        let up = clock_gettime(ClockId::Boottime);
        let up = Duration::new(up.tv_sec.try_into().ok()?, up.tv_nsec.try_into().ok()?);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(since_1970.checked_sub(up.saturating_sub(stat.started))?.as_secs_f64())
    })
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

    /// The line of a program whose name looks like the rest of the line.
    #[test]
    fn the_line_is_read_as_the_kernel_writes_it() {
        let line = "42 (a) R 1 2) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 7 8 20 0 5 0 12345 8192000 300 1844\n";
        let read =
            Stat { cpu: Duration::from_secs(2), started: Duration::from_millis(123_450), virtual_bytes: 8_192_000 };
        assert_eq!(Stat::read(line), Some(read));
        for broken in [
            "",
            "42 (a",
            "42 (a) S 1",
            &line.replace(" 150 ", " much "),
            &line.replace(" 50 ", " 18446744073709551615 "),
        ] {
            assert_eq!(Stat::read(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_process_has_begun_before_now() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let stat = Stat::read(&fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        let start = start_time(stat).unwrap();
        assert!(start <= now + 0.1 && start > now - 3_600.0, "{start} of {now}");
        assert_eq!(start_time(Stat { started: Duration::ZERO, ..stat }), Some(start), "it does not move");
    }

    #[test]
    fn every_number_is_there() {
        let numbers: Vec<Number> = numbers().collect();
        let names: Vec<&str> = numbers.iter().map(|number| number.name).collect();
        let mut expected = vec![
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "process_virtual_memory_bytes",
            "process_resident_memory_bytes",
        ];
        expected.extend(open_descriptors().map(|_| "process_open_fds"));
        expected.push("process_max_fds");
        assert_eq!(names, expected);
        let of_memory = numbers.iter().filter(|number| number.name.ends_with("_bytes"));
        assert!(of_memory.clone().count() == 2 && of_memory.clone().all(|number| number.value != Value::Count(0)));
    }
}
