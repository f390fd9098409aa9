//! Live progress: one line on a terminal, written by a thread of its own. A terminal that takes no bytes stops that
//! thread, and not the run.

use super::interrupt::Interrupt;
use super::units;
use crate::moment::{LatencyBuckets, Moment};
use crate::progress::Progress;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

/// What a run reports to the thread that draws.
#[derive(Debug)]
enum Event {
    Connecting { open: usize, of: usize },
    WarmingUp { warmup_ns: u64 },
    Running(Box<Moment>),
}

/// Watches a run: draws its progress if there is a terminal, and knows of Ctrl-C.
#[derive(Debug)]
pub struct Live {
    interrupt: Interrupt,
    drawing: Option<(SyncSender<Event>, JoinHandle<()>)>,
}

impl Live {
    /// Draws nothing.
    pub fn quiet(interrupt: Interrupt) -> Live {
        Live { interrupt, drawing: None }
    }

    /// Draws on `terminal`, whose width in columns `columns` returns. `window_ns` is the length of the window, if it is
    /// known before. The thread begins here, so that it is not pinned
    /// to the CPU of the generator.
    ///
    /// # Errors
    /// An error is returned if the thread cannot start.
    pub fn drawing(
        interrupt: Interrupt,
        terminal: impl Write + Send + 'static,
        columns: impl Fn() -> usize + Send + 'static,
        window_ns: Option<u64>,
    ) -> std::io::Result<Live> {
        let (sender, receiver) = mpsc::sync_channel(EVENTS_MAX);
        let thread = thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || draw(&receiver, terminal, columns, window_ns))?;
        Ok(Live { interrupt, drawing: Some((sender, thread)) })
    }

    /// Hands an event to the thread. An event is dropped while the thread has too many.
    fn send(&self, event: Event) {
        if let Some((sender, _)) = &self.drawing {
            drop(sender.try_send(event));
        }
    }
}

impl Progress for Live {
    fn connecting(&mut self, open: usize, of: usize) {
        self.send(Event::Connecting { open, of });
    }

    fn warming_up(&mut self, warmup_ns: u64) {
        self.send(Event::WarmingUp { warmup_ns });
    }

    fn running(&mut self, moment: &Moment) {
        self.send(Event::Running(Box::new(moment.clone())));
    }

    fn done(&mut self) {
        if let Some((sender, thread)) = self.drawing.take() {
            drop(sender);
            // A panic of the thread has been printed, and takes nothing from the report.
            drop(thread.join());
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupt.is_raised()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.done();
    }
}

/// Draws each event over the one before, until the run is done. Then the line is empty again.
fn draw(events: &Receiver<Event>, mut terminal: impl Write, columns: impl Fn() -> usize, window_ns: Option<u64>) {
    let mut recent = Recent { window_ns, ..Recent::default() };
    for event in events {
        let text = match event {
            Event::Connecting { open, of } => connecting_text(open, of),
            Event::WarmingUp { warmup_ns } => {
                format!("warming up for {} s", units::significant(warmup_ns as f64 / 1e9))
            }
            Event::Running(moment) => recent.take(*moment),
        };
        // The last column stays empty, since some terminals begin a new line after a character there.
        let shown: String = text.chars().take(columns().saturating_sub(1)).collect();
        if write!(terminal, "\r\x1b[2K{shown}").and_then(|()| terminal.flush()).is_err() {
            // The terminal is gone. The events that follow are dropped.
            return;
        }
    }
    drop(write!(terminal, "\r\x1b[2K").and_then(|()| terminal.flush()));
}

fn connecting_text(open: usize, of: usize) -> String {
    let filled = (open * BAR_COLUMNS).checked_div(of).unwrap_or(BAR_COLUMNS).min(BAR_COLUMNS);
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(BAR_COLUMNS - filled));
    format!("connecting [{bar}] {} of {}", units::grouped(open as u64), units::grouped(of as u64))
}

/// The moments of about the last second.
#[derive(Debug, Default)]
struct Recent {
    moments: VecDeque<Moment>,
    /// The length of the window, if it is known.
    window_ns: Option<u64>,
}

