//! Time as callers give it: milliseconds, the coarse ticks of keep-alives, and the deadlines of a connection.

/// A point in time: milliseconds since the caller's start, by a clock that does not go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// Returns the tick that this point lies in; for a point after the last tick, the last tick.
    ///
    /// ```
    /// use ringhub::proto::{Millis, Tick};
    /// assert_eq!(Millis(1_299).tick(), Tick(12));
    /// assert_eq!(Millis(1_300).tick(), Tick(13));
    /// assert_eq!(Millis(u64::MAX).tick(), Tick(u32::MAX));
    /// ```
    #[inline]
    pub const fn tick(self) -> Tick {
        let ticks = self.0 / Tick::MILLIS;
        Tick(if ticks < u32::MAX as u64 { ticks as u32 } else { u32::MAX })
    }
}

/// A point in time: units of 100 ms since the caller's start. A `u32` of ticks lasts for 13 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// The number of ticks in a second.
    pub const PER_SECOND: u32 = 10;

    /// The length of a tick in milliseconds.
    pub const MILLIS: u64 = 1_000 / Self::PER_SECOND as u64;

    /// Returns the first point of the tick.
    ///
    /// ```
    /// use ringhub::proto::{Millis, Tick};
    /// assert_eq!(Tick(12).begin(), Millis(1_200));
    /// ```
    #[inline]
    pub const fn begin(self) -> Millis {
        Millis(self.0 as u64 * Self::MILLIS)
    }

    /// Returns the point `ticks` later.
    ///
    /// ```
    /// use ringhub::proto::Tick;
    /// assert_eq!(Tick(5).after(3 * Tick::PER_SECOND), Tick(35));
    /// ```
    #[inline]
    pub const fn after(self, ticks: u32) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Returns the number of ticks since `earlier`; 0 if it is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How long the peer may be silent (RFC 6455 5.5.2: a ping may serve as a keep-alive), and how long the answer to our
/// close frame may take. The times are ticks; 0 turns a time off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// The silence of the peer after which it gets a ping.
    pub ping_interval: u32,
    /// The time from a ping until the connection is failed, if the peer stays silent. Any received byte ends the
    /// silence, not only a pong.
    pub pong_timeout: u32,
    /// The longest time for the peer to answer our close frame (RFC 6455 7.1.1).
    pub close_timeout: u32,
}

impl KeepAlive {
    /// Returns a keep-alive with these two times in seconds, and the default `close_timeout`. 0 turns either time off.
    ///
    /// ```
    /// use ringhub::proto::KeepAlive;
    /// let ticks = KeepAlive { ping_interval: 150, pong_timeout: 50, ..KeepAlive::default() };
    /// assert_eq!(KeepAlive::seconds(15, 5), ticks);
    /// ```
    #[must_use]
    pub const fn seconds(ping_interval: u32, pong_timeout: u32) -> Self {
        let ticks = Tick::PER_SECOND;
        Self {
            ping_interval: ping_interval.saturating_mul(ticks),
            pong_timeout: pong_timeout.saturating_mul(ticks),
            close_timeout: 10 * ticks,
        }
    }
}

impl KeepAlive {
    /// Returns how many milliseconds a peer may take nothing of what it is sent; `None` if it may take its time.
    pub(crate) fn silence_ms(&self) -> Option<u64> {
        let KeepAlive { ping_interval, pong_timeout, .. } = *self;
        let ticks = u64::from(ping_interval) + u64::from(pong_timeout);
        (ping_interval > 0 && pong_timeout > 0).then_some(ticks * Tick::MILLIS)
    }
}

impl Default for KeepAlive {
    /// A ping after 30 s, a pong within 10 s, a close answered within 10 s.
    fn default() -> Self {
        let seconds = Tick::PER_SECOND;
        Self { ping_interval: 30 * seconds, pong_timeout: 10 * seconds, close_timeout: 10 * seconds }
    }
}

/// The action of [`WebSocket::handle_timeout`](super::WebSocket::handle_timeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The deadline has moved meanwhile; nothing is due.
    Nothing,
    /// A ping was appended to the replies.
    PingSent,
    /// The peer has been silent since a ping. A close frame was appended to the replies, and the connection is closed.
    PongTimeout,
    /// The peer did not answer our close frame. The connection is closed.
    CloseTimeout,
}
