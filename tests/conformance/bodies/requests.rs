//! Compares how ringhub, httparse and hyper read the heads and bodies of requests.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use ringhub::proto::{HEADERS_MAX, HttpError, RequestHead};

/// For each head that ringhub accepts, checks that httparse reads the head in the same way. Only a version above
/// HTTP/1.1 is refused by httparse at once, and by ringhub later (505). For each request that ringhub accepts, checks
/// that hyper reads the same request with the same end, except for [`DIFFERENCES`]. If hyper accepts a request, ringhub
/// either accepts the request with the same end, or refuses the request. The first byte of `bytes` chooses the size of
/// the pieces in which the other bytes arrive.
///
/// Returns the name of the difference that the request shows, or else the kind of an accepted request.
pub(crate) fn requests(bytes: &[u8]) -> Option<&'static str> {
    let [cut, stream @ ..] = bytes else { return None };
    let ours = ours(stream, usize::MAX);
    assert_eq!(self::ours(stream, 1), ours, "byte by byte");
    assert_eq!(self::ours(stream, 2 + usize::from(*cut)), ours, "in pieces");
    if let Ok(Some((head, head_len))) = RequestHead::decode(stream) {
        compare_with_httparse(&head, head_len, stream);
    }
    let theirs = hyper(stream);
    let agree = match (&ours, &theirs) {
        (Reading::Whole(ours), Reading::Whole(theirs)) => ours == theirs,
        (Reading::Whole(_), _) => false,
        // hyper may refuse an incomplete request, but must not find the request's end before ringhub finds it.
        (Reading::Awaited, theirs) => !matches!(theirs, Reading::Whole(_)),
        (Reading::Refused(_), _) => true,
    };
    if agree {
        let Reading::Whole(whole) = ours else { return None };
        let is_next_line = |at: usize| at + b"\r\n".len() == whole.len;
        return Some(match trailer_at(&stream[..whole.len]) {
            Some(at) if is_next_line(at) => CHUNKED,
            Some(_) => CHUNKED_WITH_TRAILER,
            None if whole.headers.iter().any(|(name, _)| name == "content-length") => WITH_LENGTH,
            None => WITHOUT_BODY,
        });
    }
    let row = DIFFERENCES.iter().find(|row| (row.holds)(stream, &ours, &theirs));
    assert!(row.is_some(), "{:?}\nours: {ours:?}\nhyper: {theirs:?}", String::from_utf8_lossy(stream));
    row.map(|row| row.name)
}

/// A known difference, with its justification.
pub(crate) struct Difference {
    /// The behaviour of hyper.
    pub(crate) name: &'static str,
    /// The section of the RFC, and its content.
    pub(crate) section: &'static str,
    /// Returns whether two readings of the stream differ only by this difference.
    pub(crate) holds: fn(&[u8], &Reading, &Reading) -> bool,
}

/// Every known difference. A test must see each of them.
pub(crate) const DIFFERENCES: &[Difference] = &[Difference {
    name: "reads the lines of a trailer",
    section: "RFC 9112 7.1.2: a recipient may discard the trailer; the trailer's end does not depend on its lines",
    holds: |stream, ours, theirs| {
        let (Reading::Whole(ours), Reading::Refused(None)) = (ours, theirs) else { return false };
        trailer_at(&stream[..ours.len]).is_some_and(|at| at + b"\r\n".len() < ours.len)
    },
}];

/// Every kind of request. A test must see each of them.
pub(crate) const KINDS: [&str; 4] = [WITHOUT_BODY, WITH_LENGTH, CHUNKED, CHUNKED_WITH_TRAILER];

const WITHOUT_BODY: &str = "has no body";
const WITH_LENGTH: &str = "has a body with a length";
const CHUNKED: &str = "has a chunked body";
const CHUNKED_WITH_TRAILER: &str = "has a chunked body with a trailer";

/// The reading of the first request of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The request is whole.
    Whole(Whole),
    /// The rest of the request has not arrived.
    Awaited,
    /// The request is refused: by ringhub with an error, by hyper with `None`.
    Refused(Option<HttpError>),
}

/// A request that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    method: String,
    /// The path and the query, if the target has a path.
    target: Option<(String, Option<String>)>,
    minor_version: u8,
    headers: Vec<(String, Vec<u8>)>,
    /// The end of the request in the stream.
    len: usize,
}

/// Returns where the trailer of a chunked request begins. If there is no trailer, returns where the last empty line
/// begins.
fn trailer_at(request: &[u8]) -> Option<usize> {
    let (head, head_len) = RequestHead::decode(request).ok()??;
    let ends_with_an_empty_line = |&at: &usize| {
        let mut body = head.body();
        body.take(&request[head_len..at]).is_ok() && !body.is_whole() && body.take(b"\r\n").is_ok() && body.is_whole()
    };
    head.headers().get("transfer-encoding")?;
    (head_len..request.len()).find(ends_with_an_empty_line)
}

