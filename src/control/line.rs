//! A connection as hyper sees it: what a shard has read of it comes first, and it keeps the deadlines hyper has not.

use std::{
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::config::Http;

/// Where a connection is between two requests.
///
/// hyper counts its time for a head from the end of the last request, which is right for a connection that is kept
/// alive and says nothing, and far too long for a head that has begun. So the line looks itself: the first byte it
/// reads while nothing is being answered begins a head.
#[derive(Debug, Default)]
pub(super) struct Phase(AtomicU8);

impl Phase {
    /// A request is being answered; what is read now is its body.
    pub(super) fn begin_answer(&self) {
        self.0.store(ANSWER, Ordering::Relaxed);
    }

    /// What is read from now on is the next head.
    pub(super) fn end_answer(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    /// What is written from now on is not for the peer: a shard will answer.
    pub(super) fn capture(&self) {
        self.0.store(CAPTURE, Ordering::Relaxed);
    }

    /// Has a head begun that is not whole?
    pub(super) fn is_in_head(&self) -> bool {
        self.is(HEAD)
    }

    fn begin_head(&self) {
        self.0.store(HEAD, Ordering::Relaxed);
    }

    // Relaxed, here and above: all of it is one task's.
    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const ANSWER: u8 = 2;
const CAPTURE: u8 = 3;

/// A socket, what is to be read from it first, and what is to be sent first.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    begun: Bytes,
    owed: Bytes,
    captured: Vec<u8>,
    phase: Arc<Phase>,
    header_timeout: Duration,
    write_timeout: Duration,
    head_ends: Option<Pin<Box<Sleep>>>,
    write_ends: Option<Pin<Box<Sleep>>>,
    /// While it lingers: until when, and how much more it takes.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Line {
    pub(super) fn new(stream: TcpStream, begun: Bytes, owed: Bytes, http: &Http) -> Self {
        Line {
            stream,
            begun,
            owed,
            captured: Vec::new(),
            phase: Arc::default(),
            header_timeout: http.header_timeout,
            write_timeout: http.body_timeout,
            head_ends: None,
            write_ends: None,
            linger: None,
        }
    }

    pub(super) fn phase(&self) -> Arc<Phase> {
        Arc::clone(&self.phase)
    }

    /// The socket, and what was captured of what hyper wrote.
    ///
    /// # Errors
    ///
    /// If the runtime cannot give the socket up.
    pub(super) fn into_parts(self) -> io::Result<(OwnedFd, Vec<u8>)> {
        Ok((self.stream.into_std()?.into(), self.captured))
    }

    /// Appends what comes next. Nothing appended means that the peer has finished.
    fn read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let count = self.begun.len().min(buffer.remaining());
            buffer.put_slice(&self.begun[..count]);
            self.begun.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }

    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while !self.owed.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.owed))?;
            self.owed.advance(count);
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; READ_BYTES];
        let most = chunk.len().min(cursor.remaining());
        let mut buffer = ReadBuf::new(&mut chunk[..most]);
        let outcome = self.read(cx, &mut buffer);
        if outcome.is_ready() {
            let count = buffer.filled().len();
            cursor.put_slice(buffer.filled());
            if count > 0 && self.phase.is(IDLE) {
                self.phase.begin_head();
                self.head_ends = Some(Box::pin(sleep(self.header_timeout)));
            }
            return outcome;
        }
        if self.phase.is_in_head()
            && let Some(ends) = &mut self.head_ends
        {
            ready!(ends.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl Write for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.phase.is(CAPTURE) {
            self.captured.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let outcome = self.write(cx, bytes);
        if outcome.is_ready() {
            self.write_ends = None;
            return outcome;
        }
        // A peer that takes no answers must not keep them, and us, for ever.
        let timeout = self.write_timeout;
        let ends = self.write_ends.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(ends.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Finishes our side, then takes what still comes for a moment: closing at once could destroy the answer on its way
    /// (RFC 9112 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        let (mut ends, mut bytes) = self.linger.take().unwrap_or_else(|| (Box::pin(sleep(LINGER)), LINGER_BYTES_MAX));
        let mut chunk = [0; READ_BYTES];
        while bytes > 0 && ends.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut chunk);
            match self.read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    bytes = bytes.saturating_sub(buffer.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    self.linger = Some((ends, bytes));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

const READ_BYTES: usize = 16 * 1_024;

/// How long a client that was answered for good may take to read it, and how much it may still send.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 8 << 20;
