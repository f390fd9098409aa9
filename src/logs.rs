//! Writes standard error and standard output without ever waiting for a reader.
//!
//! Each stream has its own bounded queue and its own thread that writes it, so a pipe without a reader holds neither a
//! shard nor the other stream. A line that finds no room or cannot be written is dropped and counted
//! (`log_lines_dropped_total`). As soon as there is room again, a line reports the number of dropped lines.

#![forbid(unsafe_code)]

mod stream;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::{
    fmt::{
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    reload,
    util::SubscriberInitExt as _,
};

use self::stream::Stream;
use crate::config::{LogFilter, LogFormat};

/// The two streams of a process. A clone is another handle to the same streams.
///
/// ```no_run
/// use ringhub::{config::Settings, logs::Logs, server::Server};
///
/// let logs = Logs::start()?;
/// let settings = Settings::default();
/// logs.take_over(&settings.log, settings.log_format)?;
/// let running = Server::builder().topics().build()?.start()?;
/// logs.print(format_args!("serves on {}", running.local_addr()));
/// running.wait_blocking()?;
/// logs.finish();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Logs {
    error: Stream,
    output: Stream,
    format: Arc<OnceLock<LogFormat>>,
    filter: Arc<OnceLock<FilterHandle>>,
}

/// Sets the filter of events.
type SetFilter = dyn Fn(&LogFilter) -> Result<(), reload::Error> + Send + Sync;

/// The handle by which the filter of events is replaced. The formats of the log have handles of different types.
struct FilterHandle(Box<SetFilter>);

impl fmt::Debug for FilterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FilterHandle")
    }
}

impl Logs {
    /// Starts a thread for each of standard error and standard output.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub fn start() -> io::Result<Logs> {
        let format: Arc<OnceLock<LogFormat>> = Arc::default();
        let known = Arc::clone(&format);
        let dropped = move |lines| line(format_of(&known), "WARN", &format!("{lines} log lines were dropped"));
        Ok(Logs {
            error: Stream::start("ringhub-stderr", io::stderr(), dropped)?,
            output: Stream::start("ringhub-stdout", io::stdout(), |lines| format!("{lines} lines were dropped\n"))?,
            format,
            filter: Arc::default(),
        })
    }

    /// Sends the process's `tracing` events that pass the filter to standard error, and the panics of all threads.
    ///
    /// # Errors
    ///
    /// If the process already has a subscriber of events.
    pub fn take_over(&self, filter: &LogFilter, format: LogFormat) -> Result<(), Box<dyn std::error::Error>> {
        let stream = self.error.clone();
        let events = tracing_subscriber::fmt()
            .with_env_filter(filter.to_filter())
            .with_writer(move || stream.clone())
            .with_ansi(io::stderr().is_terminal())
            // Otherwise a thread that logs would itself write internal errors to standard error, and panic if that
            // fails.
            .log_internal_errors(false);
        match format {
            LogFormat::Text => {
                let events = events.with_filter_reloading();
                let handle = events.reload_handle();
                events.finish().try_init()?;
                self.keep_handle(move |filter| handle.reload(filter.to_filter()));
            }
            LogFormat::Json => {
                let events = events.json().flatten_event(true).with_filter_reloading();
                let handle = events.reload_handle();
                events.finish().try_init()?;
                self.keep_handle(move |filter| handle.reload(filter.to_filter()));
            }
        }
        let format = *self.format.get_or_init(|| format);
        let logs = self.clone();
        panic::set_hook(Box::new(move |panic| logs.report_panic(format, panic)));
        Ok(())
    }

    fn keep_handle(&self, set: impl Fn(&LogFilter) -> Result<(), reload::Error> + Send + Sync + 'static) {
        self.filter.get_or_init(|| FilterHandle(Box::new(set)));
    }

    /// Replaces the filter of the process's events. Does nothing before [`Logs::take_over`].
    ///
    /// # Errors
    ///
    /// If the process has no subscriber of events any more.
    pub fn set_filter(&self, filter: &LogFilter) -> Result<(), Box<dyn std::error::Error>> {
        let set = self.filter.get();
        Ok(set.map_or(Ok(()), |FilterHandle(set)| set(filter))?)
    }

    /// Prints text and the end of a line on standard output.
    pub fn print(&self, text: fmt::Arguments<'_>) {
        self.output.push(format!("{text}\n").as_bytes());
    }

    /// Sets the format of the lines before [`Logs::take_over`], which takes no other format after that.
    pub fn set_format(&self, format: LogFormat) {
        self.format.get_or_init(|| format);
    }

    /// Prints the error that ends the program on standard error, line by line: in the format of JSON as events like
    /// those of the log, else with the name of the program before each line.
    pub fn print_error(&self, error: &dyn fmt::Display) {
        let format = format_of(&self.format);
        for text in error.to_string().lines() {
            let line = match format {
                LogFormat::Text => format!("ringhub: {text}\n"),
                LogFormat::Json => line(format, "ERROR", text),
            };
            self.error.push(line.as_bytes());
        }
    }

    /// Waits until everything is written or dropped, for a second at most: the reader of a stream may be slow, or
    /// gone.
    pub fn finish(&self) {
        let until = Instant::now() + FINISH;
        self.error.finish(until);
        self.output.finish(until);
    }

    /// Writes a panic of any thread.
    fn report_panic(&self, format: LogFormat, panic: &PanicHookInfo<'_>) {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        let backtrace = Backtrace::capture();
        let mut text = format!("thread '{name}' {panic}");
        if backtrace.status() == BacktraceStatus::Captured {
            text += &format!("\nstack backtrace:\n{backtrace}");
        }
        self.error.push(line(format, "ERROR", text.trim_end()).as_bytes());
        if name == "main" {
            // The process ends with this thread.
            self.finish();
        }
    }
}

/// Returns the format, which is text until it is set.
fn format_of(format: &OnceLock<LogFormat>) -> LogFormat {
    format.get().copied().unwrap_or(LogFormat::Text)
}

/// Returns a line as `tracing` would write it. The subscriber itself may have panicked, and its filter may let no event
/// pass.
fn line(format: LogFormat, level: &str, message: &str) -> String {
    let mut timestamp = String::new();
    // Writing to a string cannot fail, and a line without its time is better than none.
    SystemTime.format_time(&mut Writer::new(&mut timestamp)).unwrap_or_default();
    match format {
        LogFormat::Text => format!("{timestamp} {level:>5} {TARGET}: {message}\n"),
        LogFormat::Json => {
            let event =
                serde_json::json!({ "timestamp": timestamp, "level": level, "message": message, "target": TARGET });
            format!("{event}\n")
        }
    }
}

const TARGET: &str = "ringhub::logs";

/// The longest time that the end of the process waits for the readers of its streams.
const FINISH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_like_those_of_events() {
        let text = line(LogFormat::Text, "WARN", "a \"word\"");
        assert!(text.ends_with("Z  WARN ringhub::logs: a \"word\"\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, "ERROR", "a \"word\"")).unwrap();
        assert_eq!((&json["level"], &json["message"]), (&"ERROR".into(), &"a \"word\"".into()));
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
