//! The report of a run, for people and for programs.

use crate::process::{Cpu, Memory};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The verdict, its reasons, and the figures if they can be trusted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The verdict.
    pub outcome: Outcome,
    /// Whether the figures are missing because they would mean nothing.
    pub void: bool,
    /// The first few reasons for which the run is void.
    pub void_reasons: Vec<String>,
    /// The first few connections that the server ended, each with the way in which it ended.
    pub disconnections: Vec<String>,
    /// Connections that received.
    pub subscribers: usize,
    /// Connections that published.
    pub publishers: usize,
    /// Payload bytes of each message.
    pub size: usize,
    /// `rate N`, `in-flight N`, `unthrottled` or `none`.
    pub load: String,
    /// Subscribers that read every frame; of the others only bytes were counted.
    pub verified_subscribers: usize,
    /// The counts from the first connection to the last delivery.
    pub counts: Counts,
    /// The measurements inside the window; `None` if the run is void.
    pub figures: Option<Figures>,
    /// The server's memory before the first connection.
    pub memory_before: Option<Memory>,
    /// The server's memory at the end, while all connections are still open.
    pub memory_after: Option<Memory>,
}

/// The verdict about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything arrived once and in order.
    Exact,
    /// A message was lost, repeated, reordered or corrupted, or a connection ended.
    Broken,
    /// A subscriber whose bytes were only counted got a wrong number of bytes.
    Void,
}

/// Exact counts over all subscribers that read their frames. All counts but the first two are 0 in a good run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages published.
    pub published: u64,
    /// Expected deliveries of these messages to all subscribers.
    pub expected: u64,
    /// Deliveries that never arrived.
    pub lost: u64,
    /// Deliveries that arrived again.
    pub duplicated: u64,
    /// Deliveries that arrived after a later one.
    pub reordered: u64,
    /// Messages that were not published in this run, or were not for the connection that received them.
    pub foreign: u64,
    /// Messages that arrived changed.
    pub corrupt: u64,
    /// Connections that the server ended.
    pub disconnected: u64,
    /// Orders of arrival besides the first, if `total_order` is checked.
    pub other_orders: u64,
}

/// The measurements inside the window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// The length of the window.
    pub seconds: f64,
    /// Messages that arrived inside the window, over all subscribers.
    pub deliveries: u64,
    /// These deliveries per second.
    pub deliveries_per_second: f64,
    /// The mean number of messages that one read found, which shows how many the server put into one send.
    pub messages_per_read: f64,
    /// The latency of messages that were due inside the window, at subscribers that read their frames. `None` if there
    /// was no such message, or if messages are too small for a time.
    pub latency: Option<Latency>,
    /// The generator's own figures.
    pub generator: GeneratorFigures,
    /// The server's figures, if its process is known.
    pub server: Option<ServerFigures>,
}

/// The time from a message's due time to the subscriber's read, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "percentiles")]
pub struct Latency {
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub max_ns: u64,
    /// The number of recorded deliveries.
    pub count: u64,
}

impl Latency {
    pub(crate) fn from_histogram(histogram: &Histogram<u64>) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Some(Latency {
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            max_ns: histogram.max(),
            count: histogram.len(),
        })
    }
}

/// Figures that show whether the generator could have been the bottleneck.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GeneratorFigures {
    /// CPU time inside the window; a spinning generator uses the whole window.
    pub cpu_ns: u64,
    /// Fraction of the window in which there was nothing to read and nothing to publish.
    pub spare: f64,
}

/// The server's CPU time inside the window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerFigures {
    /// CPU time of the whole process.
    pub cpu: Cpu,
    /// This CPU time as a number of CPUs.
    pub cores: f64,
    /// This CPU time per delivery.
    pub cpu_ns_per_delivery: f64,
    /// CPUs that were busy with other programs than the server and the generator, or taken by a hypervisor. The higher
    /// this is, the less reliable the other figures are.
    pub other_cores: f64,
}

impl Report {
    /// Returns the report as one JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report of plain fields serialises")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { subscribers, publishers, size, load, counts, .. } = self;
        writeln!(out, "{subscribers} subscribers, {publishers} publishers, {size} B, load {load}")?;
        match self.outcome {
            Outcome::Exact => writeln!(out, "exact: every message arrived once and in order")?,
            Outcome::Broken => writeln!(out, "BROKEN: deliveries or connections went wrong, see the counts")?,
            Outcome::Void => writeln!(out, "VOID: the figures would mean nothing")?,
        }
        for reason in self.void_reasons.iter().chain(&self.disconnections) {
            writeln!(out, "  {reason}")?;
        }
        let Counts { published, expected, lost, duplicated, reordered, foreign, corrupt, disconnected, other_orders } =
            counts;
        writeln!(out, "published     {published}, expected deliveries {expected}")?;
        writeln!(
            out,
            "counted       lost {lost}, duplicated {duplicated}, reordered {reordered}, foreign {foreign}, \
             corrupt {corrupt}, disconnected {disconnected}, other orders {other_orders} \
             ({} of {subscribers} subscribers read every frame)",
            self.verified_subscribers
        )?;
        if let Some(figures) = &self.figures {
            figures.fmt(out)?;
        }
        for (name, memory) in [("memory before", self.memory_before), ("memory after", self.memory_after)] {
            let Some(memory) = memory else { continue };
            let kib =
                |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{} KiB", bytes / 1_024));
            let Memory { rss, rss_anon, pss, .. } = memory;
            writeln!(out, "{name:13} RSS {}, anonymous {}, PSS {}", kib(rss), kib(rss_anon), kib(pss))?;
        }
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { seconds, deliveries, deliveries_per_second, messages_per_read, .. } = self;
        writeln!(out, "deliveries    {deliveries_per_second:.0}/s ({deliveries} in {seconds:.3} s)")?;
        writeln!(out, "per read      {messages_per_read:.2} messages")?;
        if let Some(Latency { p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. }) = self.latency {
            let micros = |ns: u64| ns as f64 / 1e3;
            let (p50, p90, p99, p99_9) = (micros(p50_ns), micros(p90_ns), micros(p99_ns), micros(p99_9_ns));
            let max = micros(max_ns);
            writeln!(out, "latency       p50 {p50:.1} µs, p90 {p90:.1}, p99 {p99:.1}, p99.9 {p99_9:.1}, max {max:.1}")?;
        }
        if let Some(ServerFigures { cpu, cores, cpu_ns_per_delivery, other_cores }) = self.server {
            let (user, system) = (cpu.user_ns as f64 / 1e9, cpu.system_ns as f64 / 1e9);
            let total = user + system;
            writeln!(
                out,
                "server        {cpu_ns_per_delivery:.0} ns CPU per delivery \
                 ({total:.2} s: user {user:.2}, system {system:.2}; {cores:.2} CPUs)"
            )?;
            writeln!(out, "others        {other_cores:.2} CPUs busy with something else")?;
        }
        let GeneratorFigures { cpu_ns, spare } = self.generator;
        let warning = if spare < SPARE_MIN { " (it may have been the bottleneck)" } else { "" };
        let cpu_seconds = cpu_ns as f64 / 1e9;
        writeln!(out, "generator     {:.0} % of its time to spare{warning}, {cpu_seconds:.2} s CPU", spare * 100.0)
    }
}

/// Below this fraction of time to spare a report says that the generator may have been the bottleneck.
const SPARE_MIN: f64 = 0.05;
