//! Writes standard error and standard output without ever waiting for a reader.
//!
//! Each stream has a bounded queue and a thread of its own that writes it, so a pipe that nobody reads holds neither a
//! shard nor the other stream. What finds no room or cannot be written is dropped and counted
//! (`log_lines_dropped_total`); a line says how many were dropped as soon as there is room again.

#![forbid(unsafe_code)]

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::VecDeque,
    fmt,
    io::{self, IsTerminal as _, Write},
    mem,
    os::fd::AsFd,
    panic::{self, PanicHookInfo},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tracing_subscriber::{
    fmt::{
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    util::SubscriberInitExt as _,
};

use crate::{
    config::{LogFilter, LogFormat},
    metrics::{self, Counter},
};

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
        })
    }

    /// Sends the process's `tracing` events to standard error, those that the filter lets pass, and the panics of all
    /// threads too.
    ///
    /// # Errors
    ///
    /// If something else receives the process's events already.
    pub fn take_over(&self, filter: &LogFilter, format: LogFormat) -> Result<(), Box<dyn std::error::Error>> {
        let stream = self.error.clone();
        let events = tracing_subscriber::fmt()
            .with_env_filter(filter.to_filter())
            .with_writer(move || stream.clone())
            .with_ansi(io::stderr().is_terminal())
            // They would be written to standard error as well, on the thread that logs, which panics if it fails.
            .log_internal_errors(false);
        match format {
            LogFormat::Text => events.finish().try_init(),
            LogFormat::Json => events.json().flatten_event(true).finish().try_init(),
        }?;
        let format = *self.format.get_or_init(|| format);
        let logs = self.clone();
        panic::set_hook(Box::new(move |panic| logs.tell_panic(format, panic)));
        Ok(())
    }

    /// Prints text and the end of a line on standard output.
    pub fn print(&self, text: fmt::Arguments<'_>) {
        self.output.push(format!("{text}\n").as_bytes());
    }

    /// Prints text and the end of a line on standard error, as it is.
    pub fn complain(&self, text: fmt::Arguments<'_>) {
        self.error.push(format!("{text}\n").as_bytes());
    }

    /// Waits until everything is written or dropped, for a second at most: the reader of a stream may be slow, or
    /// gone.
    pub fn finish(&self) {
        let until = Instant::now() + FINISH;
        self.error.finish(until);
        self.output.finish(until);
    }

    fn tell_panic(&self, format: LogFormat, panic: &PanicHookInfo<'_>) {
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

/// Returns the format; lines before it is known are text.
fn format_of(format: &OnceLock<LogFormat>) -> LogFormat {
    format.get().copied().unwrap_or(LogFormat::Text)
}

/// A line as `tracing` would write it. The subscriber itself may be what has panicked, and its filter may let nothing
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

/// A bounded queue and the thread that writes it. Writing to a `Stream` never waits and never fails.
#[derive(Debug, Clone)]
struct Stream(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write.
    filled: Condvar,
    /// Everything is written or dropped.
    emptied: Condvar,
}

impl Stream {
    /// `dropped` is the text that says how many lines were dropped.
    fn start<D>(thread: &str, to: impl AsFd + Send + 'static, dropped: D) -> io::Result<Stream>
    where
        D: Fn(u64) -> String + Send + 'static,
    {
        let stream = Stream(Arc::default());
        let mut output = Output { to, dropped, unsaid: 0, is_cut: false };
        let own = stream.clone();
        let run = move || {
            loop {
                output.take(&own.next());
            }
        };
        thread::Builder::new().name(thread.into()).spawn(run)?;
        Ok(stream)
    }

    /// Appends text, which is dropped if there is no room for it.
    fn push(&self, text: &[u8]) {
        let lines = lines(text);
        let is_idle = {
            let mut queue = self.lock();
            if !queue.push(text, lines) {
                drop(queue);
                return count_dropped(lines);
            }
            // The writing thread looks again before it sleeps.
            !queue.is_writing
        };
        if is_idle {
            self.0.filled.notify_one();
        }
    }

    /// Waits for the next text.
    fn next(&self) -> Entry {
        let mut queue = self.lock();
        queue.is_writing = false;
        loop {
            if let Some(entry) = queue.pop() {
                queue.is_writing = true;
                return entry;
            }
            self.0.emptied.notify_all();
            queue = self.0.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, until: Instant) {
        let time = until.saturating_duration_since(Instant::now());
        let waited = self.0.emptied.wait_timeout_while(self.lock(), time, |queue| !queue.is_idle());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Nothing that holds it can panic half-way.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Stream {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The entries that wait to be written.
#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// The bytes of all entries, with their own size.
    bytes: usize,
    lines: u64,
    /// Lines for which there was no room since the last entry.
    dropped: u64,
    is_writing: bool,
}

/// A text, or only the number of lines that were dropped.
#[derive(Debug, Default)]
struct Entry {
    text: Box<[u8]>,
    lines: u64,
    /// Lines that were dropped before it.
    dropped: u64,
}

impl Queue {
    /// Returns whether there was room.
    fn push(&mut self, text: &[u8], lines: u64) -> bool {
        let bytes = weight(text);
        if self.bytes + bytes > BYTES_MAX || self.lines + lines > LINES_MAX {
            self.dropped += lines;
            return false;
        }
        self.bytes += bytes;
        self.lines += lines;
        self.entries.push_back(Entry { text: text.into(), lines, dropped: mem::take(&mut self.dropped) });
        true
    }

    fn pop(&mut self) -> Option<Entry> {
        let Some(entry) = self.entries.pop_front() else {
            let dropped = mem::take(&mut self.dropped);
            return (dropped > 0).then(|| Entry { dropped, ..Entry::default() });
        };
        self.bytes -= weight(&entry.text);
        self.lines -= entry.lines;
        Some(entry)
    }

    fn is_idle(&self) -> bool {
        !self.is_writing && self.entries.is_empty() && self.dropped == 0
    }
}

/// Returns the memory of an entry: itself, twice while its table grows, and its text with the overhead of an
/// allocation.
fn weight(text: &[u8]) -> usize {
    2 * size_of::<Entry>() + 16 + text.len()
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count().max(1) as u64
}

fn count_dropped(lines: u64) {
    metrics::add_for_process(Counter::LogLinesDropped, lines);
}

/// The descriptor that a stream's thread writes to.
struct Output<T, D> {
    to: T,
    dropped: D,
    /// Dropped lines that no line has reported.
    unsaid: u64,
    /// Whether the last written line lacks its end.
    is_cut: bool,
}

impl<T: AsFd, D: Fn(u64) -> String> Output<T, D> {
    /// Writes the number of lines that were dropped before a text, and the text. A text that cannot be written is
    /// dropped, and reported before the next.
    fn take(&mut self, entry: &Entry) {
        self.unsaid += entry.dropped;
        if self.tell_dropped().and_then(|()| self.write(&entry.text)).is_err() {
            // The error could only be written to the stream that has failed; the counter has other readers.
            self.unsaid += entry.lines;
            count_dropped(entry.lines);
        }
    }

    fn tell_dropped(&mut self) -> io::Result<()> {
        if self.unsaid > 0 {
            let begin = if self.is_cut { "\n" } else { "" };
            self.write(format!("{begin}{}", (self.dropped)(self.unsaid)).as_bytes())?;
            self.unsaid = 0;
        }
        Ok(())
    }

    fn write(&mut self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            match rustix::io::write(&self.to, text) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.is_cut = text[count - 1] != b'\n';
                    text = &text[count..];
                }
                Err(Errno::INTR) => {}
                // Another process has made it non-blocking.
                Err(Errno::AGAIN) => self.await_room()?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn await_room(&self) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The most memory of each stream's queue.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// Lines of each stream's queue.
const LINES_MAX: u64 = 8_192;

/// The longest time that the end of the process waits for the readers of its streams.
const FINISH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{PipeReader, PipeWriter, Read as _, pipe},
        os::fd::BorrowedFd,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// A pipe that can be made as good as a full disk.
    struct Disk {
        pipe: PipeWriter,
        full: File,
        is_full: Arc<AtomicBool>,
    }

    impl Disk {
        fn new() -> (Disk, PipeReader, Arc<AtomicBool>) {
            let (reader, pipe) = pipe().unwrap();
            let full = File::options().write(true).open("/dev/full").unwrap();
            let is_full: Arc<AtomicBool> = Arc::default();
            (Disk { pipe, full, is_full: Arc::clone(&is_full) }, reader, is_full)
        }
    }

    impl AsFd for Disk {
        fn as_fd(&self) -> BorrowedFd<'_> {
            if self.is_full.load(Ordering::SeqCst) { self.full.as_fd() } else { self.pipe.as_fd() }
        }
    }

    fn told(lines: u64) -> String {
        format!("{lines} dropped\n")
    }

    /// All that a pipe brings up to a line that is the last.
    fn read_until(reader: &mut PipeReader, last: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(last.as_bytes()) {
            let mut chunk = [0; 4_096];
            let count = reader.read(&mut chunk).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&chunk[..count]);
        }
        String::from_utf8(text).unwrap()
    }

    /// A reader that comes late finds the first lines, all in order, and how many are missing.
    #[test]
    fn nobody_reads() {
        const COUNT: u64 = 100_000;
        let (disk, mut reader, _) = Disk::new();
        let stream = Stream::start("test", disk, told).unwrap();
        for number in 0..COUNT {
            stream.push(format!("{number:>50}\n").as_bytes());
        }
        // Whatever there is room for now comes behind the gap.
        let text = read_until(&mut reader, "dropped\n");
        stream.push(b"again\n");
        assert_eq!(read_until(&mut reader, "again\n"), "again\n");
        let lines: Vec<&str> = text.lines().collect();
        let (last, written) = lines.split_last().unwrap();
        assert!(written.len() > 1_000);
        for (number, line) in written.iter().enumerate() {
            assert_eq!(line.trim_start().parse(), Ok(number));
        }
        assert_eq!(*last, told(COUNT - written.len() as u64).trim_end());
    }

    #[test]
    fn a_full_disk_that_has_room_again() {
        let (disk, mut reader, is_full) = Disk::new();
        let stream = Stream::start("test", disk, told).unwrap();
        let finish = || stream.finish(Instant::now() + Duration::from_secs(60));
        stream.push(b"before\n");
        finish();
        is_full.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            stream.push(b"lost\n");
        }
        stream.push(b"lost too,\nin two lines\n");
        finish();
        is_full.store(false, Ordering::SeqCst);
        stream.push(b"after\n");
        assert_eq!(read_until(&mut reader, "after\n"), "before\n5 dropped\nafter\n");
    }

    #[test]
    fn a_reader_that_has_gone() {
        let (reader, writer) = pipe().unwrap();
        let stream = Stream::start("test", writer, told).unwrap();
        drop(reader);
        for _ in 0..100 {
            stream.push(b"lost\n");
        }
        stream.finish(Instant::now() + Duration::from_secs(60));
        assert!(stream.lock().is_idle());
    }

    /// A pipe that another process has made non-blocking loses nothing but what finds no room in the queue.
    #[test]
    fn a_stream_that_does_not_block() {
        let (mut reader, writer) = pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        let stream = Stream::start("test", writer, told).unwrap();
        let line = "x".repeat(999) + "\n";
        for _ in 0..500 {
            stream.push(line.as_bytes());
        }
        stream.push(b"last\n");
        assert_eq!(read_until(&mut reader, "last\n"), line.repeat(500) + "last\n");
    }

    /// Both bounds hold: that of many empty lines and that of a few long ones.
    #[test]
    fn a_queue_is_bounded() {
        let filled = |text: &[u8]| {
            let mut queue = Queue::default();
            while queue.push(text, lines(text)) {}
            assert_eq!(queue.dropped, lines(text));
            queue
        };
        let short = filled(b"\n");
        assert_eq!(short.lines, LINES_MAX);
        assert!(short.entries.capacity() * size_of::<Entry>() <= BYTES_MAX);
        let mut long = filled(&[b'x'; 1_000]);
        assert!(
            long.bytes <= BYTES_MAX && long.lines > BYTES_MAX as u64 / 1_200 && long.lines < BYTES_MAX as u64 / 1_000
        );
        assert!(!long.push(&[b'x'; BYTES_MAX], 1), "more than all of it");
        while let Some(entry) = long.pop() {
            assert!(entry.dropped == 0 || entry.text.is_empty() && entry.dropped == 2);
        }
        assert!(long.is_idle() && long.bytes == 0 && long.lines == 0);
    }

    #[test]
    fn lines_are_like_those_of_events() {
        let text = line(LogFormat::Text, "WARN", "a \"word\"");
        assert!(text.ends_with("Z  WARN ringhub::logs: a \"word\"\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, "ERROR", "a \"word\"")).unwrap();
        assert_eq!((&json["level"], &json["message"]), (&"ERROR".into(), &"a \"word\"".into()));
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
    }
}
