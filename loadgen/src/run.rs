//! A run from the first connection to the verdict.

use crate::connection::State;
use crate::error::Error;
use crate::frame;
use crate::generator::{Generator, REASONS_MAX, Received};
use crate::machine::Machine;
use crate::moment::Moment;
use crate::options::{Activity, Load, Plan, Span, Verify};
use crate::payload::{Stamp, Template};
use crate::process::{Cpu, Memory, cpu_of, machine_busy_ns, memory_of};
use crate::progress::Progress;
use crate::report::{
    Counts, Distribution, Figures, GeneratorFigures, Latency, Opening, Outcome, Report, SCHEMA_VERSION, ServerFigures,
};
use crate::sampling::{Sampler, own_cpu_ns};
use crate::sequence::Tally;
use crate::window::{Rate, Window, permits};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Carries out a plan.
///
/// # Errors
/// An error is returned if the run could not take place, or is interrupted before it began. Mistakes of the server are
/// in the report instead.
pub fn run(plan: &Plan, progress: &mut dyn Progress) -> Result<Report, Error> {
    let machine = Machine::read();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    if let Some(id) = plan.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(Error::Options(format!("cannot pin to CPU {id}")));
    }
    let memory_before = plan.server_pid.map(memory_of);
    let mut generator = Generator::new(plan)?;
    generator.open_all(progress)?;
    let opening_ns = generator.now_ns();
    let run = match plan.activity {
        Activity::Hold { hold_ns } => hold(&mut generator, hold_ns, progress)?,
        Activity::Publish { load, span, warmup_ns } => {
            Publishing::new(&mut generator, load, span, warmup_ns).run(progress)?
        }
    };
    progress.done();
    let mut report = run.report(&generator, memory_before);
    report.started_unix_ms = Some(started);
    report.machine = Some(machine);
    report.opening = Some(Opening::of(generator.connections.len(), opening_ns));
    Ok(report)
}

/// The figures at one edge of the measured window.
#[derive(Clone, Copy)]
struct Edge {
    time_ns: u64,
    received: Received,
    server: Option<Cpu>,
    own_cpu_ns: u64,
    machine_busy_ns: u64,
    idle_ns: u64,
}

impl Edge {
    fn now(generator: &Generator<'_>, idle_ns: u64) -> Result<Edge, Error> {
        let server = generator.plan.server_pid.map(cpu_of).transpose();
        Ok(Edge {
            time_ns: generator.now_ns(),
            received: generator.received,
            server: server.map_err(Error::system("read the server's CPU time"))?,
            own_cpu_ns: own_cpu_ns(),
            machine_busy_ns: machine_busy_ns().map_err(Error::system("read the machine's CPU time"))?,
            idle_ns,
        })
    }
}

/// Stays idle, answering pings.
fn hold(generator: &mut Generator<'_>, hold_ns: u64, progress: &mut dyn Progress) -> Result<Run, Error> {
    let mut sampler = Sampler::begin(generator, 0)?;
    let start = Edge::now(generator, 0)?;
    let end_ns = start.time_ns.saturating_add(hold_ns);
    let mut idle_ns = 0;
    loop {
        let now_ns = generator.now_ns();
        let interrupted = progress.is_interrupted();
        if now_ns >= end_ns || interrupted {
            let end = Edge::now(generator, idle_ns)?;
            sampler.sample(generator, 0, progress)?;
            let edges = Some([start, end]);
            return Ok(Run { edges, published: Vec::new(), interrupted, series: sampler.into_moments() });
        }
        if sampler.is_due(now_ns) {
            sampler.sample(generator, 0, progress)?;
        }
        generator.poll(Duration::from_nanos(end_ns - now_ns).min(NAP_MAX))?;
        idle_ns += generator.now_ns() - now_ns;
    }
}

/// The state while publishers publish.
struct Publishing<'g, 'a> {
    generator: &'g mut Generator<'a>,
    load: Load,
    span: Span,
    rate: Option<Rate>,
    window: Window,
    templates: Vec<Template>,
    /// The number of messages that each publisher has published so far.
    published: Vec<u64>,
    total: u64,
    idle_ns: u64,
}

