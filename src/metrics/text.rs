//! The text of `/metrics`, in the format of Prometheus and in that of OpenMetrics.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{BackendInfo, CountedBy, Counter, Counters, FAMILIES, Histogram, Kind, PREFIX, PROCESS, process};

/// A format of the text of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl TextFormat {
    /// Every format.
    pub const ALL: [TextFormat; 2] = [TextFormat::Prometheus, TextFormat::OpenMetrics];

    /// Returns the content type of the text.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            TextFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns the format for a request with these `Accept` header lines (RFC 9110 12.5.1): OpenMetrics if the request
    /// names it in version 1.0.0, or without a version, and prefers no plain text; otherwise the text of Prometheus,
    /// which every collector reads.
    pub fn negotiate<'a>(accept: impl IntoIterator<Item = &'a str>) -> TextFormat {
        let (mut open_metrics, mut plain) = (0, 0);
        for range in accept.into_iter().flat_map(|line| line.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1_000, None);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match key.trim() {
                    key if key.eq_ignore_ascii_case("q") => quality = thousandths(value),
                    key if key.eq_ignore_ascii_case("version") => version = Some(value),
                    _ => {}
                }
            }
            if name.eq_ignore_ascii_case("application/openmetrics-text") {
                if version.is_none_or(|version| version == "1.0.0") {
                    open_metrics = open_metrics.max(quality);
                }
            } else if name.eq_ignore_ascii_case("text/plain") {
                plain = plain.max(quality);
            }
        }
        if open_metrics > 0 && open_metrics >= plain { TextFormat::OpenMetrics } else { TextFormat::Prometheus }
    }
}

/// Returns the thousandths of a quality value (RFC 9110 12.4.2); 0 for a malformed one.
fn thousandths(value: &str) -> u16 {
    value
        .parse::<f32>()
        .ok()
        .filter(|quality| (0.0..=1.0).contains(quality))
        .map_or(0, |quality| (quality * 1e3) as u16)
}

/// Returns all counters in the text format of Prometheus, version 0.0.4; see [`metrics_text`].
#[must_use]
pub fn prometheus(shards: &[Arc<Counters>], control: &Counters, io: &BackendInfo) -> String {
    metrics_text(TextFormat::Prometheus, shards, control, io)
}

