//! Sends answers on a connection that speaks HTTP, and ends the wait for a peer that takes them too slowly.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use crate::{
    config::Http,
    sys::{
        bounded_close::{LEFT_TO_KERNEL_MAX, LOOK_AFTER_PEER},
        net,
        transport::Transport,
    },
};

/// The socket of a connection that speaks HTTP.
type Stream = Transport<Arc<TcpStream>>;

/// The bytes that were sent, and the rate at which the peer takes them.
///
/// While the socket has no room, or still holds much of the last answer, the peer has to acknowledge a least number of
/// bytes in each [`Http::body_timeout`], [`Http::rate_min`] on average. The acknowledged bytes are measured
/// (`SIOCOUTQ`), and not the room in the socket: the room grows in steps of a third of the send buffer, which may be
/// megabytes.
#[derive(Debug)]
pub(super) struct Output {
    window: Duration,
    /// The bytes that the peer has to acknowledge in a window.
    least: u64,
    /// The bytes that the socket has taken.
    sent: u64,
    /// The bytes that the peer had acknowledged at the last look, at least.
    taken: u64,
    /// Whether hyper has flushed since the last write.
    pub(super) is_flushed: bool,
    pub(super) is_too_slow: bool,
    watch: Option<Watch>,
    /// The time of the next look at the acknowledged bytes, while the peer has yet to take much.
    look: Option<Pin<Box<Sleep>>>,
}

/// A window under way.
#[derive(Debug)]
struct Watch {
    ends: Pin<Box<Sleep>>,
    /// The acknowledged bytes at the beginning of the window.
    acknowledged: u64,
}

impl Output {
    pub(super) fn new(http: &Http) -> Output {
        let window = http.body_timeout;
        // At least one byte, so that the wait for a peer without progress ends.
        let least = (u128::from(http.rate_min) * window.as_millis() / 1_000).max(1);
        Output {
            window,
            least: u64::try_from(least).unwrap_or(u64::MAX),
            sent: 0,
            taken: 0,
            is_flushed: true,
            is_too_slow: false,
            watch: None,
            look: None,
        }
    }

    /// Sends as many bytes as fit into the socket.
    ///
    /// # Errors
    ///
    /// The error of `send(2)`; `TimedOut` for a peer that is too slow. Its socket will be reset when it is closed,
    /// since unsent bytes must not stay in the kernel either.
    pub(super) fn write(&mut self, stream: &Stream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.is_flushed)
            && let Some(watch) = &self.watch
            && (Instant::now() >= watch.ends.deadline() || self.is_taken(stream))
        {
            // In a part of this window the peer had no bytes to take.
            self.watch = None;
        }
        let sent = ready!(self.with_room(stream, cx, || stream.send_now(bytes)))?;
        self.sent += sent as u64;
        Poll::Ready(Ok(sent))
    }

    /// Sends what a transport keeps of the bytes that were written.
    ///
    /// # Errors
    ///
    /// Those of [`Output::write`].
    pub(super) fn flush(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match stream.flush_now() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.with_room(stream, cx, || stream.flush_now())
            }
            outcome => Poll::Ready(outcome),
        }
    }

    /// Ends our side after all output.
    ///
    /// # Errors
    ///
    /// Those of [`Output::write`], or the error of `shutdown(2)`.
    pub(super) fn finish(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match stream.finish_now() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.with_room(stream, cx, || stream.finish_now())
            }
            outcome => Poll::Ready(outcome),
        }
    }

    /// Tries `act` as long as the socket reports room. Fails with `TimedOut` if the peer is too slow.
    fn with_room<T>(
        &mut self,
        stream: &Stream,
        cx: &mut Context<'_>,
        mut act: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        while stream.socket().poll_write_ready(cx)?.is_ready() {
            match act() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
        ready!(self.watch(stream, cx))?;
        self.give_up(stream);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until closing the socket would leave little to the kernel, or the peer was too slow. The peer has the same
    /// least rate as while bytes wait for room in the socket.
    pub(super) fn poll_taken(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_too_slow && self.leaves_much(stream) {
            match self.watch(stream, cx) {
                Poll::Ready(Ok(())) => self.give_up(stream),
                // The connection is over, so the peer takes nothing more.
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {
                    let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK_AFTER_PEER)));
                    ready!(look.as_mut().poll(cx));
                    self.look = None;
                }
            }
        }
        self.look = None;
        Poll::Ready(())
    }

    /// Returns whether a close would leave much to the kernel. The system call is made only when many bytes were sent
    /// since the last one, so most small answers need no system call.
    fn leaves_much(&mut self, stream: &Stream) -> bool {
        let most = LEFT_TO_KERNEL_MAX as u64;
        if self.sent - self.taken > most {
            let left = stream.unacknowledged().unwrap_or_default() as u64;
            self.taken = self.sent.saturating_sub(left);
        }
        self.sent - self.taken > most
    }

    fn give_up(&mut self, stream: &Stream) {
        self.is_too_slow = true;
        net::reset_when_closed(stream);
    }

    /// Waits for the end of a window in which the peer was too slow.
    fn watch(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (window, sent) = (self.window, self.sent);
        let acknowledged = || Ok::<u64, io::Error>(sent.saturating_sub(stream.unacknowledged()? as u64));
        let watch = match &mut self.watch {
            Some(watch) => watch,
            None => self.watch.insert(Watch { ends: Box::pin(sleep(window)), acknowledged: acknowledged()? }),
        };
        loop {
            ready!(watch.ends.as_mut().poll(cx));
            let acknowledged = acknowledged()?;
            if acknowledged - watch.acknowledged.min(acknowledged) < self.least {
                return Poll::Ready(Ok(()));
            }
            watch.acknowledged = acknowledged;
            watch.ends.as_mut().reset(Instant::now() + window);
        }
    }

    /// Returns whether the peer has acknowledged everything.
    fn is_taken(&self, stream: &Stream) -> bool {
        stream.unacknowledged().is_ok_and(|bytes| bytes == 0)
    }
}
