//! The charts of latency: by percentile, and over time.

use super::chart::{Chart, Colour, Tick};
use super::scale::Scale;
use super::{Run, time_ticks};
use crate::moment::{LatencyRow, Moment, bucket_start_ns};
use crate::output::{text, units};
use crate::report::{Distribution, Figures, Latency, Report};
use crate::scenario_figures::ScenarioFigures;

/// Returns the chart of latency by percentile; `None` without a latency. One run is shown beside its uncorrected
/// latency, two runs beside each other.
pub(crate) fn by_percentile(runs: &[Run<'_>]) -> Option<(String, Vec<(Colour, String)>)> {
    let lines = lines(runs);
    let rows = || lines.iter().flat_map(|line| &line.distribution.rows);
    let values = || rows().map(|row| row.value_ns.max(1) as f64);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let widest = lines.iter().map(|line| nines(line.distribution.rows.last().map_or(1, |row| row.count), 1.0));
    let widest = widest.fold(2.0, f64::max);
    let x = Scale::exact(widest);
    let x_ticks: Vec<Tick> = (0..=widest as i32).map(|nines| (f64::from(nines), percentile(nines))).collect();
    // Labels such as 99.9999 are too long to stand side by side.
    let stride = x_ticks.len().div_ceil(6);
    let x_ticks: Vec<Tick> = x_ticks.into_iter().step_by(stride).collect();
    let y = Scale::log(low, high);
    let mut chart = Chart::new(x, &x_ticks, "percentile of the deliveries", y, &time_labels(&y));
    for line in &lines {
        let total = line.distribution.rows.last().map_or(1, |row| row.count);
        let points = line.distribution.rows.iter();
        let points: Vec<(f64, f64)> =
            points.map(|row| (nines(total, row.quantile), row.value_ns.max(1) as f64)).collect();
        chart.line(line.colour, &points);
    }
    for line in &lines {
        let total = line.distribution.rows.last().map_or(1, |row| row.count);
        for (name, quantile, value_ns) in marked(&line.latency) {
            let text = format!("{}, {name}: {}", line.name, units::time(value_ns as f64));
            chart.dot(line.colour, nines(total, quantile), value_ns.max(1) as f64, &text);
        }
    }
    let legend = lines.iter().map(|line| (line.colour, line.name.clone())).collect();
    Some((chart.svg("Latency by percentile, both on logarithmic scales"), legend))
}

/// Returns the chart of a ramp's p99 by level, with its bound; `None` if the run is no ramp, or without a latency.
pub(crate) fn by_level(report: &Report) -> Option<(String, Vec<(Colour, String)>)> {
    let Some(ScenarioFigures::Ramp { by, p99_bound_ns, steps, .. }) = &report.scenario_figures else { return None };
    let points = steps.iter().filter_map(|step| Some((step.level as f64, step.latency?.p99_ns.max(1) as f64)));
    let points: Vec<(f64, f64)> = points.collect();
    let bound = p99_bound_ns.map(|ns| ns.max(1) as f64);
    let values = || points.iter().map(|point| point.1).chain(bound);
    let (low, high) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let most = points.iter().map(|point| point.0).reduce(f64::max)?;
    let (x, y) = (Scale::linear(most), Scale::log(low, high));
    let x_ticks: Vec<Tick> = x.ticks().into_iter().map(|level| (level, units::short(level))).collect();
    let mut chart = Chart::new(x, &x_ticks, by, y, &time_labels(&y));
    chart.line(Colour::First, &points);
    for (level, p99_ns) in &points {
        chart.dot(Colour::First, *level, *p99_ns, &format!("{level} {by}: p99 {}", units::time(*p99_ns)));
    }
    let mut legend = vec![(Colour::First, "p99".to_owned())];
    if let Some(bound) = bound {
        chart.line(Colour::Second, &[(0.0, bound), (most, bound)]);
        legend.push((Colour::Second, format!("the bound, {}", units::time(bound))));
    }
    Some((chart.svg("p99 of the latency at each level of the ramp"), legend))
}

/// Returns the time at which a stall began, in seconds since the start of the window.
fn stall_begin(report: &Report) -> Option<f64> {
    let figures = report.figures.as_ref()?;
    // It begins in the middle of the window.
    matches!(report.scenario_figures, Some(ScenarioFigures::Stall { .. })).then_some(figures.seconds / 2.0)
}

/// Returns the heat map of a run's latency over time, on the scales of `of_all`; `None` without a latency.
pub(crate) fn over_time(report: &Report, of_all: &Bounds) -> Option<String> {
    let figures = report.figures.as_ref()?;
    let moments = condensed(&figures.series, COLUMNS_MAX);
    let (low, high) = (bucket_start_ns(of_all.first).max(LOWEST_NS) as f64, bucket_start_ns(of_all.last + 1) as f64);
    let y = Scale::log(low, high);
    let x = Scale::exact(of_all.seconds);
    let mut chart = Chart::new(x, &time_ticks(&x), "seconds since the start of the window", y, &time_labels(&y));
    let mut shades = vec![Vec::new(); SHADES];
    for moment in &moments {
        let (from, to) = span(moment);
        for (first, last, count) in merged(&moment.latency, of_all.merge) {
            let (low, high) = (bucket_start_ns(first).max(LOWEST_NS) as f64, bucket_start_ns(last + 1) as f64);
            shades[shade(count, of_all.count_max)].push([from, to, low, high]);
        }
    }
    shades.iter().any(|cells| !cells.is_empty()).then(|| {
        for (shade, cells) in shades.iter().enumerate() {
            chart.cells(shade, cells);
        }
        for moment in &moments {
            let (from, to) = span(moment);
            let at = |quantile| moment.latency.quantile_ns(quantile).map(|ns| units::time(ns as f64));
            let (Some(p50), Some(p99), Some(max)) = (at(0.5), at(0.99), at(1.0)) else { continue };
            let total = units::grouped(moment.latency.total());
            chart.hit(
                from,
                to,
                &format!("{from:.1} to {to:.1} s: {total} deliveries, p50 {p50}, p99 {p99}, max {max}"),
            );
        }
        if let Some(second) = stall_begin(report) {
            chart.mark(second, "the stall begins");
        }
        chart.svg("Latency over time. The stronger a cell's shade, the more deliveries")
    })
}

/// What the heat maps of a page have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// The buckets that have deliveries.
    first: usize,
    last: usize,
    /// The buckets that become one cell.
    merge: usize,
    /// The most deliveries in a cell.
    pub(crate) count_max: u64,
    seconds: f64,
}

