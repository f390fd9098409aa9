//! Reads counters at the edges of the measured window, and cuts the window into moments.

use crate::error::Error;
use crate::generator::{Generator, Received};
use crate::moment::{LatencyRow, Moment, Series};
use crate::process::{Cpu, MachineTime, cpu_of, machine_time, waited_ns};
use crate::progress::Progress;
use rustix::time::{ClockId, clock_gettime};

/// The figures at one edge of the measured window.
#[derive(Clone)]
pub(crate) struct Edge {
    pub(crate) time_ns: u64,
    pub(crate) received: Received,
    pub(crate) server: Option<Cpu>,
    pub(crate) own_cpu_ns: u64,
    /// The time for which each thread was ready to run and had no CPU, if the kernel counts it.
    pub(crate) waited_ns: Option<Vec<u64>>,
    pub(crate) machine: MachineTime,
    /// The time to spare of each thread so far, the leading one first.
    pub(crate) spare_ns: Vec<u64>,
}

impl Edge {
    pub(crate) fn now(generator: &Generator<'_>) -> Result<Edge, Error> {
        Ok(Edge {
            time_ns: generator.now_ns(),
            received: generator.received(),
            server: server_cpu(generator),
            own_cpu_ns: own_cpu_ns(),
            waited_ns: waited_ns().map(|own| [vec![own], generator.crew.waited_ns()].concat()),
            machine: machine_time().map_err(Error::system("read the machine's CPU time"))?,
            spare_ns: [vec![generator.spare_ns], generator.crew.spare_ns()].concat(),
        })
    }
}

impl Edge {
    /// Returns this edge with the counts and the time from `end` to `start` added, so that they are not part of the
    /// window.
    fn later_by(&self, end: &Edge, start: &Edge) -> Edge {
        let add = |own: u64, end: u64, start: u64| own + start.saturating_sub(end);
        let add_all = |own: &[u64], end: &[u64], start: &[u64]| {
            own.iter().zip(end).zip(start).map(|((own, end), start)| add(*own, *end, *start)).collect::<Vec<_>>()
        };
        let both = |of: fn(&Edge) -> u64| add(of(self), of(end), of(start));
        let server = self.server.zip(end.server).zip(start.server).map(|((own, end), start)| Cpu {
            user_ns: add(own.user_ns, end.user_ns, start.user_ns),
            system_ns: add(own.system_ns, end.system_ns, start.system_ns),
        });
        let waited_ns = match (&self.waited_ns, &end.waited_ns, &start.waited_ns) {
            (Some(own), Some(end), Some(start)) => Some(add_all(own, end, start)),
            _ => None,
        };
        Edge {
            time_ns: both(|edge| edge.time_ns),
            received: Received {
                messages: both(|edge| edge.received.messages),
                dropped_bytes: both(|edge| edge.received.dropped_bytes),
                reads: both(|edge| edge.received.reads),
            },
            server,
            own_cpu_ns: both(|edge| edge.own_cpu_ns),
            waited_ns,
            machine: MachineTime {
                busy_ns: both(|edge| edge.machine.busy_ns),
                stolen_ns: both(|edge| edge.machine.stolen_ns),
            },
            spare_ns: add_all(&self.spare_ns, &end.spare_ns, &start.spare_ns),
        }
    }
}

/// Returns the edges of a window with the length and the counts of all steps so far. What lies between two steps is
/// left out.
pub(crate) fn joined(all: Option<[Edge; 2]>, start: &Edge, end: &Edge) -> [Edge; 2] {
    match all {
        None => [start.clone(), end.clone()],
        Some([first, last]) => [first.later_by(&last, start), end.clone()],
    }
}

/// Makes a moment of each [`MOMENT_NS`] of the window.
pub(crate) struct Sampler {
    start_ns: Option<u64>,
    last: Sample,
    series: Series,
}

/// The counts at the end of a moment.
#[derive(Clone, Copy, Default)]
struct Sample {
    time_ns: u64,
    deliveries: u64,
    published: u64,
    server_cpu_ns: Option<u64>,
    own_cpu_ns: u64,
}

