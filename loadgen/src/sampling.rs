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
    /// The time for which this thread was ready to run and had no CPU, if the kernel counts it.
    pub(crate) waited_ns: Option<u64>,
    pub(crate) machine: MachineTime,
    /// The time to spare of each thread so far, the leading one first.
    pub(crate) idle_ns: Vec<u64>,
}

impl Edge {
    pub(crate) fn now(generator: &Generator<'_>, idle_ns: u64) -> Result<Edge, Error> {
        let server = generator.plan.server_pid.map(cpu_of).transpose();
        Ok(Edge {
            time_ns: generator.now_ns(),
            received: generator.received(),
            server: server.map_err(Error::system("read the server's CPU time"))?,
            own_cpu_ns: own_cpu_ns(),
            waited_ns: waited_ns(),
            machine: machine_time().map_err(Error::system("read the machine's CPU time"))?,
            idle_ns: [vec![idle_ns], generator.crew.idle_ns()].concat(),
        })
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
    fn now(generator: &Generator<'_>, published: u64) -> Result<Sample, Error> {
        let server = generator.plan.server_pid.map(cpu_of).transpose();
        Ok(Sample {
            time_ns: generator.now_ns(),
            deliveries: generator.deliveries(&generator.received()),
            published,
            server_cpu_ns: server.map_err(Error::system("read the server's CPU time"))?.map(|cpu| cpu.total_ns()),
            own_cpu_ns: own_cpu_ns(),
        })
    }
}

impl Sampler {
    pub(crate) fn new() -> Sampler {
        Sampler { start_ns: None, last: Sample::default(), series: Series::default() }
    }

    /// Begins at the start of a window, when `published` messages were published.
    pub(crate) fn begin(&mut self, generator: &mut Generator<'_>, published: u64) -> Result<(), Error> {
        self.last = Sample::now(generator, published)?;
        self.start_ns.get_or_insert(self.last.time_ns);
        generator.take_row();
        Ok(())
    }

    /// Returns whether the current moment is over at `now_ns`.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last.time_ns) >= MOMENT_NS
    }

    /// Ends the current moment, and shows it.
    pub(crate) fn sample(
        &mut self,
        generator: &mut Generator<'_>,
        published: u64,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        let now = Sample::now(generator, published)?;
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
        Ok(())
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

/// Returns the CPU time of the generator since its start.
fn own_cpu_ns() -> u64 {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    own.tv_sec as u64 * 1_000_000_000 + own.tv_nsec as u64
}

/// The shortest moment.
const MOMENT_NS: u64 = 100_000_000;
