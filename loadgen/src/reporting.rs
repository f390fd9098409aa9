//! Makes the report of a run: what went wrong, and whether the figures can be trusted.

use crate::connection::{Reading, Role, State};
use crate::disturbance::{bottleneck, disturbances, spare};
use crate::ending::REASONS_MAX;
use crate::frame;
use crate::generator::{Generator, is_in_share};
use crate::hints::hints;
use crate::judge::{Judge, histogram};
use crate::moment::Moment;
use crate::options::{Activity, Load, Plan, Verify};
use crate::process::{Memory, memory_of};
use crate::report::{
    Counts, Distribution, Figures, GeneratorFigures, Latency, Outcome, Report, SCHEMA_VERSION, ServerFigures,
    SubscriberCounts,
};
use crate::sampling::Edge;
use crate::scenario::{Run, churn, stall};
use crate::sequence::Tally;
use hdrhistogram::Histogram;

/// Makes the report of a run from what all threads have at its end, the leading one first.
pub(crate) fn report(mut generators: Vec<Generator<'_>>, mut run: Run, memory_before: Option<Memory>) -> Report {
    let plan = generators[0].plan;
    let stall = stall::figures(&mut generators, run.memory_in_stall);
    let (mut latency, mut uncorrected) = (histogram(), histogram());
    for Generator { judge, .. } in &generators {
        latency += &judge.latency;
        uncorrected += &judge.uncorrected;
    }
    let generators: Vec<&Generator<'_>> = generators.iter().collect();
    let mut counting = Counting::of(&generators, &run);
    let window = run.edges.take();
    // The steps of a ramp were judged one by one.
    let disturbed = match (&plan.activity, &window) {
        (Activity::Ramp { .. }, _) => run.disturbed,
        (_, Some(edges)) => disturbances(plan, edges),
        (_, None) => Vec::new(),
    };
    let disturbances: Vec<String> = disturbed.iter().map(|found| found.text.clone()).collect();
    if !plan.allow_disturbance {
        counting.void_reasons.extend(disturbances.iter().take(REASONS_MAX).cloned());
    }
    let has_published = counting.counts.published > 0 || counting.counts.unpublished > 0;
    if plan.publishers > 0 && !has_published && !run.is_interrupted && counting.counts.disconnected == 0 {
        counting.void_reasons.push("no message was published".to_owned());
    }
    let outcome = counting.outcome(plan);
    let sample = |of: fn(&Judge) -> &Vec<String>| {
        let all = generators.iter().flat_map(|generator| of(&generator.judge).iter().cloned());
        all.take(REASONS_MAX).collect::<Vec<_>>()
    };
    let scenario_figures = match plan.activity {
        _ if outcome == Outcome::Void => None,
        Activity::Churn { .. } => Some(churn::figures(&generators)),
        _ => stall.or(run.figures.take()),
    };
    let latencies = [latency, uncorrected];
    let subscribers = run.opened.unwrap_or(plan.subscribers);
    let report = Report {
        schema_version: SCHEMA_VERSION,
        program: Some(concat!("ringhub-loadgen ", env!("CARGO_PKG_VERSION")).to_owned()),
        command_line: Vec::new(),
        assertions: Vec::new(),
        started_unix_ms: None,
        machine: None,
        scenario: plan.activity.name().to_owned(),
        interrupted: run.is_interrupted,
        early_end: run.early_end,
        ignore_foreign: plan.ignore_foreign,
        opening: run.opening,
        foreign_sample: sample(|judge| &judge.foreign_sample),
        corrupt_sample: sample(|judge| &judge.corrupt_sample),
        misrouted_sample: sample(|judge| &judge.misrouted_sample),
        affected_subscribers: counting.affected,
        scenario_figures,
        outcome,
        void: outcome == Outcome::Void,
        void_reasons: counting.void_reasons,
        disturbances,
        bottleneck: window.as_ref().and_then(|edges| bottleneck(plan, edges)),
        disconnections: [0, 1]
            .into_iter()
            .flat_map(|kind| {
                generators.iter().flat_map(move |generator| generator.disconnections[kind].iter().cloned())
            })
            .chain(counting.miscounts)
            .take(REASONS_MAX)
            .collect(),
        hints: Vec::new(),
        subscribers,
        publishers: if matches!(plan.activity, Activity::Echo(_)) { 0 } else { plan.publishers },
        size: plan.size,
        load: load(plan),
        verified_subscribers: match plan.verify {
            Verify::All => subscribers,
            Verify::Sample(sample) => sample,
        },
        counts: counting.counts,
        figures: window
            .filter(|_| outcome != Outcome::Void)
            .map(|edges| figures(generators[0], &latencies, edges, run.series)),
        memory_before,
        memory_after: plan.server_pid.map(memory_of),
        total_order: plan.total_order,
    };
    let retyped = generators.iter().map(|generator| generator.judge.retyped).sum();
    let hints = hints(plan, &report, &disturbed, retyped);
    Report { hints, ..report }
}