impl Recent {
    /// Adds a moment, and returns the line about the last second.
    fn take(&mut self, moment: Moment) -> String {
        self.moments.push_back(moment);
        while self.moments.len() > 1
            && self.moments.iter().skip(1).map(|moment| moment.span_ns).sum::<u64>() >= RECENT_NS
        {
            self.moments.pop_front();
        }
        let Some(last) = self.moments.back() else { return String::new() };
        let mut buckets = LatencyBuckets::default();
        let (mut deliveries, mut span_ns) = (0, 0);
        for moment in &self.moments {
            buckets.add(&moment.latency);
            deliveries += moment.deliveries;
            span_ns += moment.span_ns;
        }
        let rate = if span_ns == 0 { 0.0 } else { deliveries as f64 * 1e9 / span_ns as f64 };
        let mut parts = vec![
            match self.window_ns {
                Some(ns) => format!("{:.1} of {} s", last.at_ns as f64 / 1e9, units::significant(ns as f64 / 1e9)),
                None => format!("{:.1} s", last.at_ns as f64 / 1e9),
            },
            format!("{} connections", units::grouped(last.connections as u64)),
            format!("{}/s", units::grouped(rate.round() as u64)),
        ];
        let row = buckets.row();
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            parts.extend(row.quantile_ns(quantile).map(|ns| format!("{name} {}", units::time(ns as f64))));
        }
        parts.extend(last.lost.map(|lost| format!("gaps {}", units::grouped(lost))));
        parts.join("  ")
    }
}

/// The events that may wait for the thread.
const EVENTS_MAX: usize = 32;

const BAR_COLUMNS: usize = 24;

const RECENT_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A terminal that keeps what is written; or one that is gone, without a place to keep it.
    #[derive(Clone)]
    struct Screen(Option<Arc<Mutex<Vec<u8>>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let Some(written) = &self.0 else { return Err(std::io::ErrorKind::BrokenPipe.into()) };
            written.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn moment(at_ns: u64, deliveries: u64) -> Moment {
        let mut buckets = LatencyBuckets::default();
        (0..deliveries).for_each(|_| buckets.record(1_500_000));
        let latency = buckets.row();
        Moment {
            at_ns,
            span_ns: 500_000_000,
            deliveries,
            connections: 1_001,
            lost: Some(3),
            latency,
            ..Moment::default()
        }
    }

    #[test]
    fn the_line_is_drawn_over_and_cleared() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let screen = Screen(Some(Arc::clone(&written)));
        let mut live = Live::drawing(Interrupt::default(), screen, || 60, None).unwrap();
        live.connecting(500, 1_000);
        live.warming_up(1_500_000_000);
        live.running(&moment(500_000_000, 10));
        live.done();
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.split("\r\x1b[2K").collect();
        assert_eq!(lines[1], "connecting [############------------] 500 of 1 000");
        assert_eq!(lines[2], "warming up for 1.5 s");
        assert_eq!(lines[3], "0.5 s  1 001 connections  20/s  p50 1.57 ms  p99 1.57 ms  g");
        assert_eq!((lines.len(), lines[4]), (5, ""));
    }

    #[test]
    fn a_terminal_that_is_gone_stops_nothing() {
        let mut live = Live::drawing(Interrupt::default(), Screen(None), || 60, None).unwrap();
        for at in 0..EVENTS_MAX * 3 {
            live.connecting(at, EVENTS_MAX * 3);
        }
        live.done();
        live.connecting(1, 1);
    }

    #[test]
    fn the_line_is_about_the_last_second() {
        let mut recent = Recent::default();
        assert!(recent.take(moment(500_000_000, 1_000)).contains("  2 000/s  "));
        assert!(recent.take(moment(1_000_000_000, 10)).contains("  1 010/s  "));
        let line = recent.take(moment(1_500_000_000, 10));
        assert_eq!(line, "1.5 s  1 001 connections  20/s  p50 1.57 ms  p99 1.57 ms  gaps 3");
        assert_eq!(Recent::default().take(Moment::default()), "0.0 s  0 connections  0/s");
        let mut known = Recent { window_ns: Some(10_000_000_000), ..Recent::default() };
        assert!(known.take(moment(1_000_000_000, 10)).starts_with("1.0 of 10 s  "));
    }

    #[test]
    fn a_bar_of_nothing_is_full() {
        assert_eq!(connecting_text(0, 0), format!("connecting [{}] 0 of 0", "#".repeat(24)));
        assert_eq!(connecting_text(0, 7), format!("connecting [{}] 0 of 7", "-".repeat(24)));
    }
}