fn ours(stream: &[u8], piece_bytes: usize) -> Reading {
    read_in_pieces(stream, piece_bytes).unwrap_or_else(|error| Reading::Refused(Some(error)))
}

fn read_in_pieces(stream: &[u8], piece_bytes: usize) -> Result<Reading, HttpError> {
    let mut scan = Default::default();
    let mut arrived = 0;
    let (head, head_len) = loop {
        if let Some(found) = RequestHead::decode_with(&mut scan, &stream[..arrived])? {
            break found;
        }
        if arrived == stream.len() {
            return Ok(Reading::Awaited);
        }
        arrived = arrived.saturating_add(piece_bytes).min(stream.len());
    };
    head.check_host()?;
    let (mut body, mut len) = (head.body(), head_len);
    for piece in stream[head_len..].chunks(piece_bytes.min(1 << 20)) {
        len += body.take(piece)?;
    }
    if !body.is_whole() {
        assert_eq!(len, stream.len(), "the body takes all bytes");
        return Ok(Reading::Awaited);
    }
    let headers = head.headers().iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
    Ok(Reading::Whole(Whole {
        method: head.method().into(),
        target: target(head.path(), head.query()),
        minor_version: head.minor_version(),
        headers: by_name(headers),
        len,
    }))
}

/// Returns the path and the query of a target that has a path: neither `*` nor `host:port`.
fn target(path: &str, query: Option<&str>) -> Option<(String, Option<String>)> {
    path.starts_with('/').then(|| (path.into(), query.map(Into::into)))
}

/// Returns header lines sorted by their names; lines with the same name keep their order.
fn by_name(lines: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

fn compare_with_httparse(head: &RequestHead, head_len: usize, stream: &[u8]) {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let parsed = request.parse(stream);
    if head.minor_version() > 1 {
        // ringhub reads this head, so that it can answer the request with 505.
        assert_eq!((parsed, head.check_host()), (Err(httparse::Error::Version), Err(HttpError::Version)));
        return;
    }
    assert_eq!(parsed, Ok(httparse::Status::Complete(head_len)));
    assert_eq!(request.method, Some(head.method()));
    assert_eq!(request.path, Some(head.target()));
    assert_eq!(request.version, Some(head.minor_version()));
    let theirs: Vec<_> = request.headers.iter().map(|line| (line.name.to_ascii_lowercase(), line.value)).collect();
    let ours: Vec<_> = head.headers().iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(ours, theirs);
}

/// Returns how hyper's server reads the stream. hyper has the settings for parsing that it has in ringhub's server.
/// Each read gives hyper one byte, so hyper has read no byte beyond the request's end.
fn hyper(stream: &[u8]) -> Reading {
    let progress = Rc::new(Progress::default());
    let service = service_fn(|request: Request<Incoming>| {
        let progress = Rc::clone(&progress);
        async move {
            let (head, body) = request.into_parts();
            let Ok(_body) = body.collect().await else {
                return Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()));
            };
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
            let whole = Whole {
                method: head.method.to_string(),
                target: target(head.uri.path(), head.uri.query()),
                minor_version: u8::from(head.version == hyper::Version::HTTP_11),
                headers: by_name(headers),
                len: progress.read.get(),
            };
            progress.whole.borrow_mut().get_or_insert(whole);
            Ok(Response::new(Empty::new()))
        }
    });
    let socket = Trickle { rest: stream.iter(), progress: Rc::clone(&progress) };
    let mut builder = http1::Builder::new();
    builder.half_close(true).header_read_timeout(None).keep_alive(false).max_headers(HEADERS_MAX);
    let mut connection = pin!(builder.serve_connection(socket, service));
    let wakeful = Arc::new(Wakeful(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&wakeful));
    let mut has_ended = false;
    while wakeful.0.swap(false, Ordering::Relaxed) && !has_ended && progress.whole.borrow().is_none() {
        has_ended = connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
    }
    match progress.whole.take() {
        Some(whole) => Reading::Whole(whole),
        None if has_ended => Reading::Refused(None),
        None => Reading::Awaited,
    }
}

/// The progress of hyper.
#[derive(Default)]
struct Progress {
    read: Cell<usize>,
    whole: RefCell<Option<Whole>>,
}

/// A socket that gives one byte at a time, and accepts all output.
struct Trickle<'a> {
    rest: std::slice::Iter<'a, u8>,
    progress: Rc<Progress>,
}

impl hyper::rt::Read for Trickle<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(byte) = self.rest.next() else { return Poll::Pending };
        cursor.put_slice(&[*byte]);
        self.progress.read.set(self.progress.read.get() + 1);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Trickle<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Notes whether a task must be polled again.
struct Wakeful(AtomicBool);

impl Wake for Wakeful {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