/// Returns all counters, histograms and gauges as text. The label `shard` is the number of a shard, `control`, or
/// `process` for counters of the whole process. `build_info`, `io_backend_info` and the metrics of the process have no
/// such label. In OpenMetrics the counters and histograms of a server have the time at which they began.
#[must_use]
pub fn metrics_text(format: TextFormat, shards: &[Arc<Counters>], control: &Counters, io: &BackendInfo) -> String {
    let mut text = Text { format, written: String::with_capacity(32 * 1_024) };
    text.counters(shards, control);
    text.family("ringhub_deliveries_per_send", "Messages in one send, on average since the start.", "gauge");
    for (number, shard) in shards.iter().enumerate() {
        let ratio = shard.get(Counter::Deliveries) as f64 / shard.get(Counter::Sends).max(1) as f64;
        text.line(format_args!("{PREFIX}deliveries_per_send{{shard=\"{number}\"}} {ratio}"));
    }
    for &histogram in Histogram::ALL {
        text.histogram(histogram, shards);
    }
    let time = seconds_since_1970(SystemTime::now());
    text.family(
        "ringhub_taken_timestamp_seconds",
        "The time at which these numbers were taken, in seconds since 1970.",
        "gauge",
    );
    text.line(format_args!("{PREFIX}taken_timestamp_seconds{{shard=\"process\"}} {time:.3}"));
    text.info("build", "The version of the hub.", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")));
    let BackendInfo { backend, reason } = io;
    let labels = format!("backend=\"{backend}\",reason=\"{reason}\"");
    text.info("io_backend", "The kernel's interface that shards use, and why.", &labels);
    text.process();
    if format == TextFormat::OpenMetrics {
        text.written.push_str("# EOF\n");
    }
    text.written
}

/// A text under construction.
struct Text {
    format: TextFormat,
    written: String,
}

impl Text {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        self.written.write_fmt(format_args!("{line}\n")).unwrap_or_default();
    }

    /// Writes the help and the type of a family. `name` is the name of its samples: in OpenMetrics the name of a family
    /// of counters does not have the ending of its samples.
    fn family(&mut self, name: &str, help: &str, kind: &str) {
        let ending = match (self.format, kind) {
            (TextFormat::OpenMetrics, "counter") => "_total",
            (TextFormat::OpenMetrics, "info") => "_info",
            _ => "",
        };
        let name = name.strip_suffix(ending).unwrap_or(name);
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn counters(&mut self, shards: &[Arc<Counters>], control: &Counters) {
        let mut family = "";
        for &counter in Counter::ALL {
            if counter.family() != family {
                family = counter.family();
                let family_help = FAMILIES.iter().find(|(name, _)| *name == family).map(|(_, help)| *help);
                let help = family_help.unwrap_or(counter.help());
                self.family(&format!("{PREFIX}{family}"), help, counter.kind().name());
            }
            if matches!(counter.counted_by(), CountedBy::Shard | CountedBy::ShardAndControl) {
                for (number, shard) in shards.iter().enumerate() {
                    self.counter(counter, &number, shard);
                }
            }
            if matches!(counter.counted_by(), CountedBy::Control | CountedBy::ShardAndControl) {
                self.counter(counter, &"control", control);
            }
            if counter.counted_by() == CountedBy::Process {
                self.counter(counter, &"process", &PROCESS);
            }
        }
    }

    fn counter(&mut self, counter: Counter, shard: &dyn fmt::Display, counters: &Counters) {
        let (family, label, value) = (counter.family(), counter.label(), counters.get(counter));
        let comma = if label.is_empty() { "" } else { "," };
        self.line(format_args!("{PREFIX}{family}{{shard=\"{shard}\"{comma}{label}}} {value}"));
        if counter.kind() == Kind::Counter
            && let Some(created) = self.created(counters)
        {
            let family = family.trim_end_matches("_total");
            self.line(format_args!("{PREFIX}{family}_created{{shard=\"{shard}\"{comma}{label}}} {created:.3}"));
        }
    }

    fn histogram(&mut self, histogram: Histogram, shards: &[Arc<Counters>]) {
        let name = histogram.name();
        self.family(&format!("{PREFIX}{name}"), histogram.help(), "histogram");
        for (number, shard) in shards.iter().enumerate() {
            let snapshot = shard.histogram(histogram);
            let bounds = histogram.bounds_us();
            for (bucket, count) in snapshot.cumulative.into_iter().enumerate() {
                let bound = bounds.get(bucket).map_or("+Inf".into(), |&us| self.bound(us));
                self.line(format_args!("{PREFIX}{name}_bucket{{shard=\"{number}\",le=\"{bound}\"}} {count}"));
            }
            let count = snapshot.cumulative[bounds.len()];
            self.line(format_args!("{PREFIX}{name}_sum{{shard=\"{number}\"}} {}", snapshot.sum));
            self.line(format_args!("{PREFIX}{name}_count{{shard=\"{number}\"}} {count}"));
            if let Some(created) = self.created(shard) {
                self.line(format_args!("{PREFIX}{name}_created{{shard=\"{number}\"}} {created:.3}"));
            }
        }
    }

    /// Returns a bound in seconds. In OpenMetrics a bound has a decimal point.
    fn bound(&self, us: u64) -> String {
        let bound = (us as f64 / 1e6).to_string();
        if self.format == TextFormat::OpenMetrics && !bound.contains('.') { bound + ".0" } else { bound }
    }

    /// Writes a family that describes the server by labels, with the value 1. Prometheus has no type for it.
    fn info(&mut self, name: &str, help: &str, labels: &str) {
        let kind = if self.format == TextFormat::OpenMetrics { "info" } else { "gauge" };
        self.family(&format!("{PREFIX}{name}_info"), help, kind);
        self.line(format_args!("{PREFIX}{name}_info{{{labels}}} 1"));
    }

    fn process(&mut self) {
        for process::Number { name, kind, help, value } in process::numbers() {
            self.family(name, help, kind.name());
            self.line(format_args!("{name} {value}"));
        }
    }

    /// Returns the time at which these counters began, in seconds since 1970, if the format has such times and the time
    /// is known.
    fn created(&self, counters: &Counters) -> Option<f64> {
        (self.format == TextFormat::OpenMetrics).then_some(counters.created).flatten().map(seconds_since_1970)
    }
}

fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn counted() -> ([Arc<Counters>; 2], Counters) {
        let (shards, control) = ([Arc::new(Counters::default()), Arc::default()], Counters::default());
        shards[1].add(Counter::Deliveries, 6);
        shards[1].add(Counter::Sends, 4);
        shards[0].count_time(Histogram::Turn, Duration::from_micros(10));
        shards[0].count_time(Histogram::Turn, Duration::from_secs(1));
        control.add(Counter::refused(413), 2);
        (shards, control)
    }

    fn text(format: TextFormat) -> String {
        let (shards, control) = counted();
        let io = BackendInfo { backend: "epoll".into(), reason: "io_uring_setup EPERM".into() };
        metrics_text(format, &shards, &control, &io)
    }

    fn check(text: &str, lines: &[&str]) {
        for line in lines {
            assert_eq!(text.lines().filter(|found| found == line).count(), 1, "{line}\n{text}");
        }
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).collect::<HashSet<_>>().len();
        assert_eq!(types, text.lines().filter(|line| line.starts_with("# TYPE")).count());
    }

    #[test]
    fn prometheus_text() {
        let text = text(TextFormat::Prometheus);
        check(
            &text,
            &[
                "# TYPE ringhub_deliveries_total counter",
                "ringhub_deliveries_total{shard=\"1\"} 6",
                "ringhub_deliveries_per_send{shard=\"1\"} 1.5",
                "# HELP ringhub_refused_total Requests refused, by cause.",
                "ringhub_refused_total{shard=\"control\",cause=\"too_large\"} 2",
                "ringhub_turn_seconds_bucket{shard=\"0\",le=\"0.00001\"} 1",
                "ringhub_turn_seconds_bucket{shard=\"0\",le=\"+Inf\"} 2",
                "ringhub_turn_seconds_sum{shard=\"0\"} 1.00001",
                "ringhub_turn_seconds_count{shard=\"0\"} 2",
                "ringhub_backlog_age_seconds_bucket{shard=\"0\",le=\"1\"} 0",
                "ringhub_io_backend_info{backend=\"epoll\",reason=\"io_uring_setup EPERM\"} 1",
                "# TYPE process_cpu_seconds_total counter",
            ],
        );
        assert!(!text.contains("http_returned_total{shard=\"0\"}") && !text.contains("turns_total{shard=\"control\"}"));
        assert!(!text.contains("_created") && !text.contains("# EOF"));
    }

    /// The family of a counter has no ending, its sample has `_total`, and a sample with the time of its beginning
    /// follows; the last line says that the text is whole.
    #[test]
    fn open_metrics_text() {
        let text = text(TextFormat::OpenMetrics);
        check(
            &text,
            &[
                "# TYPE ringhub_deliveries counter",
                "# HELP ringhub_refused Requests refused, by cause.",
                "ringhub_deliveries_total{shard=\"1\"} 6",
                "# TYPE ringhub_connections_open gauge",
                "ringhub_turn_seconds_bucket{shard=\"0\",le=\"0.00001\"} 1",
                "ringhub_backlog_age_seconds_bucket{shard=\"0\",le=\"1.0\"} 0",
                "# TYPE ringhub_build info",
                "# TYPE process_cpu_seconds counter",
                "# EOF",
            ],
        );
        assert!(text.ends_with("# EOF\n"));
        let begins = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
            line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
        };
        let now = seconds_since_1970(SystemTime::now());
        for name in ["ringhub_deliveries_created{shard=\"1\"}", "ringhub_turn_seconds_created{shard=\"0\"}"] {
            let created = begins(name);
            assert!(created <= now && created > now - 3_600.0, "{name} {created}");
        }
        assert!(!text.contains("connections_open_created") && !text.contains("log_lines_dropped_created"));
    }

    #[test]
    fn the_format_follows_accept() {
        let of_prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let cases: [(&[&str], TextFormat); 12] = [
            (&[], TextFormat::Prometheus),
            (&["*/*"], TextFormat::Prometheus),
            (&["text/plain"], TextFormat::Prometheus),
            (&["application/openmetrics-text"], TextFormat::OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\""], TextFormat::OpenMetrics),
            (&["application/openmetrics-text; version=2.0.0"], TextFormat::Prometheus),
            (&["application/openmetrics-text;q=0"], TextFormat::Prometheus),
            (&["application/openmetrics-text;q=much, */*"], TextFormat::Prometheus),
            (&["application/openmetrics-text;q=0.4,text/plain;q=0.5"], TextFormat::Prometheus),
            (&["text/plain;q=0.5", "application/openmetrics-text;q=0.6"], TextFormat::OpenMetrics),
            (&["application/openmetrics-textual, text/html"], TextFormat::Prometheus),
            (&[of_prometheus], TextFormat::OpenMetrics),
        ];
        for (accept, format) in cases {
            assert_eq!(TextFormat::negotiate(accept.iter().copied()), format, "{accept:?}");
        }
    }
}
