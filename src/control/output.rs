//! Sends answers on a connection that speaks HTTP, and gives up a peer that takes them too slowly.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use crate::{
    config::Http,
    sys::{bounded_close::until_taken, net},
};

/// The bytes that were sent, and the rate at which the peer takes them.
///
/// While the socket has no room the peer has to acknowledge a least number of bytes in each [`Http::body_timeout`],
/// [`Http::rate_min`] on average. The kernel knows the acknowledged bytes; room in a socket comes in steps of a third
/// of its send buffer, megabytes, which would be too strict for some peers and far too generous to others.
#[derive(Debug)]
pub(super) struct Output {
    window: Duration,
    /// The bytes that the peer has to acknowledge in a window.
    least: u64,
    /// The bytes that the socket has taken.
    sent: u64,
    /// Whether bytes wait for room in the socket.
    pub(super) is_waiting: bool,
    /// Whether everything was written since the last write.
    pub(super) is_flushed: bool,
    pub(super) is_too_slow: bool,
    watch: Option<Watch>,
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
        // At least one byte, so that a peer without progress is given up.
        let least = (u128::from(http.rate_min) * window.as_millis() / 1_000).max(1);
        Output {
            window,
            least: u64::try_from(least).unwrap_or(u64::MAX),
            sent: 0,
            is_waiting: false,
            is_flushed: false,
            is_too_slow: false,
            watch: None,
        }
    }

    /// Sends as many bytes as the socket has room for.
    ///
    /// # Errors
    ///
    /// The error of `send(2)`; `TimedOut` for a peer that is too slow. Its socket will be reset when it is closed,
    /// since unsent bytes must not stay in the kernel either.
    pub(super) fn write(&mut self, stream: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.is_flushed)
            && let Some(watch) = &self.watch
            && (Instant::now() >= watch.ends.deadline() || self.is_taken(stream))
        {
            // There was a time without bytes for the peer to take.
            self.watch = None;
        }
        loop {
            if stream.poll_write_ready(cx)?.is_pending() {
                break;
            }
            match stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => {
                    self.is_waiting = false;
                    self.sent += *outcome.as_ref().unwrap_or(&0) as u64;
                    return Poll::Ready(outcome);
                }
            }
        }
        self.is_waiting = true;
        ready!(self.watch(stream, cx))?;
        self.give_up(stream);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until the peer has taken the bytes in the socket, but for a few that a close leaves to the kernel, or was
    /// too slow. Ends as well when `is_held`, which is called whenever the task is woken, returns false.
    pub(super) async fn wait_until_taken(&mut self, stream: &TcpStream, is_held: impl Fn() -> bool) {
        let sent = self.sent;
        // A connection that is over has nothing left to take.
        let acknowledged = || sent.saturating_sub(net::unacknowledged(stream).unwrap_or_default() as u64);
        let mut before = acknowledged();
        while timeout(self.window, until_taken(stream, &is_held)).await.is_err() {
            let now = acknowledged();
            if now.saturating_sub(before) < self.least {
                return self.give_up(stream);
            }
            before = now;
        }
    }

    fn give_up(&mut self, stream: &TcpStream) {
        self.is_too_slow = true;
        net::reset_when_closed(stream);
    }

    /// Waits for the end of a window in which the peer was too slow.
    fn watch(&mut self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (window, sent) = (self.window, self.sent);
        let acknowledged = || Ok::<u64, io::Error>(sent.saturating_sub(net::unacknowledged(stream)? as u64));
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
    fn is_taken(&self, stream: &TcpStream) -> bool {
        net::unacknowledged(stream).is_ok_and(|bytes| bytes == 0)
    }
}
