//! The charts of load: throughput, CPU, and loss over time.

use super::chart::{Chart, Colour, Tick};
use super::latency::{condensed, span};
use super::scale::Scale;
use super::{Run, time_ticks};
use crate::moment::Moment;
use crate::output::units;
use crate::report::Figures;

/// A chart, and the legend of its colours if it has more than one.
pub(crate) type Drawn = Option<(String, Vec<(Colour, String)>)>;

/// Returns the chart of deliveries per second; `None` without a delivery, as in a run that only connects.
pub(crate) fn throughput(runs: &[Run<'_>]) -> Drawn {
    if runs.iter().all(|run| run.report.figures.as_ref().is_none_or(|figures| figures.deliveries == 0)) {
        return None;
    }
    let rate = |moment: &Moment| Some(per_second(moment.deliveries, moment));
    let lines = runs.iter().map(|run| Line::of(run, run.head("deliveries").to_owned(), run.colour, 1, rate));
    let format = |rate: f64| format!("{}/s", units::short(rate));
    draw(lines.collect(), "Deliveries per second over time", format)
}

/// Returns the chart of CPUs in use: by the server and the generator of one run, or by the servers of two.
pub(crate) fn cpu(runs: &[Run<'_>]) -> Drawn {
    let server = |moment: &Moment| moment.server_cpu_ns.map(|cpu_ns| cpu_ns as f64 / moment.span_ns.max(1) as f64);
    let own = |moment: &Moment| Some(moment.own_cpu_ns as f64 / moment.span_ns.max(1) as f64);
    let lines = match runs {
        [run] => vec![
            Line::of(run, "server".to_owned(), Colour::First, CPU_SPAN_NS, server),
            Line::of(run, "generator".to_owned(), Colour::Second, CPU_SPAN_NS, own),
        ],
        runs => runs.iter().map(|run| Line::of(run, run.name.clone(), run.colour, CPU_SPAN_NS, server)).collect(),
    };
    draw(lines, "CPUs in use over time", units::short)
}

/// Returns the chart of the gaps so far; `None` if no subscriber had a gap at any time.
pub(crate) fn loss(runs: &[Run<'_>]) -> Drawn {
    let lost = |moment: &Moment| moment.lost.map(|lost| lost as f64);
    let lines: Vec<Line> =
        runs.iter().map(|run| Line::of(run, run.head("gaps").to_owned(), run.colour, 1, lost)).collect();
    let is_lossy = lines.iter().flat_map(|line| &line.points).any(|(_, lost)| *lost > 0.0);
    if is_lossy { draw(lines, "Gaps so far, over time", units::short) } else { None }
}

/// Returns the rows of the table with the parts of the window.
pub(crate) fn rows(figures: &Figures) -> Vec<Vec<String>> {
    let cores = |cpu_ns: u64, moment: &Moment| format!("{:.2}", cpu_ns as f64 / moment.span_ns.max(1) as f64);
    let rows = figures.series.iter().map(|moment| {
        let latency = |quantile| moment.latency.quantile_ns(quantile);
        let latency = |quantile| latency(quantile).map_or_else(absent, |ns| units::time(ns as f64));
        vec![
            format!("{:.1}", moment.at_ns as f64 / 1e9),
            units::grouped(per_second(moment.deliveries, moment).round() as u64),
            latency(0.5),
            latency(0.99),
            moment.server_cpu_ns.map_or_else(absent, |cpu_ns| cores(cpu_ns, moment)),
            cores(moment.own_cpu_ns, moment),
            units::grouped(moment.connections as u64),
            moment.lost.map_or_else(absent, units::grouped),
        ]
    });
    rows.collect()
}

/// The head of this table.
pub(crate) const HEAD: [&str; 8] =
    ["second", "deliveries/s", "p50", "p99", "server CPUs", "generator CPUs", "connections", "gaps so far"];

/// What stands in a table for a value that was not measured.
pub(crate) fn absent() -> String {
    "–".to_owned()
}

/// A line over time.
struct Line {
    name: String,
    colour: Colour,
    points: Vec<(f64, f64)>,
    /// The parts of the window, each with the text about its point.
    parts: Vec<(f64, f64, f64)>,
}

impl Line {
    /// Makes a point of each part of `span_ns` at least; parts without a value are left out.
    fn of(run: &Run<'_>, name: String, colour: Colour, span_ns: u64, value: fn(&Moment) -> Option<f64>) -> Line {
        let series = run.report.figures.as_ref().map_or(&[][..], |figures| &figures.series);
        let shortest_ns = series.iter().map(|moment| moment.span_ns).max().unwrap_or(1).max(1);
        let stride = span_ns.div_ceil(shortest_ns).max(1) as usize;
        let mut parts = condensed(series, series.len().div_ceil(stride).max(1));
        // The end of the window cuts the last part. In a very short part the value would be that of few events.
        if let [.., before, last] = &mut parts[..]
            && last.span_ns < before.span_ns / 2
        {
            before.extend(last);
            parts.pop();
        }
        let parts = parts.iter().filter_map(|moment| {
            let (from, to) = span(moment);
            Some((from, to, value(moment)?))
        });
        let parts: Vec<(f64, f64, f64)> = parts.collect();
        let points = parts.iter().map(|&(from, to, value)| ((from + to) / 2.0, value)).collect();
        Line { name, colour, points, parts }
    }
}

fn draw(mut lines: Vec<Line>, label: &str, format: fn(f64) -> String) -> Drawn {
    lines.retain(|line| !line.points.is_empty());
    let high = lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).reduce(f64::max)?;
    let seconds = lines.iter().flat_map(|line| &line.parts).map(|(_, to, _)| *to).fold(0.0, f64::max);
    let (x, y) = (Scale::exact(seconds), Scale::linear(high));
    let y_ticks: Vec<Tick> = y.ticks().into_iter().map(|value| (value, format(value))).collect();
    let mut chart = Chart::new(x, &time_ticks(&x), "seconds since the start of the window", y, &y_ticks);
    if let [line] = &lines[..] {
        chart.area(line.colour, &line.points);
    }
    for line in &lines {
        chart.line(line.colour, &line.points);
    }
    if let Some(first) = lines.first() {
        for &(from, to, value) in &first.parts {
            let mut texts = vec![format!("{}: {}", first.name, format(value))];
            for other in &lines[1..] {
                let same = other.parts.iter().find(|part| part.0 <= (from + to) / 2.0 && (from + to) / 2.0 < part.1);
                texts.extend(same.map(|part| format!("{}: {}", other.name, format(part.2))));
            }
            chart.hit(from, to, &format!("{from:.1} to {to:.1} s, {}", texts.join(", ")));
        }
    }
    let legend = lines.iter().map(|line| (line.colour, line.name.clone())).collect();
    Some((chart.svg(label), legend))
}

fn per_second(count: u64, moment: &Moment) -> f64 {
    count as f64 * 1e9 / moment.span_ns.max(1) as f64
}

/// The kernel counts CPU time in ticks of 10 ms, so shorter parts would show the ticks.
const CPU_SPAN_NS: u64 = 500_000_000;