impl Sample {
    fn now(generator: &Generator<'_>, published: u64) -> Sample {
        Sample {
            time_ns: generator.now_ns(),
            deliveries: generator.deliveries(&generator.received()),
            published: published + generator.crew.published_by_followers(),
            server_cpu_ns: server_cpu(generator).map(|cpu| cpu.total_ns()),
            own_cpu_ns: own_cpu_ns(),
        }
    }
}

impl Sampler {
    pub(crate) fn new() -> Sampler {
        Sampler { start_ns: None, last: Sample::default(), series: Series::default() }
    }

    /// Begins at the start of a window, when `published` messages were published.
    pub(crate) fn begin(&mut self, generator: &mut Generator<'_>, published: u64) {
        self.last = Sample::now(generator, published);
        self.start_ns.get_or_insert(self.last.time_ns);
        generator.take_row();
    }

    /// Returns whether the current moment is over at `now_ns`.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last.time_ns) >= MOMENT_NS
    }

    /// Ends the current moment, and shows the moment to the user.
    pub(crate) fn sample(&mut self, generator: &mut Generator<'_>, published: u64, progress: &mut dyn Progress) {
        let now = Sample::now(generator, published);
        let last = std::mem::replace(&mut self.last, now);
        let (opened, disconnected) = generator.crew.connections();
        let connections = (generator.opened + opened) as u64;
        let moment = Moment {
            at_ns: now.time_ns - self.start_ns.unwrap_or(last.time_ns),
            span_ns: now.time_ns - last.time_ns,
            deliveries: now.deliveries.saturating_sub(last.deliveries),
            published: now.published.saturating_sub(last.published),
            connections: connections.saturating_sub(generator.disconnected + disconnected) as usize,
            lost: Some((generator.judge.missing + generator.crew.missing()).max(0) as u64),
            server_cpu_ns: now.server_cpu_ns.zip(last.server_cpu_ns).map(|(now, last)| now.saturating_sub(last)),
            own_cpu_ns: now.own_cpu_ns - last.own_cpu_ns,
            latency: generator.take_row(),
        };
        progress.running(&moment);
        self.series.push(moment);
    }

    /// Returns all moments.
    pub(crate) fn into_moments(self) -> Vec<Moment> {
        self.series.into_moments()
    }
}

impl Generator<'_> {
    /// Takes the latencies of all threads since the last call.
    fn take_row(&mut self) -> LatencyRow {
        for row in self.crew.take_rows() {
            self.judge.buckets.add(&row);
        }
        self.judge.buckets.take_row()
    }
}

/// Returns the server's CPU time; `None` if its process is not known, or has ended meanwhile.
fn server_cpu(generator: &Generator<'_>) -> Option<Cpu> {
    cpu_of(generator.plan.server_pid?).ok()
}

/// Returns the CPU time of the generator since its start.
fn own_cpu_ns() -> u64 {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    own.tv_sec as u64 * 1_000_000_000 + own.tv_nsec as u64
}

/// The shortest moment.
const MOMENT_NS: u64 = 100_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_windows_is_left_out() {
        let edge = |at: u64| Edge {
            time_ns: at * 10,
            received: Received { messages: at, dropped_bytes: 0, reads: at },
            server: Some(Cpu { user_ns: at * 3, system_ns: 0 }),
            own_cpu_ns: at * 5,
            waited_ns: Some(vec![at]),
            machine: MachineTime::default(),
            spare_ns: vec![at * 2],
        };
        let first = joined(None, &edge(1), &edge(3));
        let [start, end] = joined(Some(first), &edge(100), &edge(104));
        // Windows of 2 and of 4.
        assert_eq!((end.time_ns - start.time_ns, end.own_cpu_ns - start.own_cpu_ns), (60, 30));
        assert_eq!(end.received.messages - start.received.messages, 6);
        assert_eq!(end.spare_ns[0] - start.spare_ns[0], 12);
        assert_eq!(end.server.unwrap().since(start.server.unwrap()).user_ns, 18);
    }
}
