//! A stream: a bounded queue of text, and the thread that writes it.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::metrics::{self, Counter};

/// A bounded queue and the thread that writes it. Writing to a `Stream` never waits and never fails.
#[derive(Debug, Clone)]
pub(super) struct Stream(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Notified when there is an entry to write.
    filled: Condvar,
    /// Notified when everything is written or dropped.
    emptied: Condvar,
}

impl Stream {
    /// Starts the thread. `dropped` returns the line about a number of dropped lines.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub(super) fn start<D>(thread: &str, to: impl AsFd + Send + 'static, dropped: D) -> io::Result<Stream>
    where
        D: Fn(u64) -> String + Send + 'static,
    {
        let stream = Stream(Arc::default());
        let mut output = Output { to, dropped, unreported: 0, is_cut: false };
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
    pub(super) fn push(&self, text: &[u8]) {
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

    /// Waits until everything is written or dropped, but not beyond a deadline.
    pub(super) fn finish(&self, until: Instant) {
        let time = until.saturating_duration_since(Instant::now());
        let waited = self.0.emptied.wait_timeout_while(self.lock(), time, |queue| !queue.is_idle());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Locks the queue. No code panics while it holds the lock.
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
    /// Lines that were dropped before this entry.
    dropped: u64,
}

impl Queue {
    /// Appends a text. Returns whether there was room.
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

/// Returns the memory of an entry: the entry itself, twice since its table doubles as it grows, and its text with the
/// overhead of an allocation.
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
    unreported: u64,
    /// Whether the last written line lacks its end.
    is_cut: bool,
}

impl<T: AsFd, D: Fn(u64) -> String> Output<T, D> {
    /// Writes the number of lines that were dropped before a text, and the text. A text that cannot be written is
    /// dropped, and reported before the next.
    fn take(&mut self, entry: &Entry) {
        self.unreported += entry.dropped;
        if self.report_dropped().and_then(|()| self.write(&entry.text)).is_err() {
            // The stream that has failed is the place for errors, so only the counter shows this failure.
            self.unreported += entry.lines;
            count_dropped(entry.lines);
        }
    }

    fn report_dropped(&mut self) -> io::Result<()> {
        if self.unreported > 0 {
            let begin = if self.is_cut { "\n" } else { "" };
            self.write(format!("{begin}{}", (self.dropped)(self.unreported)).as_bytes())?;
            self.unreported = 0;
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
                // Another process has made the descriptor non-blocking.
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
const BYTES_MAX: usize = 1 << 20;

/// Lines of each stream's queue.
const LINES_MAX: u64 = 8_192;

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{PipeReader, PipeWriter, Read as _, pipe},
        os::fd::BorrowedFd,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use super::*;

    /// A pipe that fails like a full disk while `is_full`.
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

    fn dropped_line(lines: u64) -> String {
        format!("{lines} dropped\n")
    }

    /// Reads a pipe up to the line `last`.
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
    fn a_stream_without_a_reader() {
        const COUNT: u64 = 100_000;
        let (disk, mut reader, _) = Disk::new();
        let stream = Stream::start("test", disk, dropped_line).unwrap();
        for number in 0..COUNT {
            stream.push(format!("{number:>50}\n").as_bytes());
        }
        // Lines for which there is room again come after the gap.
        let text = read_until(&mut reader, "dropped\n");
        stream.push(b"again\n");
        assert_eq!(read_until(&mut reader, "again\n"), "again\n");
        let lines: Vec<&str> = text.lines().collect();
        let (last, written) = lines.split_last().unwrap();
        assert!(written.len() > 1_000);
        for (number, line) in written.iter().enumerate() {
            assert_eq!(line.trim_start().parse(), Ok(number));
        }
        assert_eq!(*last, dropped_line(COUNT - written.len() as u64).trim_end());
    }

    #[test]
    fn a_full_disk_that_has_room_again() {
        let (disk, mut reader, is_full) = Disk::new();
        let stream = Stream::start("test", disk, dropped_line).unwrap();
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
        let stream = Stream::start("test", writer, dropped_line).unwrap();
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
        let stream = Stream::start("test", writer, dropped_line).unwrap();
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
}
