//! `.hgrm`: the text of HdrHistogram's percentile distributions, as its C library prints it. Its plotter reads it.

use crate::report::Distribution;
use std::fmt::Write as _;

/// Returns the distribution as text, with times in microseconds.
pub fn hgrm(distribution: &Distribution) -> String {
    scaled(distribution, 1e3)
}

fn scaled(distribution: &Distribution, unit_ns: f64) -> String {
    let scale = |ns: f64| ns / unit_ns;
    let mut out = format!("{:>12} {:>12} {:>12} {:>12}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for row in &distribution.rows {
        let (value, quantile, count) = (scale(row.value_ns as f64), row.quantile, row.count);
        // The last row's fraction is infinite: Rust writes `inf`, as C does.
        let one_in = 1.0 / (1.0 - quantile);
        // Writing to a string does not fail.
        _ = writeln!(out, "{value:12.3} {quantile:12.6} {count:12} {one_in:12.2}");
    }
    let Distribution { mean_ns, deviation_ns, max_ns, buckets, sub_buckets, .. } = *distribution;
    let (mean, deviation, max) = (scale(mean_ns), scale(deviation_ns), scale(max_ns as f64));
    let count = distribution.rows.last().map_or(0, |row| row.count);
    _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    _ = writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    _ = writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;

    /// The output of HdrHistogram_c for `hdr_init(1, 3600000000, 3)` with 2 once and 4 ten times, scaled by 1.
    const OF_THE_C_LIBRARY: &str = "       Value   Percentile   TotalCount 1/(1-Percentile)

       2.000     0.000000            1         1.00
       4.000     0.100000           11         1.11
       4.000     1.000000           11          inf
#[Mean    =        3.818, StdDeviation   =        0.575]
#[Max     =        4.000, Total count    =           11]
#[Buckets =           22, SubBuckets     =         2048]
";

    #[test]
    fn as_the_c_library_prints_it() {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap();
        histogram.record(2).unwrap();
        histogram.record_n(4, 10).unwrap();
        let distribution = Distribution::from_histogram(&histogram).unwrap();
        assert_eq!(scaled(&distribution, 1.0), OF_THE_C_LIBRARY);
    }

    #[test]
    fn times_are_microseconds() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        (1..=1_000).for_each(|micros| histogram.record(micros * 1_000).unwrap());
        let text = hgrm(&Distribution::from_histogram(&histogram).unwrap());
        assert!(text.contains("     500.223     0.500000          500         2.00\n"), "{text}");
        assert!(text.contains("#[Buckets =           26, SubBuckets     =         2048]"), "{text}");
    }
}
