//! The report as text for people.

use super::assertion::{Assertion, Verdict, verdict};
use super::units;
use crate::disturbance::JUDGED_WINDOW_MIN_NS;
use crate::report::{
    Counts, Figures, GeneratorFigures, Latency, Opening, Outcome, Report, ServerFigures, SubscriberCounts,
};
use crate::scenario_figures::ScenarioFigures;
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { subscribers, publishers, size, load, .. } = self;
        writeln!(out, "{subscribers} subscribers, {publishers} publishers, {size} B, load {load}")?;
        writeln!(out, "{}", outcome(self))?;
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
        if let more @ 1.. = more_ended(self) {
            writeln!(out, "  and {more} more")?;
        }
        for hint in &self.hints {
            writeln!(out, "hint          {hint}")?;
        }
        counted(self, out)?;
        let samples = [("foreign", &self.foreign_sample), ("corrupt", &self.corrupt_sample)];
        for (name, sample) in samples.into_iter().chain([("misrouted", &self.misrouted_sample)]) {
            for text in sample {
                writeln!(out, "  {name:11} {text}")?;
            }
        }
        for counts in &self.affected_subscribers {
            let SubscriberCounts { subscriber, lost, outstanding, duplicated, reordered, .. } = *counts;
            let SubscriberCounts { foreign, corrupt, misrouted, .. } = *counts;
            let numbers = [("lost", lost), ("outstanding", outstanding), ("duplicated", duplicated)];
            let others = [("reordered", reordered), ("foreign", foreign), ("corrupt", corrupt)];
            let all = numbers.into_iter().chain(others).chain([("misrouted", misrouted)]);
            writeln!(out, "  subscriber {subscriber}: {}", above_zero(all))?;
        }
        if let Some(opening) = self.opening {
            let seconds = opening.seconds;
            let Opening { connections, per_second, .. } = opening;
            writeln!(out, "connecting    {per_second:.0} connections/s ({connections} in {seconds:.3} s)")?;
        }
        for (name, value) in self.scenario_figures.iter().flat_map(|figures| figures.rows()) {
            writeln!(out, "{name:13} {value}")?;
        }
        if let Some(figures) = &self.figures {
            measured(figures, self.load != "none", out)?;
        }
        for (name, memory) in [("before the first connection", self.memory_before), ("at the end", self.memory_after)] {
            let Some(memory) = memory else { continue };
            writeln!(out, "server memory {name}: {memory}")?;
        }
        for assertion in &self.assertions {
            writeln!(out, "{assertion}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        measured(self, true, out)
    }
}

/// Writes the figures of a run; those about deliveries only if it has published.
fn measured(figures: &Figures, has_published: bool, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Figures { seconds, deliveries, deliveries_per_second, messages_per_read, .. } = figures;
    if has_published {
        writeln!(out, "deliveries    {deliveries_per_second:.0}/s ({deliveries} in {seconds:.3} s)")?;
        writeln!(out, "per read      {messages_per_read:.2} messages in one read of the generator")?;
    }
    let latency = format!("latency       {}", since(figures));
    for (name, latency) in [(&*latency, figures.latency), ("uncorrected   since written", figures.latency_uncorrected)]
    {
        let Some(Latency { p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. }) = latency else { continue };
        let times = [p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns].map(|ns| units::time(ns as f64));
        let [p50, p90, p99, p99_9, max] = times;
        writeln!(out, "{name}: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p99_9}, max {max}")?;
    }
    if let Some(ServerFigures { cpu, cores, cpu_ns_per_delivery, other_cores }) = figures.server {
        let (user, system) = (cpu.user_ns as f64 / 1e9, cpu.system_ns as f64 / 1e9);
        let total = user + system;
        let cost = if has_published { format!("{cpu_ns_per_delivery:.0} ns CPU per delivery ") } else { String::new() };
        writeln!(out, "server        {cost}({total:.2} s: user {user:.2}, system {system:.2}; {cores:.2} CPUs)")?;
        writeln!(out, "others        {other_cores:.2} CPUs busy with other programs")?;
    }
    let GeneratorFigures { cores, cpu_ns_per_delivery, spare, .. } = figures.generator;
    let is_judged = has_published && *seconds * 1e9 >= JUDGED_WINDOW_MIN_NS as f64;
    let warning = if is_judged && spare < SPARE_WARNED { " (it may have been the bottleneck)" } else { "" };
    let spare = spare * 100.0;
    let cost = if has_published { format!(", {cpu_ns_per_delivery:.0} ns CPU per delivery") } else { String::new() };
    writeln!(out, "generator     {spare:.0} % of its time to spare{warning}{cost} ({cores:.2} CPUs)")
}

