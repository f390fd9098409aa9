//! The access log: one line of JSON for each opening, each HTTP request and each end of a connection.
//!
//! A line has no query, no header line and no body, so no token reaches it. Each text in it is cut to a bounded length.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

use crate::hub::ConnectionId;

/// The function that gets each line, without the end of the line. It is called on the threads of shards and on the
/// control thread, so it must not wait.
pub(crate) type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// Gives a line to the subscriber of `tracing`, for servers without another sink.
pub(crate) fn trace(line: &str) {
    tracing::info!("{line}");
}

/// Writes lines for a share of all connections and requests. A clone is another handle to the same log.
#[derive(Clone)]
pub(crate) struct AccessLog(Option<Arc<Inner>>);

struct Inner {
    sink: Sink,
    /// One in so many connections, and one in so many requests, has lines.
    one_in: u32,
    /// The requests so far, over all threads.
    requests: AtomicU32,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AccessLog").field(&self.0.as_ref().map(|inner| inner.one_in)).finish()
    }
}

/// The facts about an opening or a request that its line needs.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) method: String,
    /// The path as the client has written it, without the query.
    pub(crate) path: String,
    pub(crate) begun: Instant,
    pub(crate) identity: Option<String>,
}

impl AccessLog {
    /// Returns a log that writes nothing.
    pub(crate) const fn off() -> AccessLog {
        AccessLog(None)
    }

    /// Returns a log with lines for one in `one_in` connections and requests.
    pub(crate) fn new(sink: Sink, one_in: u32) -> AccessLog {
        let inner = Inner { sink, one_in: one_in.max(1), requests: AtomicU32::new(0) };
        AccessLog(Some(Arc::new(inner)))
    }

    /// Begins to note a request, if the log is on.
    pub(crate) fn begin(&self, peer: impl FnOnce() -> Option<SocketAddr>, method: &str, path: &str) -> Option<Access> {
        let cut = |text: &str, most| cut(text, most).to_owned();
        self.0.is_some().then(|| Access {
            peer: peer(),
            method: cut(method, METHOD_MAX),
            path: cut(path, PATH_MAX),
            begun: Instant::now(),
            identity: None,
        })
    }

    /// Writes the line of an opening that has become a connection.
    /// Returns whether the connection has lines.
    pub(crate) fn opened(&self, id: ConnectionId, access: &Access, status: u16) -> bool {
        let Some(inner) = self.of_connection(id) else { return false };
        let mut line = Line::new("opening");
        line.text("id", &id.to_string());
        line.access(access, status);
        inner.write(line);
        true
    }

    /// Writes the line of a refused opening.
    pub(crate) fn refused(&self, access: &Access, status: u16) {
        self.answered("opening", access, status);
    }

    /// Writes the line of an answered HTTP request.
    pub(crate) fn request(&self, access: &Access, status: u16) {
        self.answered("request", access, status);
    }

    /// Writes the line of the end of a connection that was opened at `opened`. `code` is the close code of the client's
    /// close frame, 1006 without one.
    pub(crate) fn ended(&self, id: ConnectionId, peer: Option<SocketAddr>, opened: Instant, code: u16) {
        let Some(inner) = self.of_connection(id) else { return };
        let mut line = Line::new("end");
        line.text("id", &id.to_string());
        line.peer(peer);
        line.number("code", code.into());
        line.duration(opened.elapsed());
        inner.write(line);
    }

    fn answered(&self, kind: &'static str, access: &Access, status: u16) {
        let Some(inner) = &self.0 else { return };
        // Relaxed: the count only spreads the lines.
        if inner.requests.fetch_add(1, Ordering::Relaxed) % inner.one_in != 0 {
            return;
        }
        let mut line = Line::new(kind);
        line.access(access, status);
        inner.write(line);
    }

