//! The tables of a page, with the exact numbers.

use super::Run;
use super::html::{escape, facts, table};
use super::load::absent;
use crate::disturbance::JUDGED_WINDOW_MIN_NS;
use crate::output::command_line::quoted;
use crate::output::{comparison, text, units};
use crate::report::{Counts, Figures, Latency, Report, ServerFigures};
use crate::scenario_figures::ScenarioFigures;
use std::fmt::Write as _;

/// Returns the main figures as large numbers.
pub(crate) fn tiles(report: &Report) -> String {
    // The steps of a ramp have loads and latencies of their own.
    let is_ramp = matches!(report.scenario_figures, Some(ScenarioFigures::Ramp { .. }));
    let figures = report.figures.as_ref();
    let latency = figures.and_then(|figures| figures.latency).filter(|_| !is_ramp);
    let time = |ns: u64| units::time(ns as f64);
    let wrong = report.counts.lost + report.counts.outstanding;
    let whole = |number: f64| units::grouped(number.round() as u64);
    let has_deliveries = report.counts.expected > 0;
    let tiles = [
        (
            "deliveries per second",
            figures.filter(|_| has_deliveries && !is_ramp).map(|figures| whole(figures.deliveries_per_second)),
        ),
        ("connections", Some(whole(report.subscribers as f64)).filter(|_| !has_deliveries)),
        ("connections per second", report.opening.filter(|_| !has_deliveries).map(|opening| whole(opening.per_second))),
        ("p50 latency", latency.map(|latency| time(latency.p50_ns))),
        ("p99 latency", latency.map(|latency| time(latency.p99_ns))),
        ("p99.9 latency", latency.map(|latency| time(latency.p99_9_ns))),
        ("lost or outstanding", Some(units::grouped(wrong)).filter(|_| has_deliveries)),
        (
            "server CPU per delivery",
            figures
                .filter(|_| has_deliveries)
                .and_then(|figures| figures.server.as_ref())
                .map(|server| units::time(server.cpu_ns_per_delivery)),
        ),
    ];
    let own = comparison::of_scenario(report).into_iter().map(|(title, value)| (title, Some(value)));
    let tiles = own.chain(tiles).filter_map(|(name, value)| {
        Some(format!("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(&value?), escape(name)))
    });
    format!("<div class=\"tiles\">{}</div>", tiles.collect::<String>())
}

/// Returns the percentiles of all runs, since due and since written.
pub(crate) fn percentiles(runs: &[Run<'_>]) -> String {
    let rows = runs.iter().flat_map(|run| {
        let of = |latency: fn(&Figures) -> Option<Latency>| run.report.figures.as_ref().and_then(latency);
        let rows = [
            (run.report.figures.as_ref().map_or("", text::since), of(|figures| figures.latency)),
            ("since written (uncorrected)", of(|figures| figures.latency_uncorrected)),
        ];
        rows.into_iter().filter_map(|(name, latency)| {
            let Latency { p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns, .. } = latency?;
            let times = [p50_ns, p90_ns, p99_ns, p99_9_ns, max_ns].map(|ns| units::time(ns as f64));
            Some([run.labelled(name)].into_iter().chain(times).collect())
        })
    });
    table(&["latency", "p50", "p90", "p99", "p99.9", "max"], &rows.collect::<Vec<_>>())
}

/// Returns the throughput of all runs.
pub(crate) fn throughput(runs: &[Run<'_>]) -> String {
    let rows = runs.iter().filter_map(|run| {
        let figures = run.report.figures.as_ref()?;
        let whole = |number: f64| units::grouped(number.round() as u64);
        let per_read = units::significant(figures.messages_per_read);
        let (rate, deliveries) = (whole(figures.deliveries_per_second), units::grouped(figures.deliveries));
        Some(vec![run.head("this run").to_owned(), rate, deliveries, format!("{:.2} s", figures.seconds), per_read])
    });
    table(&["", "per second", "deliveries", "window", "messages per read"], &rows.collect::<Vec<_>>())
}

/// Returns the CPU time of all runs.
pub(crate) fn cpu(runs: &[Run<'_>]) -> String {
    let second = |ns: u64| format!("{:.2} s", ns as f64 / 1e9);
    let (mut rows, mut notes) = (Vec::new(), String::new());
    for run in runs {
        let Some(Figures { generator, server, seconds, .. }) = &run.report.figures else { continue };
        if let Some(ServerFigures { cpu, cores, .. }) = server {
            let times = [cpu.user_ns, cpu.system_ns, cpu.total_ns()].map(second);
            let cores = format!("{cores:.2}");
            rows.push([run.labelled("server")].into_iter().chain(times).chain([cores]).collect());
        }
        let cores = if *seconds > 0.0 { generator.cpu_ns as f64 / 1e9 / seconds } else { 0.0 };
        let own = [run.labelled("generator"), absent(), absent(), second(generator.cpu_ns), format!("{cores:.2}")];
        rows.push(own.to_vec());
        let (spare, name) = (generator.spare * 100.0, escape(&run.labelled("The generator")));
        // In a shorter window a generator that has much to do has no time to spare, whatever it could do.
        let is_judged = *seconds * 1e9 >= JUDGED_WINDOW_MIN_NS as f64;
        let spare = is_judged.then(|| format!("{name} had {spare:.0} % of its time to spare."));
        let others = server.map(|server| format!("Other programs used {:.2} CPUs.", server.other_cores));
        let texts: Vec<String> = spare.into_iter().chain(others).collect();
        if !texts.is_empty() {
            _ = write!(notes, "<p class=\"soft\">{}</p>", texts.join(" "));
        }
    }
    table(&["CPU time", "user", "system", "both", "CPUs"], &rows) + &notes
}

/// Returns the counts of all runs, and the subscribers and messages that they are about.
pub(crate) fn counts(runs: &[Run<'_>]) -> String {
    let rows = COUNTS.iter().map(|(name, count)| {
        let counts = runs.iter().map(|run| units::grouped(count(&run.report.counts)));
        [(*name).to_owned()].into_iter().chain(counts).collect()
    });
    let heads = runs.iter().map(|run| if run.name.is_empty() { "number" } else { &run.name });
    let head: Vec<&str> = ["what"].into_iter().chain(heads).collect();
    let mut out = table(&head, &rows.collect::<Vec<_>>());
    for run in runs {
        out += &affected(run);
    }
    out
}

/// Returns the subscribers and the messages that went wrong in a run.
fn affected(run: &Run<'_>) -> String {
    let (report, mut out) = (run.report, String::new());
    if report.verified_subscribers < report.subscribers {
        let (verified, all) = (report.verified_subscribers, report.subscribers);
        _ = write!(out, "<p class=\"soft\">{verified} of {all} subscribers read every frame.</p>");
    }
    if !report.affected_subscribers.is_empty() {
        let rows = report.affected_subscribers.iter().map(|counts| {
            let numbers = [counts.subscriber as u64, counts.lost, counts.outstanding, counts.duplicated];
            let others = [counts.reordered, counts.foreign, counts.corrupt, counts.misrouted];
            numbers.iter().chain(&others).map(ToString::to_string).collect()
        });
        let name = run.labelled("subscriber");
        let head = [&*name, "lost", "outstanding", "duplicated", "reordered", "foreign", "corrupt", "misrouted"];
        out += &table(&head, &rows.collect::<Vec<_>>());
    }
    if !report.foreign_sample.is_empty() {
        let samples = report.foreign_sample.iter().map(|text| format!("<li><code>{}</code></li>", escape(text)));
        let (name, samples) = (escape(&run.labelled("Foreign messages")), samples.collect::<String>());
        _ = write!(out, "<p class=\"soft\">{name}:</p><ul>{samples}</ul>");
    }
    out
}

type Count = fn(&Counts) -> u64;

/// The counts in the order of the table.
const COUNTS: &[(&str, Count)] = &[
    ("published messages", |counts| counts.published),
    ("expected deliveries", |counts| counts.expected),
    ("lost", |counts| counts.lost),
    ("outstanding", |counts| counts.outstanding),
    ("duplicated", |counts| counts.duplicated),
    ("reordered", |counts| counts.reordered),
    ("foreign", |counts| counts.foreign),
    ("corrupt", |counts| counts.corrupt),
    ("misrouted", |counts| counts.misrouted),
    ("subscribers with a wrong number of bytes", |counts| counts.miscounted),
    ("disconnected connections", |counts| counts.disconnected),
    ("other orders", |counts| counts.other_orders),
    ("due, but not taken by the server", |counts| counts.unpublished),
];

/// Returns the assertions; empty without one.
pub(crate) fn assertions(report: &Report) -> String {
    let rows = report.assertions.iter().map(|checked| {
        let word = if checked.holds { "holds" } else { "fails" };
        vec![checked.assertion.clone(), checked.found_text.clone(), word.to_owned()]
    });
    table(&["assertion", "found", ""], &rows.collect::<Vec<_>>())
}

/// Returns the command line, the machine and the time of a run.
pub(crate) fn circumstances(report: &Report) -> String {
    let mut pairs = Vec::new();
    let mut add = |name: &str, value: Option<String>| pairs.extend(value.map(|value| (name.to_owned(), value)));
    add("program", report.program.clone());
    add("started", report.started_unix_ms.map(utc));
    if let Some(machine) = &report.machine {
        add("CPU", machine.cpu_model.clone());
        add("CPUs for the generator", Some(machine.cpus.to_string()));
        add("kernel", Some(format!("{}, {}", machine.kernel, machine.architecture)));
    }
    add(
        "connecting",
        report.opening.map(|opening| {
            let (connections, rate) = (units::grouped(opening.connections as u64), opening.per_second.round() as u64);
            format!("{connections} in {:.3} s, {} connections/s", opening.seconds, units::grouped(rate))
        }),
    );
    for (name, memory) in [
        ("server's memory before the first connection", report.memory_before),
        ("server's memory at the end", report.memory_after),
    ] {
        let Some(memory) = memory else { continue };
        let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let parts = [("resident", memory.rss), ("anonymous", memory.rss_anon), ("proportional", memory.pss)];
        let parts = parts.iter().filter_map(|(name, bytes)| Some(format!("{name} {}", mebibytes((*bytes)?))));
        add(name, Some(parts.collect::<Vec<_>>().join(", ")));
    }
    let mut out = String::new();
    if !report.command_line.is_empty() {
        // A line breaks between words only: the hyphens of a flag are no place for it.
        let quoted = report.command_line.iter().map(|word| quoted(std::slice::from_ref(word)));
        let words = quoted.map(|word| format!("<span class=\"word\">{}</span>", escape(&word)));
        _ = write!(out, "<p><code>{}</code></p>", words.collect::<Vec<_>>().join(" "));
    }
    out + &facts(&pairs)
}

/// Returns a time in UTC, as `2026-01-31 12:00:00 UTC`.
fn utc(unix_ms: u64) -> String {
    let (days, second) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3_600, second / 60 % 60, second % 60)
}

/// Returns the date of a day since 1970. Years are counted from March here, so that a leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    // The days from 1 March of the year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (unix_ms, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_000, "2000-02-28 23:59:59 UTC"),
            (951_782_400_999, "2000-02-29 00:00:00 UTC"),
            (1_709_251_200_000, "2024-03-01 00:00:00 UTC"),
            (1_798_761_599_000, "2026-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(unix_ms), text);
        }
    }
}
