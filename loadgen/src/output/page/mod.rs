//! The report as a page: one file of HTML for one run or two, which needs no other file and runs no script.

mod chart;
mod html;
mod latency;
mod load;
mod scale;
mod tables;

use super::text;
use crate::report::{Outcome, Report};
use crate::scenario_figures::ScenarioFigures;
use chart::{Colour, Tick};
pub use html::escape;
use latency::Bounds;
use load::Drawn;
use scale::Scale;
use std::fmt::Write as _;

/// A run on a page.
#[derive(Clone, Debug)]
struct Run<'a> {
    name: String,
    colour: Colour,
    report: &'a Report,
}

impl Run<'_> {
    /// Returns a label of this run's part of something, with the run's name if there is another run.
    fn labelled(&self, part: &str) -> String {
        if self.name.is_empty() { part.to_owned() } else { format!("{}, {part}", self.name) }
    }

    /// Returns what stands above the first column of the run's tables: a name only if there is another run.
    fn head(&self, alone: &'static str) -> &str {
        if self.name.is_empty() { alone } else { &self.name }
    }
}

/// Returns the page about one run.
pub fn page(report: &Report) -> String {
    let run = Run { name: String::new(), colour: Colour::First, report };
    let mut body = heading(&run, "h1");
    body += &tables::tiles(report);
    body += &cards(&[run]);
    whole(&format!("{} – ringhub-loadgen", title(report)), &body)
}

/// Returns the page about two runs, each with a name, side by side.
pub fn comparison_page(first: (&str, &Report), second: (&str, &Report)) -> String {
    let runs = [("A", first, Colour::First), ("B", second, Colour::Second)];
    let [one, other] =
        runs.map(|(letter, (name, report), colour)| Run { name: format!("{letter}: {name}"), colour, report });
    let mut body = String::from("<h1>Two runs compared</h1>");
    for run in [&one, &other] {
        let (colour, name) = (run.colour.class(), escape(&run.name));
        body += &format!("<p class=\"key\"><span><i class=\"{colour}\"></i>{name}</span></p>{}", heading(run, "h2"));
    }
    for difference in super::comparison::differences(one.report, other.report) {
        body += &format!("<p class=\"void\">{}</p>", escape(&difference));
    }
    let rows = super::comparison::rows(one.report, other.report);
    let table =
        html::table(&["", "A", "B", "B : A"], &rows.iter().map(super::comparison::Row::cells).collect::<Vec<_>>());
    body += &format!("<div class=\"cards\">{}</div>", card("The figures", "", &table, true));
    body += &cards(&[one, other]);
    whole("Two runs compared – ringhub-loadgen", &body)
}

/// Returns the title of a run: what was done.
fn title(report: &Report) -> String {
    let Report { subscribers, publishers, size, load, scenario, .. } = report;
    let subscribers = super::units::grouped(*subscribers as u64);
    let scenario = if scenario.is_empty() { "run" } else { scenario };
    match publishers {
        0 => format!("{scenario}: {subscribers} connections"),
        1 => format!("{scenario}: {subscribers} subscribers, {size} B, {load}"),
        _ => format!("{scenario}: {subscribers} subscribers, {publishers} publishers, {size} B, {load}"),
    }
}

/// Returns the title of a run, its verdict, and the reasons of the verdict.
fn heading(run: &Run<'_>, level: &str) -> String {
    let report = run.report;
    let class = match report.outcome {
        Outcome::Exact => "exact",
        Outcome::Broken => "broken",
        Outcome::Void => "void",
    };
    let (title, verdict) = (escape(&title(report)), text::outcome(report));
    let mut out = format!("<{level}>{title}</{level}><p class=\"verdict {class}\">{verdict}</p>");
    for failed in report.assertions.iter().filter(|checked| !checked.holds) {
        let failed = escape(&format!("{failed:#}"));
        _ = write!(out, "<p class=\"verdict broken\">An assertion does not hold: {failed}</p>");
    }
    if report.interrupted {
        out += "<p class=\"void\">Interrupted: the run was ended early.</p>";
    }
    if let Some(why) = &report.early_end {
        _ = write!(out, "<p class=\"void\">The window ended early: {}.</p>", escape(why));
    }
    let allowed = report.disturbances.iter().filter(|reason| !report.void_reasons.contains(reason));
    let reasons = report.void_reasons.iter().chain(allowed).chain(&report.disconnections);
    let more = Some(text::more_ended(report)).filter(|more| *more > 0).map(|more| format!("<li>and {more} more</li>"));
    let hints = report.hints.iter().map(|hint| format!("<li>Hint: {}</li>", escape(hint)));
    let reasons = reasons.map(|reason| format!("<li>{}</li>", escape(reason)));
    let reasons: String = reasons.chain(more).chain(hints).collect();
    if !reasons.is_empty() {
        _ = write!(out, "<ul>{reasons}</ul>");
    }
    out
}