impl Bounds {
    /// Returns the common bounds of all runs; `None` if there is no latency.
    pub(crate) fn of(all: &[&Figures]) -> Option<Bounds> {
        let rows = || all.iter().flat_map(|figures| &figures.series).map(|moment| &moment.latency);
        let rows = || rows().filter(|row| !row.counts.is_empty());
        let first = rows().map(|row| row.first).min()?;
        let last = rows().map(|row| row.first + row.counts.len() - 1).max()?;
        let merge = (last + 1 - first).div_ceil(ROWS_MAX).next_power_of_two();
        let condensed = all.iter().flat_map(|figures| condensed(&figures.series, COLUMNS_MAX));
        let counts = condensed.flat_map(|moment| merged(&moment.latency, merge));
        let count_max = counts.map(|(_, _, count)| count).max()?;
        let seconds = all.iter().flat_map(|figures| &figures.series).map(|moment| moment.at_ns).max()? as f64 / 1e9;
        Some(Bounds { first, last, merge, count_max, seconds })
    }
}

/// Returns the least count of each shade, for the key of a heat map.
pub(crate) fn shade_starts(count_max: u64) -> Vec<u64> {
    let mut starts: Vec<Option<u64>> = vec![None; SHADES];
    let mut count = 1;
    // A count that is a little larger than the one before misses no shade.
    while count <= count_max {
        starts[shade(count, count_max)].get_or_insert(count);
        count += (count / 64).max(1);
    }
    starts.into_iter().flatten().collect()
}

/// Returns the shade of a cell: equal steps of the count's logarithm.
fn shade(count: u64, count_max: u64) -> usize {
    if count_max <= 1 {
        return SHADES - 1;
    }
    let part = (count.max(1) as f64).ln() / (count_max as f64).ln();
    ((part * SHADES as f64) as usize).min(SHADES - 1)
}

/// Returns the non-empty cells of a row: the first bucket, the last bucket, and the count.
fn merged(row: &LatencyRow, merge: usize) -> Vec<(usize, usize, u64)> {
    let mut cells: Vec<(usize, usize, u64)> = Vec::new();
    for (place, &count) in row.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let first = (row.first + place) / merge * merge;
        match cells.last_mut() {
            Some(cell) if cell.0 == first => cell.2 += count,
            _ => cells.push((first, first + merge - 1, count)),
        }
    }
    cells
}

/// Returns the moments, of which neighbours become one until there are at most `most`.
pub(crate) fn condensed(series: &[Moment], most: usize) -> Vec<Moment> {
    let stride = series.len().div_ceil(most).max(1);
    let chunks = series.chunks(stride).map(|chunk| {
        let mut all = chunk[0].clone();
        chunk[1..].iter().for_each(|next| all.extend(next));
        all
    });
    chunks.collect()
}

