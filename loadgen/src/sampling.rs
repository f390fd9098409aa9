//! Cuts the measured window into moments while the run goes on.

use crate::error::Error;
use crate::generator::Generator;
use crate::moment::{Moment, Series};
use crate::process::cpu_of;
use crate::progress::Progress;
use rustix::time::{ClockId, clock_gettime};

/// Makes a moment of each [`MOMENT_NS`] of the window.
pub(crate) struct Sampler {
    start_ns: u64,
    last: Sample,
    series: Series,
}

/// The counts at the end of a moment.
#[derive(Clone, Copy)]
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
            deliveries: generator.deliveries(&generator.received),
            published,
            server_cpu_ns: server.map_err(Error::system("read the server's CPU time"))?.map(|cpu| cpu.total_ns()),
            own_cpu_ns: own_cpu_ns(),
        })
    }
}

impl Sampler {
    /// Begins at the start of the window, when `published` messages were published.
    pub(crate) fn begin(generator: &Generator<'_>, published: u64) -> Result<Sampler, Error> {
        let last = Sample::now(generator, published)?;
        Ok(Sampler { start_ns: last.time_ns, last, series: Series::default() })
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
        let moment = Moment {
            at_ns: now.time_ns - self.start_ns,
            span_ns: now.time_ns - last.time_ns,
            deliveries: now.deliveries - last.deliveries,
            published: now.published - last.published,
            connections: generator.opened - generator.disconnected as usize,
            lost: None,
            server_cpu_ns: now.server_cpu_ns.zip(last.server_cpu_ns).map(|(now, last)| now.saturating_sub(last)),
            own_cpu_ns: now.own_cpu_ns - last.own_cpu_ns,
            latency: generator.judge.buckets.take_row(),
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

/// Returns the CPU time of the generator since its start.
pub(crate) fn own_cpu_ns() -> u64 {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    own.tv_sec as u64 * 1_000_000_000 + own.tv_nsec as u64
}

/// The shortest moment.
const MOMENT_NS: u64 = 100_000_000;
