//! The report as text for people.

use crate::process::Memory;
use crate::report::{Counts, Figures, GeneratorFigures, Latency, Outcome, Report, ServerFigures, SubscriberCounts};
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { subscribers, publishers, size, load, .. } = self;
        writeln!(out, "{subscribers} subscribers, {publishers} publishers, {size} B, load {load}")?;
        writeln!(out, "{}", outcome(self.outcome))?;
        if self.interrupted {
            writeln!(out, "interrupted: the run was ended early")?;
        }
        if let Some(why) = &self.early_end {
            writeln!(out, "the window ended early: {why}")?;
        }
        let allowed = self.disturbances.iter().filter(|reason| !self.void_reasons.contains(reason));
        for reason in self.void_reasons.iter().chain(allowed).chain(&self.disconnections) {
            writeln!(out, "  {reason}")?;
        }
        counted(self, out)?;
        for text in &self.foreign_sample {
            writeln!(out, "  foreign     {text}")?;
        }
        for counts in &self.affected_subscribers {
            let SubscriberCounts { subscriber, lost, outstanding, duplicated, reordered, .. } = counts;
            let SubscriberCounts { foreign, corrupt, misrouted, .. } = counts;
            writeln!(
                out,
                "  subscriber {subscriber}: lost {lost}, outstanding {outstanding}, duplicated {duplicated}, \
                 reordered {reordered}, foreign {foreign}, corrupt {corrupt}, misrouted {misrouted}"
            )?;
        }
        if let Some(opening) = self.opening {
            let seconds = opening.seconds;
            writeln!(out, "connecting    {:.0}/s ({} in {seconds:.3} s)", opening.per_second, opening.connections)?;
        }
        for (name, value) in self.scenario_figures.iter().flat_map(|figures| figures.rows()) {
            writeln!(out, "{name:13} {value}")?;
        }
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
        for assertion in &self.assertions {
            writeln!(out, "{assertion}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { seconds, deliveries, deliveries_per_second, messages_per_read, .. } = self;
        writeln!(out, "deliveries    {deliveries_per_second:.0}/s ({deliveries} in {seconds:.3} s)")?;
        writeln!(out, "per read      {messages_per_read:.2} messages")?;
        for (name, latency) in [("latency", self.latency), ("uncorrected", self.latency_uncorrected)] {
            let Some(Latency { p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. }) = latency else { continue };
            let [p50, p90, p99, p99_9, max] = [p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns].map(|ns| ns as f64 / 1e3);
            writeln!(out, "{name:13} p50 {p50:.1} µs, p90 {p90:.1}, p99 {p99:.1}, p99.9 {p99_9:.1}, max {max:.1}")?;
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
        let GeneratorFigures { cores, cpu_ns_per_delivery, spare, .. } = self.generator;
        let warning = if spare < SPARE_MIN { " (it may have been the bottleneck)" } else { "" };
        writeln!(
            out,
            "generator     {:.0} % of its time to spare{warning}, {cpu_ns_per_delivery:.0} ns CPU per delivery \
             ({cores:.2} CPUs)",
            spare * 100.0
        )
    }
}

/// Returns the verdict in words.
pub(crate) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Exact => "exact: every message arrived once and in order",
        Outcome::Broken => "BROKEN: deliveries or connections went wrong, see the counts",
        Outcome::Void => "VOID: the figures would mean nothing",
    }
}

/// Writes the counts.
fn counted(report: &Report, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Counts { published, expected, lost, outstanding, duplicated, reordered, foreign, corrupt, .. } = report.counts;
    let Counts { disconnected, other_orders, unpublished, misrouted, miscounted, .. } = report.counts;
    if unpublished > 0 {
        writeln!(out, "unpublished   {unpublished} messages were due, and the server did not take them")?;
    }
    writeln!(out, "published     {published}, expected deliveries {expected}")?;
    let others = if other_orders > 0 { format!(", other orders {other_orders}") } else { String::new() };
    let miscounted = if miscounted > 0 { format!(", miscounted {miscounted}") } else { String::new() };
    let waiting = if outstanding > 0 { format!(", outstanding {outstanding}") } else { String::new() };
    writeln!(
        out,
        "counted       lost {lost}{waiting}, duplicated {duplicated}, reordered {reordered}, foreign {foreign}, \
         corrupt {corrupt}, misrouted {misrouted}, disconnected {disconnected}{others}{miscounted} \
         ({} of {} subscribers read every frame)",
        report.verified_subscribers, report.subscribers
    )
}

/// Below this fraction of time to spare a report says that the generator may have been the bottleneck.
pub(crate) const SPARE_MIN: f64 = 0.05;

#[cfg(test)]
mod tests {
    use crate::output::testing::{bare, report, scenario_figures};

    #[test]
    fn what_is_filled_is_shown() {
        let mut full = report();
        full.counts.outstanding = 4;
        let text = full.to_string();
        for line in [
            "BROKEN: deliveries or connections went wrong, see the counts",
            "interrupted: the run was ended early",
            "  subscriber 3: closed by the server with 1008",
            "  foreign     <script>document.title='bad'</script>",
            "  subscriber 7: lost 2, outstanding 0, duplicated 1, reordered 0, foreign 0, corrupt 0, misrouted 0",
            "connecting    4004/s (1001 in 0.250 s)",
            "deliveries    1000000/s (6000000 in 6.000 s)",
            "server        700 ns CPU per delivery (4.20 s: user 1.20, system 3.00; 0.70 CPUs)",
            "generator     40 % of its time to spare, 900 ns CPU per delivery (0.90 CPUs)",
            "memory after  RSS 9216 KiB, anonymous 3072 KiB, PSS 8192 KiB",
            "FAILS         p99<5ms (found: not measured)",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        for (name, value) in scenario_figures().rows() {
            let line = format!("{name:13} {value}");
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        for start in ["counted       lost 2, outstanding 4, duplicated 1, ", "latency       p50 ", "uncorrected   p50 "]
        {
            assert!(text.lines().any(|shown| shown.starts_with(start)), "{start}\n{text}");
        }
    }

    #[test]
    fn what_is_not_filled_is_left_out() {
        let text = bare().to_string();
        for word in ["interrupted", "outstanding", "foreign     ", "connecting", "latency", "memory", "holds"] {
            assert!(!text.contains(word), "{word}\n{text}");
        }
    }
}