/// Returns all cards with charts and tables.
fn cards(runs: &[Run<'_>]) -> String {
    let mut out = String::from("<div class=\"cards\">");
    let chart = |title: &str, note: &str, drawn: Drawn, beside: String| match drawn {
        Some((svg, legend)) => card(title, note, &format!("{}{svg}{beside}", key(&legend)), false),
        None => String::new(),
    };
    for run in runs {
        let title = if runs.len() > 1 { format!("p99 by level, {}", run.name) } else { "p99 by level".to_owned() };
        out += &chart(&title, "The latency axis is logarithmic.", latency::by_level(run.report), String::new());
    }
    let percentiles = tables::percentiles(runs);
    let note = "Both axes are logarithmic. Since due counts the wait of messages that the server was too slow to take.";
    out += &chart("Latency by percentile", note, latency::by_percentile(runs), percentiles);
    let throughput = chart(
        "Throughput",
        "Deliveries to all subscribers, per second.",
        load::throughput(runs),
        tables::throughput(runs),
    );
    // Two heat maps stand side by side.
    let (second, third) = match runs {
        [_] => (heat_maps(runs), throughput),
        _ => (throughput, heat_maps(runs)),
    };
    out = out + &second + &third;
    let note = match runs {
        [run] if matches!(run.report.scenario_figures, Some(ScenarioFigures::Storm { .. })) => {
            "CPU use. The time has the waits before and after each round."
        }
        [run] if run.report.figures.as_ref().is_some_and(|figures| figures.server.is_none()) => {
            "CPU use. Give --server-pid to see the server's. A spinning generator uses one CPU for each thread."
        }
        [_] => "CPU use of the server and of the generator. A spinning generator uses one CPU for each thread.",
        _ => "CPU use of each server.",
    };
    out += &chart("CPU", note, load::cpu(runs), tables::cpu(runs));
    let loss = load::loss(runs).map_or_else(String::new, |(svg, legend)| format!("{}{svg}", key(&legend)));
    let counts = tables::counts(runs);
    out += &card("Loss", "What went wrong, over the whole run.", &format!("{loss}{counts}"), false);
    for run in runs {
        let named = |title: &str| if runs.len() > 1 { format!("{title}, {}", run.name) } else { title.to_owned() };
        if let Some(figures) = &run.report.scenario_figures {
            out += &card(&named("Scenario"), "", &html::facts(&figures.rows()), false);
        }
        let assertions = tables::assertions(run.report);
        if !assertions.is_empty() {
            out += &card(&named("Assertions"), "", &assertions, false);
        }
        out += &card(&named("Command and machine"), "", &tables::circumstances(run.report), true);
        if let Some(figures) = run.report.figures.as_ref().filter(|figures| !figures.series.is_empty()) {
            let table = html::table(&load::HEAD, &load::rows(figures));
            let note = "One row for each part of the window. Percentiles are rounded up by an eighth at most, below \
                        1 µs to 1.02 µs.";
            let table = format!("<details><summary>Show all {} parts</summary>{table}</details>", figures.series.len());
            out += &card(&named("Parts of the window"), note, &table, true);
        }
    }
    out + "</div>"
}

/// Returns the heat maps of all runs, on the same scales, and the key of their shades.
fn heat_maps(runs: &[Run<'_>]) -> String {
    let all: Vec<_> = runs.iter().filter_map(|run| run.report.figures.as_ref()).collect();
    let Some(bounds) = Bounds::of(&all) else { return String::new() };
    let starts = latency::shade_starts(bounds.count_max);
    let first = latency::SHADES - starts.len();
    let swatches = starts.iter().enumerate().map(|(place, start)| {
        let (shade, start) = (first + place, super::units::short(*start as f64));
        format!("<span><i class=\"swatch shade{shade}\"></i> {start}</span>")
    });
    let key =
        format!("<div class=\"key\"><span>deliveries in a cell, from</span>{}</div>", swatches.collect::<String>());
    let maps = runs.iter().filter_map(|run| {
        let map = latency::over_time(run.report, &bounds)?;
        let title =
            if runs.len() > 1 { format!("Latency over time, {}", run.name) } else { "Latency over time".to_owned() };
        let note = match &run.report.scenario_figures {
            Some(ScenarioFigures::Stall { .. }) => "The latency axis is logarithmic. The stall begins at the line.",
            Some(ScenarioFigures::Ramp { .. }) => {
                "The latency axis is logarithmic. The time has the steps with their warm-ups and waits."
            }
            _ => "The latency axis is logarithmic.",
        };
        Some(card(&title, note, &format!("{key}{map}"), false))
    });
    maps.collect()
}

/// Returns the legend of a chart with more than one colour.
fn key(legend: &[(Colour, String)]) -> String {
    if legend.len() < 2 {
        return String::new();
    }
    let keys = legend.iter().map(|(colour, name)| {
        let (class, name) = (colour.class(), escape(name));
        format!("<span><i class=\"{class}\"></i>{name}</span>")
    });
    format!("<div class=\"key\">{}</div>", keys.collect::<String>())
}

/// Returns a card with a title, a note and its content.
fn card(title: &str, note: &str, content: &str, is_full: bool) -> String {
    let class = if is_full { "card full" } else { "card" };
    let note = if note.is_empty() { String::new() } else { format!("<figcaption>{}</figcaption>", escape(note)) };
    format!("<figure class=\"{class}\"><h2>{}</h2>{note}{content}</figure>", escape(title))
}

fn time_ticks(scale: &Scale) -> Vec<Tick> {
    scale.ticks().into_iter().map(|second| (second, super::units::significant(second))).collect()
}

/// Returns the whole document. Its policy forbids every other file and every script.
fn whole(title: &str, body: &str) -> String {
    let (title, style) = (escape(title), include_str!("style.css"));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{style}</style></head>\n<body><main>{body}</main></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::comparison;
    use crate::output::testing::{all_scenario_figures, bare, report};

    #[test]
    fn a_full_page_has_every_part_and_no_foreign_markup() {
        let page = page(&report());
        for part in [
            "<h1>fanout: 1 000 subscribers, 128 B, rate 1000</h1>",
            "<h2>Latency by percentile</h2>",
            "<h2>Latency over time</h2>",
            "<h2>Throughput</h2>",
            "<h2>CPU</h2>",
            "<h2>Loss</h2>",
            "<h2>Scenario</h2>",
            "<h2>Assertions</h2>",
            "<h2>Command and machine</h2>",
            "<h2>Parts of the window</h2>",
            "A CPU &amp; more",
            "&lt;script&gt;document.title=&#39;bad&#39;&lt;/script&gt;",
            "Interrupted: the run was ended early.",
            "<p class=\"verdict broken\">An assertion does not hold: p99&lt;5ms (found: not measured)</p>",
            "<li>Hint: --sleep may help</li>",
            "<span class=\"word\">--rate</span>",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg ").count(), 5);
        for foreign in ["<script", "http://", "https://", "src=", "url(", "NaN", "inf"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.len() < 250_000, "{} bytes", page.len());
    }

    #[test]
    fn a_run_without_figures_has_a_page_too() {
        let mut void = bare();
        (void.outcome, void.void) = (Outcome::Void, true);
        let page = page(&void);
        assert!(page.contains("VOID: the figures would mean nothing") && page.contains("busy with something else"));
        assert!(!page.contains("<svg ") && page.contains("<h2>Loss</h2>"), "{page}");
    }

    #[test]
    fn a_run_that_only_connects_shows_its_connections() {
        let mut idle = report();
        (idle.publishers, idle.counts) = (0, crate::report::Counts::default());
        let figures = idle.figures.as_mut().unwrap();
        (figures.deliveries, figures.latency, figures.distribution) = (0, None, None);
        let page = page(&idle);
        assert!(page.contains("<b>1 000</b><span>connections</span>") && page.contains("connections per second"));
        for absent in ["<h2>Throughput</h2>", "deliveries per second", "lost or outstanding", "CPU per delivery"] {
            assert!(!page.contains(absent), "{absent}");
        }
    }

    #[test]
    fn a_page_shows_what_its_scenario_is_about() {
        for figures in all_scenario_figures() {
            let page = page(&Report { scenario_figures: Some(figures.clone()), ..report() });
            for (name, _) in figures.named() {
                let title = comparison::tests::title(name).unwrap();
                assert!(page.contains(&format!("<span>{title}</span>")), "{name}: {title}");
            }
            let is_ramp = matches!(figures, ScenarioFigures::Ramp { .. });
            assert_eq!(page.contains("<h2>p99 by level</h2>"), is_ramp);
            assert_eq!(page.contains("the bound, 4 ns"), is_ramp);
            assert_eq!(page.contains("<span>p99 latency</span>"), !is_ramp);
            let is_stall = matches!(figures, ScenarioFigures::Stall { .. });
            assert_eq!(page.contains("<title>the stall begins</title>"), is_stall);
        }
    }

    #[test]
    fn a_short_window_accuses_no_generator() {
        let mut short = report();
        assert!(page(&short).contains("The generator had 40 % of its time to spare. Other programs used 0.05 CPUs."));
        short.figures.as_mut().unwrap().seconds = 0.3;
        let page = page(&short);
        assert!(!page.contains("of its time to spare") && page.contains("Other programs used 0.05 CPUs."), "{page}");
    }

    #[test]
    fn two_runs_share_their_scales() {
        let (one, mut other) = (report(), report());
        (other.size, other.interrupted) = (64, false);
        let page = comparison_page(("a<.json", &one), ("b.json", &other));
        assert_eq!(page.matches("<svg ").count(), 6);
        assert!(page.contains("A: a&lt;.json") && page.contains("B: b.json"));
        assert!(page.contains("The runs differ in their size of a message: 128 B and 64 B"), "{page}");
        let ticks = |title: &str| {
            let map = page.split_once(title).unwrap().1.split_once("</svg>").unwrap().0;
            map.matches("class=\"tick y\"").count()
        };
        assert_eq!(ticks("Latency over time, A"), ticks("Latency over time, B"));
    }
}