    /// Returns the log if it has lines for the connection: all of its lines, or none.
    fn of_connection(&self, id: ConnectionId) -> Option<&Inner> {
        let mixed = (u64::from(id.generation()) << 32 | u64::from(id.slot())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0.as_deref().filter(|inner| ((mixed >> 32) as u32).is_multiple_of(inner.one_in))
    }
}

impl Inner {
    fn write(&self, line: Line) {
        (self.sink)(&Value::Object(line.0).to_string());
    }
}

/// A line under construction.
struct Line(Map<String, Value>);

impl Line {
    fn new(kind: &'static str) -> Line {
        let mut line = Line(Map::new());
        let mut time = String::new();
        // Writing to a string cannot fail.
        SystemTime.format_time(&mut Writer::new(&mut time)).unwrap_or_default();
        line.text("time", &time);
        line.text("event", kind);
        line
    }

    fn access(&mut self, Access { peer, method, path, begun, identity }: &Access, status: u16) {
        self.peer(*peer);
        self.text("method", method);
        self.text("path", path);
        self.number("status", status.into());
        self.duration(begun.elapsed());
        if let Some(identity) = identity {
            self.text("identity", cut(identity, IDENTITY_MAX));
        }
    }

    fn peer(&mut self, peer: Option<SocketAddr>) {
        if let Some(peer) = peer {
            self.text("peer", &peer.to_string());
        }
    }

    fn duration(&mut self, duration: Duration) {
        self.number("duration_us", u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.0.insert(key.into(), value.into());
    }

    fn number(&mut self, key: &str, value: u64) {
        self.0.insert(key.into(), value.into());
    }
}

/// Returns the beginning of a text, of at most so many bytes.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The most bytes of each text. JSON writes a byte with at most six characters, so a line has at most 8 KiB.
const METHOD_MAX: usize = 32;
const PATH_MAX: usize = 1_024;
const IDENTITY_MAX: usize = 128;

/// The most bytes of a line.
#[cfg(test)]
const LINE_MAX: usize = 8 * 1_024;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn log(one_in: u32) -> (AccessLog, Arc<Mutex<Vec<Value>>>) {
        let lines: Arc<Mutex<Vec<Value>>> = Arc::default();
        let written = Arc::clone(&lines);
        let sink = move |line: &str| {
            assert!(line.len() <= LINE_MAX && !line.contains('\n'), "{line}");
            written.lock().unwrap().push(serde_json::from_str(line).unwrap());
        };
        (AccessLog::new(Arc::new(sink), one_in), lines)
    }

    #[test]
    fn lines_are_bounded() {
        let (log, lines) = log(1);
        let odd = "\u{1}".repeat(100_000);
        let mut access = log.begin(|| "[::1]:1".parse().ok(), &odd, &odd).unwrap();
        access.identity = Some("ä".repeat(100_000));
        log.request(&access, 200);
        log.opened(ConnectionId::new(1, 2, 3), &access, 101);
        let lines = lines.lock().unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["identity"].as_str().unwrap().len(), IDENTITY_MAX);
        assert_eq!(lines[0]["path"].as_str().unwrap().len(), PATH_MAX);
    }

    /// The lines of a connection are all there, or none is.
    #[test]
    fn connections_are_sampled_whole() {
        let (log, lines) = log(10);
        let access = log.begin(|| None, "GET", "/live").unwrap();
        for number in 0..5_000 {
            let id = ConnectionId::new(0, number, 7);
            log.opened(id, &access, 101);
            log.ended(id, None, access.begun, 1_000);
        }
        let lines = lines.lock().unwrap();
        let of = |event: &str| {
            let ids = lines.iter().filter(|line| line["event"] == event).map(|line| line["id"].clone());
            ids.collect::<Vec<_>>()
        };
        assert_eq!(of("opening"), of("end"));
        assert!((400..600).contains(&of("end").len()), "{}", of("end").len());
    }

    #[test]
    fn requests_are_sampled() {
        let (log, lines) = log(4);
        let access = log.begin(|| None, "GET", "/").unwrap();
        (0..100).for_each(|_| log.request(&access, 200));
        assert_eq!(lines.lock().unwrap().len(), 25);
        assert!(AccessLog::off().begin(|| None, "GET", "/").is_none());
    }
}