/// Returns the start and the end of a moment in seconds.
pub(crate) fn span(moment: &Moment) -> (f64, f64) {
    (moment.at_ns.saturating_sub(moment.span_ns) as f64 / 1e9, moment.at_ns as f64 / 1e9)
}

/// A line of the chart by percentile.
struct Line<'a> {
    name: String,
    colour: Colour,
    distribution: &'a Distribution,
    latency: Latency,
}

fn lines<'a>(runs: &[Run<'a>]) -> Vec<Line<'a>> {
    let corrected = |run: &Run<'a>, name: String| {
        let figures = run.report.figures.as_ref()?;
        let (distribution, latency) = (figures.distribution.as_ref()?, figures.latency?);
        Some(Line { name, colour: run.colour, distribution, latency })
    };
    let [run] = runs else { return runs.iter().filter_map(|run| corrected(run, run.name.clone())).collect() };
    let uncorrected = run.report.figures.as_ref().and_then(|figures| {
        let (distribution, latency) = (figures.distribution_uncorrected.as_ref()?, figures.latency_uncorrected?);
        Some(Line { name: "since written (uncorrected)".to_owned(), colour: Colour::Second, distribution, latency })
    });
    let name = run.report.figures.as_ref().map_or("", text::since);
    corrected(run, name.to_owned()).into_iter().chain(uncorrected).collect()
}

/// The percentiles that have a dot, as the table has them.
fn marked(latency: &Latency) -> [(&'static str, f64, u64); 5] {
    [
        ("p50", 0.5, latency.p50_ns),
        ("p90", 0.9, latency.p90_ns),
        ("p99", 0.99, latency.p99_ns),
        ("p99.9", 0.999, latency.p99_9_ns),
        ("max", 1.0, latency.max_ns),
    ]
}

/// Returns the number of nines of a fraction: 1 for 0.9, 2 for 0.99. The fraction 1 counts as that which leaves out one
/// of `total` deliveries.
fn nines(total: u64, quantile: f64) -> f64 {
    (1.0 / (1.0 - quantile)).min(total.max(1) as f64).log10()
}

fn percentile(nines: i32) -> String {
    match nines {
        0 => "0".to_owned(),
        1 => "90".to_owned(),
        2 => "99".to_owned(),
        more => format!("99.{}", "9".repeat(more as usize - 2)),
    }
}

fn time_labels(scale: &Scale) -> Vec<Tick> {
    scale.ticks().into_iter().map(|ns| (ns, units::time(ns))).collect()
}

/// The shades of a heat map, lightest first.
pub(crate) const SHADES: usize = 7;

/// The lower end of the first bucket, which begins at 0, on a logarithmic scale.
const LOWEST_NS: u64 = 512;

const ROWS_MAX: usize = 48;
const COLUMNS_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_of_a_fraction() {
        assert_eq!((nines(1_000_000, 0.0), nines(1_000, 1.0)), (0.0, 3.0));
        assert!((nines(1_000_000, 0.99) - 2.0).abs() < 1e-9);
        // Three deliveries cannot tell 99 % from 100 %.
        assert_eq!(nines(3, 0.99), nines(3, 1.0));
        assert_eq!([0, 1, 2, 3, 5].map(percentile), ["0", "90", "99", "99.9", "99.999"]);
    }

    #[test]
    fn shades_grow_with_the_count() {
        assert_eq!((shade(1, 1), shade(1, 100), shade(100, 100)), (SHADES - 1, 0, SHADES - 1));
        for count_max in [1, 2, 7, 1_000, 123_456_789] {
            let starts = shade_starts(count_max);
            assert!(!starts.is_empty() && starts[0] == 1 && starts.is_sorted(), "{count_max}: {starts:?}");
            assert!((1..1_000).all(|count| shade(count, 1_000) <= shade(count + 1, 1_000)));
        }
    }

    #[test]
    fn cells_and_moments_are_merged_without_loss() {
        let row = LatencyRow { first: 3, counts: vec![1, 0, 2, 3, 4] };
        assert_eq!(merged(&row, 1), [(3, 3, 1), (5, 5, 2), (6, 6, 3), (7, 7, 4)]);
        assert_eq!(merged(&row, 4), [(0, 3, 1), (4, 7, 9)]);
        let moment = |place: u64| Moment { at_ns: place, span_ns: 1, deliveries: 1, ..Moment::default() };
        let series: Vec<Moment> = (1..=7).map(moment).collect();
        let few = condensed(&series, 3);
        assert_eq!(few.iter().map(|moment| moment.deliveries).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(condensed(&[], 3), []);
    }
}