/// Returns the number of connections that ended, or got a wrong number of bytes, and whose reason is not shown.
pub(crate) fn more_ended(report: &Report) -> u64 {
    let Counts { disconnected, miscounted, .. } = report.counts;
    (disconnected + miscounted).saturating_sub(report.disconnections.len() as u64)
}

/// Returns the numbers that are not zero, each with its name.
pub(crate) fn above_zero<'n>(numbers: impl Iterator<Item = (&'n str, u64)>) -> String {
    let shown = numbers.filter(|(_, number)| *number > 0).map(|(name, number)| format!("{name} {number}"));
    shown.collect::<Vec<_>>().join(", ")
}

/// Returns what is wrong with a run on one line; `None` if it has passed.
pub(crate) fn complaint(report: &Report, verdict: Verdict) -> Option<String> {
    let failed = report.assertions.iter().filter(|checked| !checked.holds);
    match verdict {
        Verdict::Passed => None,
        Verdict::Void => Some(format!("VOID: {}", report.void_reasons.join("; "))),
        Verdict::Broken => Some(format!("BROKEN: {}", report.mistakes())),
        Verdict::Failed => Some(failed.map(|checked| format!("FAILS {checked:#}")).collect::<Vec<_>>().join("; ")),
    }
}

/// Returns the start of the latency: a closed loop has no schedule, and no uncorrected latency.
pub(crate) fn since(figures: &Figures) -> &'static str {
    if figures.latency_uncorrected.is_some() { "since due" } else { "since pushed" }
}

/// Returns the verdict in words.
pub(crate) fn outcome(report: &Report) -> String {
    match report.outcome {
        Outcome::Exact => format!("exact: {}", checked(report)),
        Outcome::Broken if is_within_assertions(report) => {
            "BROKEN, within the assertions: deliveries or connections went wrong, see the counts".to_owned()
        }
        Outcome::Broken => "BROKEN: deliveries or connections went wrong, see the counts".to_owned(),
        Outcome::Void => "VOID: the figures would mean nothing".to_owned(),
    }
}

/// Returns what was checked in an exact run.
fn checked(report: &Report) -> String {
    let Report { subscribers, verified_subscribers: verified, counts, scenario_figures, .. } = report;
    let Counts { published, expected, foreign, .. } = *counts;
    let grouped = |number: usize| units::grouped(number as u64);
    let ignored =
        if foreign > 0 { format!("; ignored {} foreign messages", units::grouped(foreign)) } else { String::new() };
    let what = if published == 0 {
        "no connection ended, and no message was published".to_owned()
    } else if let Some(ScenarioFigures::Stall { stalled, .. }) = scenario_figures {
        let reading = grouped(subscribers.saturating_sub(*stalled as usize));
        format!(
            "{} deliveries to {reading} subscribers that kept reading, each once and in order",
            units::grouped(expected)
        )
    } else if verified < subscribers {
        let (verified, others) = (grouped(*verified), grouped(subscribers - verified));
        format!("{verified} subscribers got each message once and in order, {others} the right number of bytes")
    } else {
        let (subscribers, expected) = (grouped(*subscribers), units::grouped(expected));
        let order = if report.total_order { ", and in one order at all of them" } else { "" };
        format!("{expected} deliveries to {subscribers} subscribers, each once and in order{order}")
    };
    what + &ignored
}