impl<'g, 'a> Publishing<'g, 'a> {
    fn new(generator: &'g mut Generator<'a>, load: Load, span: Span, warmup_ns: u64) -> Self {
        let plan = generator.plan;
        let begin_ns = generator.now_ns();
        let duration_ns = match span {
            Span::Time(duration_ns) => duration_ns,
            Span::Messages(_) => u64::MAX,
        };
        let window = Window::after(begin_ns, warmup_ns, duration_ns);
        generator.judge.window = Some(window);
        let template = |publisher: usize| {
            // Each publisher has a different key, which is not zero.
            let key = (publisher as u32).wrapping_mul(0x9e37_79b9) ^ 0x6b8b_4567;
            Template::new(plan.opcode, key.to_be_bytes(), plan.size)
        };
        let rate = match load {
            Load::Rate(per_second) => Some(Rate { start_ns: begin_ns, per_second }),
            Load::InFlight(_) | Load::Unthrottled => None,
        };
        Publishing {
            load,
            span,
            rate,
            window,
            templates: (0..plan.publishers).map(template).collect(),
            published: vec![0; plan.publishers],
            total: 0,
            idle_ns: 0,
            generator,
        }
    }

    fn run(mut self, progress: &mut dyn Progress) -> Result<Run, Error> {
        let mut start = None;
        let mut sampler: Option<Sampler> = None;
        let mut last_delivery = (0, self.generator.now_ns());
        let (mut end, interrupted) = loop {
            let now_ns = self.generator.now_ns();
            if start.is_none() && now_ns >= self.window.start_ns {
                start = Some(Edge::now(self.generator, self.idle_ns)?);
                sampler = Some(Sampler::begin(self.generator, self.total)?);
            }
            let reads = self.generator.received.reads;
            if reads != last_delivery.0 {
                last_delivery = (reads, now_ns);
            }
            let stalled =
                !matches!(self.load, Load::Rate(_)) && now_ns - last_delivery.1 > self.generator.plan.drain_ns;
            let finished = match self.span {
                Span::Time(_) => now_ns >= self.window.end_ns,
                Span::Messages(messages) => self.total >= messages,
            };
            let interrupted = progress.is_interrupted();
            if finished || stalled || interrupted {
                break (Edge::now(self.generator, self.idle_ns)?, interrupted && !finished);
            }
            if let Some(sampler) = sampler.as_mut().filter(|sampler| sampler.is_due(now_ns)) {
                sampler.sample(self.generator, self.total, progress)?;
            }
            self.step(now_ns)?;
        };
        if let (Some(sampler), Span::Time(_)) = (&mut sampler, self.span) {
            sampler.sample(self.generator, self.total, progress)?;
        }
        let drained_ns = self.drain()?;
        if let Span::Messages(_) = self.span {
            end = Edge { time_ns: drained_ns, ..Edge::now(self.generator, self.idle_ns)? };
            if let Some(sampler) = &mut sampler {
                sampler.sample(self.generator, self.total, progress)?;
            }
        }
        self.settle()?;
        Ok(Run {
            edges: start.map(|start| [start, end]),
            published: self.published,
            interrupted,
            series: sampler.map_or_else(Vec::new, Sampler::into_moments),
        })
    }

    /// Publishes due messages and reads arrived ones. The time of the step counts as time to spare if the step
    /// published nothing, and either nothing arrived or the generator could sleep (`--sleep`).
    fn step(&mut self, now_ns: u64) -> Result<(), Error> {
        let published = self.publish(now_ns);
        let patience = if self.generator.plan.sleep { self.nap(now_ns) } else { Duration::ZERO };
        let ready = self.generator.poll(patience)?;
        if published == 0 && (ready == 0 || !patience.is_zero()) {
            self.idle_ns += self.generator.now_ns() - now_ns;
        }
        Ok(())
    }

    /// Returns the time until the next due message or the next edge of the window, at most [`NAP_MAX`].
    fn nap(&self, now_ns: u64) -> Duration {
        let edge_ns = if now_ns < self.window.start_ns { self.window.start_ns } else { self.window.end_ns };
        let next_ns = self.rate.map_or(edge_ns, |rate| rate.due_ns(self.total).min(edge_ns));
        Duration::from_nanos(next_ns.saturating_sub(now_ns)).min(NAP_MAX)
    }