fn load(plan: &Plan) -> String {
    match (&plan.activity, plan.activity.pace().map(|pace| pace.load)) {
        (Activity::Replay { .. }, _) => "recorded".to_owned(),
        (_, None) => "none".to_owned(),
        (_, Some(Load::Rate(rate))) => format!("rate {rate}"),
        (_, Some(Load::InFlight(in_flight))) => format!("in-flight {in_flight}"),
        (_, Some(Load::Unthrottled)) => "unthrottled".to_owned(),
    }
}

#[derive(Default)]
struct Counting {
    counts: Counts,
    void_reasons: Vec<String>,
    /// The subscribers whose number of bytes is wrong.
    miscounts: Vec<String>,
    affected: Vec<SubscriberCounts>,
}

impl Counting {
    /// Counts the deliveries that went wrong, such as lost and repeated ones.
    fn of(generators: &[&Generator<'_>], run: &Run) -> Counting {
        let plan = generators[0].plan;
        let published = published(generators, &run.written);
        let mut counting = Counting::default();
        let mut orders = Vec::new();
        let counts = &mut counting.counts;
        counts.published = published.iter().sum();
        counts.unpublished = run.unpublished + unwritten(generators, &published);
        for generator in generators {
            let [foreign, corrupt, misrouted] = generator.departed_foreign;
            let counts = &mut counting.counts;
            counts.disconnected += generator.disconnected;
            (counts.foreign, counts.corrupt) = (counts.foreign + foreign, counts.corrupt + corrupt);
            counts.misrouted += misrouted;
            counts.expected += generator.departed.1;
            counting.add(generator.departed.0);
            for (index, connection) in generator.connections.iter().enumerate() {
                let role = generator.role(index);
                match &connection.state {
                    State::Connecting | State::Opening(_) | State::Posting(_) => {}
                    State::Reading(reading) if !reading.is_open() => {}
                    State::Reading(reading) => {
                        let has_ended = connection.socket.is_none();
                        counting.subscriber(plan, role, reading, &published, has_ended);
                        if matches!(role, Role::Subscriber(_)) {
                            orders.push(reading.order);
                        }
                    }
                    &State::Dropping { bytes } => counting.dropping(plan, role, bytes, &published),
                }
            }
        }
        orders.sort_unstable();
        orders.dedup();
        if plan.total_order {
            counting.counts.other_orders = orders.len().saturating_sub(1) as u64;
        }
        counting
    }

    fn subscriber(&mut self, plan: &Plan, role: Role, reading: &Reading, published: &[u64], has_ended: bool) {
        self.counts.foreign += reading.foreign;
        self.counts.corrupt += reading.corrupt;
        self.counts.misrouted += reading.misrouted;
        let Role::Subscriber(number) = role else { return };
        if matches!(plan.activity, Activity::Stall { share, .. } if is_in_share(share, number)) {
            // The stall's own figures have what these missed.
            return;
        }
        let mut own = Tally::default();
        for (slot, checker) in reading.checkers.iter().enumerate() {
            let stream = plan.topics.stream_of_slot(reading.first_topic as usize, slot);
            let Some(&published) = published.get(stream) else { continue };
            own.add(checker.finish(published));
            self.counts.expected += checker.expected(published);
        }
        if has_ended {
            own.lost += std::mem::take(&mut own.outstanding);
        }
        self.add(own);
        let affected = SubscriberCounts {
            subscriber: number,
            lost: own.lost,
            outstanding: own.outstanding,
            duplicated: own.duplicated,
            reordered: own.reordered,
            foreign: reading.foreign,
            misrouted: reading.misrouted + own.invented,
            corrupt: reading.corrupt,
        };
        let is_right = affected == SubscriberCounts { subscriber: number, ..SubscriberCounts::default() };
        if !is_right && self.affected.len() < REASONS_MAX {
            self.affected.push(affected);
        }
    }

    fn dropping(&mut self, plan: &Plan, role: Role, bytes: u64, published: &[u64]) {
        let Role::Subscriber(index) = role else { return };
        let topics: Vec<usize> = plan.topics.of_subscriber(index).collect();
        let streams =
            published.iter().enumerate().filter(|(stream, _)| topics.contains(&plan.topics.topic_of(*stream)));
        let expected: u64 = streams.map(|(_, published)| published).sum();
        self.counts.expected += expected;
        let length = frame::server_frame_length(plan.size) as u64;
        let reason = if !bytes.is_multiple_of(length) {
            format!("subscriber {index}: {bytes} bytes are not a multiple of the frame's {length}")
        } else if bytes != expected * length {
            format!("subscriber {index}: {} messages instead of {expected}", bytes / length)
        } else {
            return;
        };
        self.counts.miscounted += 1;
        if self.miscounts.len() < REASONS_MAX {
            self.miscounts.push(reason);
        }
    }

    fn add(&mut self, tally: Tally) {
        let counts = &mut self.counts;
        counts.lost += tally.lost;
        counts.outstanding += tally.outstanding;
        counts.duplicated += tally.duplicated;
        counts.reordered += tally.reordered;
        counts.misrouted += tally.invented;
    }

    fn outcome(&self, plan: &Plan) -> Outcome {
        let Counts { published, expected, foreign, .. } = self.counts;
        let ignored = if plan.ignore_foreign { foreign } else { 0 };
        let right = Counts { published, expected, foreign: ignored, ..Counts::default() };
        match (self.void_reasons.is_empty(), self.counts == right) {
            (false, _) => Outcome::Void,
            (true, false) => Outcome::Broken,
            (true, true) => Outcome::Exact,
        }
    }
}

/// Returns the number of messages of each stream that were really published. If a publisher's connection has ended, a
/// message that its socket took may never have reached the server, so only what a subscriber has seen counts.
fn published(generators: &[&Generator<'_>], written: &[u64]) -> Vec<u64> {
    let plan = generators[0].plan;
    let mut seen = vec![0; written.len()];
    for connection in generators.iter().flat_map(|generator| &generator.connections) {
        let State::Reading(reading) = &connection.state else { continue };
        for (slot, checker) in reading.checkers.iter().enumerate() {
            let stream = plan.topics.stream_of_slot(reading.first_topic as usize, slot);
            if let Some(most) = seen.get_mut(stream) {
                *most = checker.next().max(*most);
            }
        }
    }
    let of_stream = |(stream, (&written, seen)): (usize, (&u64, u64))| {
        let by_others = generators.iter().filter_map(|generator| generator.written.get(stream));
        let written = by_others.fold(written, |most, own| most.max(*own));
        let seen = seen.min(generators[0].crew.pushed(stream));
        if has_open_publisher(generators, stream) { written.max(seen) } else { seen }
    };
    written.iter().zip(seen).enumerate().map(of_stream).collect()
}

/// Returns the number of messages that wait for connections that are still open, and that the server did not take.
fn unwritten(generators: &[&Generator<'_>], published: &[u64]) -> u64 {
    let open = published.iter().enumerate().filter(|&(stream, _)| has_open_publisher(generators, stream));
    open.map(|(stream, published)| generators[0].crew.pushed(stream).saturating_sub(*published)).sum()
}

fn has_open_publisher(generators: &[&Generator<'_>], stream: usize) -> bool {
    let publisher = generators[0].plan.topics.publisher_of(stream);
    let own = generators.iter().find(|generator| generator.has_publisher(publisher));
    let connection = own.and_then(|generator| generator.connections.get(generator.publisher_at(publisher)));
    connection.is_some_and(|connection| connection.socket.is_some())
}

fn figures(
    leader: &Generator<'_>,
    [latency, uncorrected]: &[Histogram<u64>; 2],
    [start, end]: [Edge; 2],
    series: Vec<Moment>,
) -> Figures {
    let window_ns = end.time_ns - start.time_ns;
    let seconds = window_ns as f64 / 1e9;
    let deliveries = leader.deliveries(&end.received) - leader.deliveries(&start.received);
    let reads = end.received.reads - start.received.reads;
    let per = |amount: f64, count: u64| if count == 0 { 0.0 } else { amount / count as f64 };
    let own_cpu_ns = end.own_cpu_ns - start.own_cpu_ns;
    let machine_busy_ns = end.machine.busy_ns.saturating_sub(start.machine.busy_ns);
    let server = end.server.zip(start.server).map(|(end, start)| {
        let cpu = end.since(start);
        ServerFigures {
            cpu,
            other_cores: per(machine_busy_ns.saturating_sub(cpu.total_ns() + own_cpu_ns) as f64, window_ns),
            cores: per(cpu.total_ns() as f64, window_ns),
            cpu_ns_per_delivery: per(cpu.total_ns() as f64, deliveries),
        }
    });
    let plan = leader.plan;
    let has_schedule = plan.activity.pace().is_none_or(|pace| matches!(pace.load, Load::Rate(_)));
    Figures {
        seconds,
        deliveries,
        deliveries_per_second: if seconds > 0.0 { deliveries as f64 / seconds } else { 0.0 },
        messages_per_read: per(deliveries as f64, reads),
        latency: Latency::from_histogram(latency),
        // Without a schedule both count from the write.
        latency_uncorrected: Latency::from_histogram(uncorrected).filter(|_| has_schedule),
        distribution: Distribution::from_histogram(latency),
        distribution_uncorrected: Distribution::from_histogram(uncorrected).filter(|_| has_schedule),
        series,
        generator: GeneratorFigures {
            cpu_ns: own_cpu_ns,
            cores: per(own_cpu_ns as f64, window_ns),
            cpu_ns_per_delivery: per(own_cpu_ns as f64, deliveries),
            spare: spare(&start, &end),
        },
        server,
    }
}
