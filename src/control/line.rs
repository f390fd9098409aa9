//! A connection as hyper sees it: one request that is for it after the other, and then the end.
//!
//! Where a request begins and ends is not left to a second parser, which could understand it differently: a line finds
//! each head as a shard would, judges it, and lets hyper read up to the end of the body and no further. The first head
//! that is not for hyper looks to it like the end of the connection, after everything before was answered.

use std::{
    future::Future,
    io, mem,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use super::judge::{Judge, Verdict};
use crate::{
    config::Http,
    proto::{BodyScan, HeadScan, HttpError, Refusal, RequestHead},
};

/// A socket and how far it was read.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    judge: Arc<Judge>,
    received: BytesMut,
    has_large_buffer: bool,
    /// How many of the first bytes received hyper may read.
    released: usize,
    /// What stands behind them.
    next: Next,
    header_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    /// Runs while a head is awaited, or its end.
    head_ends: Option<Pin<Box<Sleep>>>,
    /// Which of the two it was set for.
    is_set_for_rest: Option<bool>,
    write_ends: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Next {
    Head(HeadScan),
    Body(BodyScan),
    Nothing(Ending),
}

/// Why hyper reads no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The peer has finished, or was silent for too long.
    Quiet,
    /// A head took too long.
    Overdue,
    /// A request that a shard is to answer is what comes next.
    WebSocket,
    /// A head that is refused.
    Malformed(HttpError),
}

impl Line {
    /// `received` is read before what the socket still has.
    pub(super) fn new(stream: TcpStream, received: BytesMut, judge: Arc<Judge>, http: &Http) -> Self {
        Line {
            stream,
            judge,
            received,
            has_large_buffer: false,
            released: 0,
            next: Next::Head(HeadScan::default()),
            header_timeout: http.header_timeout,
            idle_timeout: http.idle_timeout,
            write_timeout: http.body_timeout,
            head_ends: None,
            is_set_for_rest: None,
            write_ends: None,
        }
    }

    /// Why hyper has come to an end, if not on its own.
    pub(super) fn ending(&self) -> Option<Ending> {
        match self.next {
            Next::Nothing(ending) => Some(ending),
            Next::Head(_) | Next::Body(_) => None,
        }
    }

    /// The socket, and what was received and not read.
    ///
    /// # Errors
    ///
    /// If the runtime cannot give the socket up.
    pub(super) fn into_parts(self) -> io::Result<(OwnedFd, BytesMut)> {
        Ok((self.stream.into_std()?.into(), self.received))
    }

    /// Sends the last answer, and ends the connection.
    pub(super) async fn refuse(mut self, refusal: &Refusal) {
        if let Ok(Ok(())) = timeout(self.write_timeout, self.stream.write_all(&refusal.encode())).await {
            self.finish().await;
        }
    }

    /// Finishes our side, then takes what still comes for a moment: closing at once could destroy the answer on its way
    /// (RFC 9112 9.6).
    pub(super) async fn finish(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let rest = async {
            let mut most = LINGER_BYTES_MAX;
            self.received.clear();
            while most > 0
                && let Ok(count @ 1..) = self.stream.read_buf(&mut self.received).await
            {
                most = most.saturating_sub(count);
                self.received.clear();
                self.received.reserve(BODY_READ_BYTES);
            }
        };
        // Whoever has not taken it by then has had the time.
        drop(timeout(LINGER, rest).await);
    }

    /// Waits until hyper may read something, or nothing more.
    fn release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.released == 0 {
            match &mut self.next {
                Next::Head(scan) => match RequestHead::decode_with(scan, &self.received) {
                    Ok(Some((head, length))) => self.take_head(head, length),
                    Ok(None) => ready!(self.await_head(cx))?,
                    Err(error) => self.end(Ending::Malformed(error)),
                },
                Next::Body(body) => {
                    let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                    self.released = body.take(&self.received).map_err(broken)?;
                    if body.is_whole() {
                        self.next = Next::Head(HeadScan::default());
                    } else if self.released == 0 && ready!(self.fill_body(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Next::Nothing(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take_head(&mut self, head: RequestHead, length: usize) {
        self.is_set_for_rest = None;
        let (checked, body) = (check(&head), head.body());
        if self.judge.verdict(head) == Verdict::WebSocket {
            return self.end(Ending::WebSocket);
        }
        if let Err(error) = checked {
            return self.end(Ending::Malformed(error));
        }
        self.released = length;
        self.next = if body.is_whole() { Next::Head(HeadScan::default()) } else { Next::Body(body) };
    }

    fn end(&mut self, ending: Ending) {
        self.next = Next::Nothing(ending);
    }

    /// Waits for more of a head, each of which has its time: to begin, and from its first byte on to be whole.
    fn await_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(count) = self.fill(cx, HEAD_READ_BYTES)? {
            if count == 0 {
                self.end(Ending::Quiet);
            }
            return Poll::Ready(Ok(()));
        }
        let is_rest = !self.received.is_empty();
        if !is_rest && mem::take(&mut self.has_large_buffer) {
            // Who is silent keeps none.
            self.received = BytesMut::new();
        }
        let time = if is_rest { self.header_timeout } else { self.idle_timeout };
        let ends = self.head_ends.get_or_insert_with(|| Box::pin(sleep(time)));
        if self.is_set_for_rest.replace(is_rest) != Some(is_rest) {
            ends.as_mut().reset(Instant::now() + time);
        }
        ready!(ends.as_mut().poll(cx));
        self.end(if is_rest { Ending::Overdue } else { Ending::Quiet });
        Poll::Ready(Ok(()))
    }

    fn fill_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.has_large_buffer = true;
        self.fill(cx, BODY_READ_BYTES)
    }

    /// Appends what comes next, up to a number of bytes. Nothing appended means that the peer has finished.
    fn fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        self.received.reserve(most);
        pin!(self.stream.read_buf(&mut self.received)).poll(cx)
    }
}

/// What hyper would refuse without a word, or not at all.
fn check(head: &RequestHead) -> Result<(), HttpError> {
    match head.minor_version() {
        0 => Ok(()),
        1 if head.headers().get("host").is_some() => Ok(()),
        1 => Err(HttpError::MissingHost),
        _ => Err(HttpError::Version),
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.release(cx))?;
        let count = self.released.min(cursor.remaining());
        cursor.put_slice(&self.received[..count]);
        self.received.advance(count);
        self.released -= count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if outcome.is_ready() {
            self.write_ends = None;
            return outcome;
        }
        // A peer that takes no answers must not keep them, and us, for ever.
        let time = self.write_timeout;
        let ends = self.write_ends.get_or_insert_with(|| Box::pin(sleep(time)));
        ready!(ends.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Everything is sent. What becomes of the socket is not for hyper to say.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const HEAD_READ_BYTES: usize = 4 * 1_024;
const BODY_READ_BYTES: usize = 32 * 1_024;

/// How long a client that was answered for good may take to read it, and how much it may still send.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 8 << 20;