    fn publish(&mut self, now_ns: u64) -> u64 {
        let subscribers = self.generator.plan.subscribers as u64;
        let mut allowed = match (self.load, self.rate) {
            (Load::InFlight(in_flight), _) => {
                permits(in_flight, self.total, self.generator.deliveries(&self.generator.received), subscribers)
            }
            (Load::Rate(_), Some(rate)) => rate.due_count(now_ns) - self.total,
            (Load::Unthrottled, _) => u64::MAX,
            (Load::Rate(_), None) => unreachable!("an open loop has a schedule"),
        };
        if let Span::Messages(messages) = self.span {
            allowed = allowed.min(messages - self.total);
        }
        let mut done = 0;
        while done < allowed.min(PUBLISH_MAX) {
            let publisher = (self.total % self.published.len() as u64) as usize;
            let connection = &mut self.generator.connections[subscribers as usize + publisher];
            if connection.unsent() > UNSENT_MAX {
                break;
            }
            let stamp = Stamp {
                run: self.generator.judge.run,
                publisher: publisher as u16,
                sequence: self.published[publisher],
                due_ns: Some(self.rate.map_or(now_ns, |rate| rate.due_ns(self.total))),
            };
            connection.push(self.templates[publisher].stamped(&stamp));
            self.published[publisher] += 1;
            self.total += 1;
            done += 1;
        }
        if done > 0 {
            for publisher in 0..self.published.len() {
                self.generator.flush(subscribers as usize + publisher);
            }
        }
        done
    }

    /// Waits until everything is delivered, at most for the plan's drain time. Returns the time of the end.
    fn drain(&mut self) -> Result<u64, Error> {
        let plan = self.generator.plan;
        let expected = self.total * plan.subscribers as u64;
        let begin_ns = self.generator.now_ns();
        loop {
            let now_ns = self.generator.now_ns();
            let delivered = self.generator.deliveries(&self.generator.received) >= expected;
            if delivered || now_ns - begin_ns > plan.drain_ns {
                return Ok(now_ns);
            }
            let patience = if plan.sleep { NAP_MAX } else { Duration::ZERO };
            if self.generator.poll(patience)? == 0 {
                self.idle_ns += self.generator.now_ns() - now_ns;
            }
        }
    }

    /// Reads a little longer, for messages that must not come.
    fn settle(&mut self) -> Result<(), Error> {
        let end_ns = self.generator.now_ns() + SETTLE_NS;
        while self.generator.now_ns() < end_ns {
            self.generator.poll(Duration::from_millis(1))?;
        }
        Ok(())
    }
}

/// The result of a run, after everything has stopped.
struct Run {
    /// The edges of the window; `None` if the run ended before its window began.
    edges: Option<[Edge; 2]>,
    published: Vec<u64>,
    /// The user ended the run early.
    interrupted: bool,
    series: Vec<Moment>,
}

impl Run {
    fn report(&self, generator: &Generator<'_>, memory_before: Option<Memory>) -> Report {
        let plan = generator.plan;
        let (counts, void_reasons) = self.verdict(generator);
        let broken = counts != Counts { published: counts.published, expected: counts.expected, ..Counts::default() };
        let outcome = match (void_reasons.is_empty(), broken) {
            (false, _) => Outcome::Void,
            (true, true) => Outcome::Broken,
            (true, false) => Outcome::Exact,
        };
        let memory_after = plan.server_pid.map(memory_of);
        let scenario = if matches!(plan.activity, Activity::Hold { .. }) { "idle" } else { "fanout" };
        Report {
            schema_version: SCHEMA_VERSION,
            program: Some(concat!("ringhub-loadgen ", env!("CARGO_PKG_VERSION")).to_owned()),
            command_line: Vec::new(),
            assertions: Vec::new(),
            started_unix_ms: None,
            machine: None,
            scenario: scenario.to_owned(),
            interrupted: self.interrupted,
            opening: None,
            foreign_sample: Vec::new(),
            affected_subscribers: Vec::new(),
            scenario_figures: None,
            outcome,
            void: outcome == Outcome::Void,
            void_reasons,
            disconnections: generator.disconnections.clone(),
            subscribers: plan.subscribers,
            publishers: plan.publishers,
            size: plan.size,
            load: match plan.activity {
                Activity::Hold { .. } => "none".to_owned(),
                Activity::Publish { load: Load::Rate(rate), .. } => format!("rate {rate}"),
                Activity::Publish { load: Load::InFlight(in_flight), .. } => format!("in-flight {in_flight}"),
                Activity::Publish { load: Load::Unthrottled, .. } => "unthrottled".to_owned(),
            },
            verified_subscribers: match plan.verify {
                Verify::All => plan.subscribers,
                Verify::Sample(sample) => sample,
            },
            counts,
            figures: self.edges.filter(|_| outcome != Outcome::Void).map(|edges| self.figures(edges, generator)),
            memory_before,
            memory_after,
        }
    }

