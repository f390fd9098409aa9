//! Samples of a server, once a second: memory, descriptors, sockets of the kernel, and gauges.

use std::{fs, thread, time::Duration, time::Instant};

use super::troubles::Tally;
use crate::support::{DEADLINE, KernelSocket, Server};

/// The values of all columns at one moment.
type Sample = [u64; NAMES.len()];

/// The name of each column, a share and a constant. The median of the last quarter may exceed that of the second
/// quarter by this share plus this constant. Troubles come and go; a leak of one thing per trouble exceeds both within
/// an hour.
const NAMES: [(&str, f64, u64); 8] = [
    ("resident KiB", 0.10, 8 * 1_024),
    ("descriptors", 0.25, 100),
    ("kernel sockets", 0.25, 100),
    ("connections", 0.25, 100),
    ("HTTP connections", 0.25, 50),
    ("slow consumers", 0.25, 50),
    ("topics", 0.25, 100),
    ("polls", 0.25, 200),
];

/// All samples so far.
pub(super) struct Samples {
    taken: Vec<Sample>,
    begun: Instant,
    printed: Instant,
}

impl Samples {
    pub(super) fn new() -> Samples {
        Samples { taken: Vec::new(), begun: Instant::now(), printed: Instant::now() }
    }

    /// Takes one more sample, and prints a sample every [`BETWEEN_LINES`].
    pub(super) fn take(&mut self, server: &Server, tally: &Tally) {
        let counts = server.counts();
        let gauge = |name| counts.get(name);
        let sockets = KernelSocket::open_ones(server.address().port()).len() as u64;
        self.taken.push([
            resident_kib(server),
            Self::descriptors(server),
            sockets,
            gauge("connections_open"),
            gauge("http_connections_open"),
            gauge("slow_consumers"),
            gauge("topics"),
            gauge("polls_armed"),
        ]);
        if self.printed.elapsed() >= BETWEEN_LINES {
            self.printed = Instant::now();
            let last = self.taken.last().expect("one was taken");
            let columns: Vec<String> =
                NAMES.iter().zip(last).map(|((name, ..), value)| format!("{name} {value}")).collect();
            println!("{} s: {}; {tally:?}", self.begun.elapsed().as_secs(), columns.join(", "));
        }
    }

    /// Compares the last quarter of all samples with the second quarter; the first quarter is for warming up.
    pub(super) fn expect_no_growth(&self) {
        let quarter = self.taken.len() / 4;
        assert!(quarter >= 5, "{} samples are too few to see growth", self.taken.len());
        let median = |from: usize, column: usize| {
            let mut values: Vec<u64> = self.taken[from..from + quarter].iter().map(|sample| sample[column]).collect();
            values.sort_unstable();
            values[quarter / 2]
        };
        let mut grown = Vec::new();
        for (column, &(name, share, constant)) in NAMES.iter().enumerate() {
            let (second, last) = (median(quarter, column), median(self.taken.len() - quarter, column));
            let most = second + (second as f64 * share) as u64 + constant;
            println!("{name}: {second} in the second quarter, {last} in the last, at most {most}");
            if last > most {
                grown.push(name);
            }
        }
        assert!(grown.is_empty(), "growth of {grown:?}");
    }

    /// Returns the number of the server's open descriptors.
    pub(super) fn descriptors(server: &Server) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap().count() as u64
    }

    /// Waits until the server has no more descriptors open than at its start.
    pub(super) fn expect_descriptors(server: &Server, at_start: u64) {
        let begin = Instant::now();
        while Self::descriptors(server) > at_start {
            let now = Self::descriptors(server);
            assert!(begin.elapsed() < DEADLINE / 3, "{now} descriptors are open; at the start {at_start} were");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn resident_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

const BETWEEN_LINES: Duration = Duration::from_secs(15);

/// In each column, values that only go up are growth, and values that go up and down are not.
#[test]
fn growth_is_found_in_each_column() {
    let samples = |value: &dyn Fn(usize, u64) -> u64| {
        let mut samples = Samples::new();
        samples.taken = (0..400).map(|time| std::array::from_fn(|column| value(column, time))).collect();
        samples
    };
    samples(&|_, time| 1_000 + time % 100).expect_no_growth();
    for (grown, (name, ..)) in NAMES.iter().enumerate() {
        let leak = samples(&|column, time| if column == grown { 1_000 + time * 100 } else { 1_000 });
        let panic = std::panic::catch_unwind(|| leak.expect_no_growth()).expect_err("a leak");
        let text = panic.downcast_ref::<String>().expect("a sentence");
        assert_eq!(*text, format!("growth of [{name:?}]"));
    }
}