/// Returns whether the assertions of a report forgive everything that went wrong.
fn is_within_assertions(report: &Report) -> bool {
    let assertions: Vec<Assertion> =
        report.assertions.iter().filter_map(|checked| checked.assertion.parse().ok()).collect();
    verdict(report, &assertions) == Verdict::Passed
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
pub(crate) const SPARE_WARNED: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;
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
            "  subscriber 7: lost 2, duplicated 1",
            "  corrupt     changed",
            "  misrouted   of another topic",
            "hint          --sleep may help",
            "connecting    4004 connections/s (1001 in 0.250 s)",
            "deliveries    1000000/s (6000000 in 6.000 s)",
            "server        700 ns CPU per delivery (4.20 s: user 1.20, system 3.00; 0.70 CPUs)",
            "generator     40 % of its time to spare, 900 ns CPU per delivery (0.90 CPUs)",
            "server memory at the end: RSS 9216 KiB, anonymous 3072 KiB, PSS 8192 KiB",
            "FAILS         p99<5ms (found: not measured)",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        for (name, value) in scenario_figures().rows() {
            let line = format!("{name:13} {value}");
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        for start in [
            "counted       lost 2, outstanding 4, duplicated 1, ",
            "latency       since due: p50 ",
            "uncorrected   since written: p50 ",
        ] {
            assert!(text.lines().any(|shown| shown.starts_with(start)), "{start}\n{text}");
        }
    }

    #[test]
    fn the_verdict_says_what_was_checked() {
        let mut run = Report { outcome: Outcome::Exact, ..bare() };
        run.counts = Counts { published: 6, expected: 6_000, ..Counts::default() };
        assert_eq!(outcome(&run), "exact: 6 000 deliveries to 1 000 subscribers, each once and in order");
        run.counts.foreign = 2;
        assert!(outcome(&run).ends_with("; ignored 2 foreign messages"));
        let (before, during) = (None, None);
        run.scenario_figures =
            Some(ScenarioFigures::Stall { stalled: 100, ended: 0, missed: 9, before, during, memory: None });
        assert!(outcome(&run).contains(" to 900 subscribers that kept reading, "), "{}", outcome(&run));
        let sampled = Report { verified_subscribers: 16, scenario_figures: None, ..run.clone() };
        assert!(outcome(&sampled).contains("16 subscribers got each message"), "{}", outcome(&sampled));
        let silent = Report { counts: Counts::default(), ..run };
        assert_eq!(outcome(&silent), "exact: no connection ended, and no message was published");
    }

    #[test]
    fn a_closed_loop_has_no_due_time() {
        let mut closed = report();
        let figures = closed.figures.as_mut().unwrap();
        figures.latency_uncorrected = None;
        let text = closed.to_string();
        assert!(text.contains("latency       since pushed: p50 ") && !text.contains("since due"), "{text}");
    }

    #[test]
    fn a_broken_run_may_be_within_its_assertions() {
        let asserted = |bounds: &[&str]| {
            let mut broken = bare();
            let check = |bound: &&str| bound.parse::<Assertion>().unwrap().check(&broken);
            broken.assertions = bounds.iter().map(check).collect();
            outcome(&broken)
        };
        assert!(asserted(&[]).starts_with("BROKEN: "));
        assert!(asserted(&["lost<10", "duplicated<10"]).starts_with("BROKEN, within the assertions: "));
        assert!(asserted(&["lost<10"]).starts_with("BROKEN: "));
        assert!(asserted(&["lost<2", "duplicated<10"]).starts_with("BROKEN: "));
    }

    #[test]
    fn what_is_not_filled_is_left_out() {
        let text = bare().to_string();
        for word in ["interrupted", "outstanding", "foreign     ", "connecting", "latency", "memory", "holds"] {
            assert!(!text.contains(word), "{word}\n{text}");
        }
    }
}