    /// Counts the deliveries that went wrong, such as lost and repeated ones. Returns these counts, and the reasons for
    /// which the run is void.
    fn verdict(&self, generator: &Generator<'_>) -> (Counts, Vec<String>) {
        let plan = generator.plan;
        let published: u64 = self.published.iter().sum();
        let mut counts = Counts {
            published,
            expected: published * plan.subscribers as u64,
            disconnected: generator.disconnected,
            ..Counts::default()
        };
        let mut void_reasons = Vec::new();
        let mut void = |reason: String| {
            if void_reasons.len() < REASONS_MAX {
                void_reasons.push(reason);
            }
        };
        let mut orders = Vec::new();
        let mut tally = Tally::default();
        for (index, connection) in generator.connections.iter().enumerate() {
            match &connection.state {
                State::Opening { .. } => unreachable!("a run begins when every connection is open"),
                State::Reading(reading) => {
                    counts.foreign += reading.foreign;
                    counts.corrupt += reading.corrupt;
                    for (checker, &published) in reading.checkers.iter().zip(&self.published) {
                        tally.add(checker.finish(published));
                    }
                    if index < plan.subscribers {
                        orders.push(reading.order);
                    }
                }
                &State::Dropping { bytes } => {
                    let length = frame::server_frame_length(plan.size) as u64;
                    if bytes % length != 0 {
                        void(format!("subscriber {index}: {bytes} bytes are not a multiple of the frame's {length}"));
                    } else if bytes != published * length {
                        void(format!("subscriber {index}: {} messages instead of {published}", bytes / length));
                    }
                }
            }
        }
        counts.lost = tally.lost;
        counts.duplicated = tally.duplicated;
        counts.reordered = tally.reordered;
        counts.foreign += tally.invented;
        orders.sort_unstable();
        orders.dedup();
        if plan.total_order {
            counts.other_orders = orders.len().saturating_sub(1) as u64;
        }
        (counts, void_reasons)
    }

    fn figures(&self, [start, end]: [Edge; 2], generator: &Generator<'_>) -> Figures {
        let window_ns = end.time_ns - start.time_ns;
        let seconds = window_ns as f64 / 1e9;
        let deliveries = generator.deliveries(&end.received) - generator.deliveries(&start.received);
        let reads = end.received.reads - start.received.reads;
        let per = |amount: f64, count: u64| if count == 0 { 0.0 } else { amount / count as f64 };
        let own_cpu_ns = end.own_cpu_ns - start.own_cpu_ns;
        let machine_busy_ns = end.machine_busy_ns.saturating_sub(start.machine_busy_ns);
        let server = end.server.zip(start.server).map(|(end, start)| {
            let cpu = end.since(start);
            ServerFigures {
                cpu,
                other_cores: per(machine_busy_ns.saturating_sub(cpu.total_ns() + own_cpu_ns) as f64, window_ns),
                cores: per(cpu.total_ns() as f64, window_ns),
                cpu_ns_per_delivery: per(cpu.total_ns() as f64, deliveries),
            }
        });
        Figures {
            seconds,
            deliveries,
            deliveries_per_second: if seconds > 0.0 { deliveries as f64 / seconds } else { 0.0 },
            messages_per_read: per(deliveries as f64, reads),
            latency: Latency::from_histogram(&generator.judge.latency),
            latency_uncorrected: None,
            distribution: Distribution::from_histogram(&generator.judge.latency),
            distribution_uncorrected: None,
            series: self.series.clone(),
            generator: GeneratorFigures {
                cpu_ns: own_cpu_ns,
                spare: per((end.idle_ns - start.idle_ns) as f64, window_ns),
            },
            server,
        }
    }
}

/// The longest sleep of a generator with `--sleep` or `--hold`.
const NAP_MAX: Duration = Duration::from_millis(100);

/// The most messages that are published between two looks at the sockets.
const PUBLISH_MAX: u64 = 1_024;

/// If more bytes than this wait for the socket of the publisher whose turn it is, nothing is published until the socket
/// has taken some of them. With --rate the latency of the waiting messages grows, since they are due already.
const UNSENT_MAX: usize = 1 << 20;

/// How long the generator waits for duplicates and foreign messages after it has waited for the last deliveries.
const SETTLE_NS: u64 = 100_000_000;
