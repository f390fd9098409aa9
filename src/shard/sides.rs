//! The two sides of a connection's socket, and how far each of them has come to its end.

use std::num::NonZeroU32;

use crate::proto::Tick;

/// The two sides of a connection's socket. The table of transitions stands in [`ending`](super::ending).
#[derive(Debug)]
pub(crate) struct Sides {
    ours: Ours,
    peer: Peer,
}

/// Our side of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ours {
    /// The connection receives messages.
    Open,
    /// The connection gets no more messages. The output that it is owed is being sent or, if the connection is lost,
    /// was dropped.
    Leaving {
        /// When the connection is dropped, whatever the peer does; `None` for never.
        ends_by: Option<Deadline>,
    },
    /// No output is left, and our end (FIN) has been sent.
    Finished {
        /// When the connection is dropped, whatever the peer does; `None` for never.
        ends_by: Option<Deadline>,
    },
}

/// The peer's side of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nothing is known of an end.
    Sends,
    /// The peer has finished, or the socket has failed. The end shows after the input.
    HungUp,
    /// The end of the peer's input has been received.
    Ended,
}

/// A tick that is not the first, so that `None` takes no additional memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline(NonZeroU32);

const _: () = assert!(size_of::<Sides>() == 12, "larger `Sides` would make each connection's slot larger");

impl Sides {
    /// Returns the sides of a socket whose session is open.
    pub(crate) const fn open() -> Self {
        Sides { ours: Ours::Open, peer: Peer::Sends }
    }

    /// Returns whether our side has not begun to leave.
    pub(crate) fn is_open(&self) -> bool {
        self.ours == Ours::Open
    }

    /// Returns whether our side has been finished.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.ours, Ours::Finished { .. })
    }

    /// Returns whether a hang-up is known, or the peer's end has been received. Receiving goes on until the end shows.
    #[inline]
    pub(crate) fn has_hung_up(&self) -> bool {
        self.peer != Peer::Sends
    }

    /// Returns whether the end of the peer's input has been received.
    pub(crate) fn has_peer_ended(&self) -> bool {
        self.peer == Peer::Ended
    }

    /// Returns when the connection is dropped, whatever the peer does.
    pub(crate) fn ends_by(&self) -> Option<Tick> {
        match self.ours {
            Ours::Open => None,
            Ours::Leaving { ends_by } | Ours::Finished { ends_by } => ends_by.map(Deadline::tick),
        }
    }

    /// Notes a hang-up: the peer has finished, or the socket has failed.
    #[inline]
    pub(crate) fn hang_up(&mut self) {
        if self.peer == Peer::Sends {
            self.peer = Peer::HungUp;
        }
    }

    /// Notes that the end of the peer's input has been received.
    pub(crate) fn end_peer(&mut self) {
        self.peer = Peer::Ended;
    }

    /// Notes that the connection gets no more messages.
    ///
    /// # Panics
    ///
    /// If that has been noted before.
    pub(crate) fn leave(&mut self) {
        assert_eq!(self.ours, Ours::Open, "a connection leaves the open state once");
        self.ours = Ours::Leaving { ends_by: None };
    }

    /// Sets the deadline of the connection's end to `close_timeout` ticks after `now`, unless the deadline is set or
    /// `close_timeout` is 0.
    ///
    /// # Panics
    ///
    /// If our side is open.
    pub(crate) fn limit(&mut self, now: Tick, close_timeout: u32) {
        match &mut self.ours {
            Ours::Open => panic!("an open connection has no deadline for its end"),
            Ours::Leaving { ends_by } | Ours::Finished { ends_by } => {
                *ends_by = ends_by.or_else(|| Deadline::new(now, close_timeout));
            }
        }
    }

    /// Notes that our side of the socket is finished.
    ///
    /// # Panics
    ///
    /// Unless our side has been leaving.
    pub(crate) fn finish(&mut self) {
        let Ours::Leaving { ends_by } = self.ours else {
            panic!("our side is finished once, and after the open state was left: {:?}", self.ours)
        };
        self.ours = Ours::Finished { ends_by };
    }
}

impl Deadline {
    /// Returns the tick so many ticks after `now`; `None` if `ticks` is 0.
    fn new(now: Tick, ticks: u32) -> Option<Self> {
        if ticks == 0 { None } else { NonZeroU32::new(now.after(ticks).0).map(Deadline) }
    }

    fn tick(self) -> Tick {
        Tick(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_side_is_open_then_leaving_then_finished() {
        let mut sides = Sides::open();
        assert_eq!((sides.is_open(), sides.is_finished(), sides.ends_by()), (true, false, None));
        sides.leave();
        sides.limit(Tick(5), 50);
        assert_eq!((sides.is_open(), sides.is_finished(), sides.ends_by()), (false, false, Some(Tick(55))));
        sides.finish();
        assert_eq!((sides.is_open(), sides.is_finished(), sides.ends_by()), (false, true, Some(Tick(55))));
    }

    /// One close timeout bounds the whole end of a connection. It is set once; setting it again changes nothing.
    #[test]
    fn the_first_deadline_holds() {
        let mut sides = Sides::open();
        sides.leave();
        sides.limit(Tick(5), 0);
        assert_eq!(sides.ends_by(), None);
        sides.limit(Tick(0), 1);
        sides.limit(Tick(30), 50);
        assert_eq!(sides.ends_by(), Some(Tick(1)));
    }

    #[test]
    fn a_late_report_of_a_hang_up_does_not_take_an_end_back() {
        let mut sides = Sides::open();
        assert!(!sides.has_hung_up());
        sides.hang_up();
        assert!(sides.has_hung_up() && !sides.has_peer_ended());
        sides.end_peer();
        sides.hang_up();
        assert!(sides.has_hung_up() && sides.has_peer_ended());
    }

    #[test]
    #[should_panic(expected = "leaves the open state once")]
    fn leaving_twice_is_a_bug() {
        let mut sides = Sides::open();
        sides.leave();
        sides.leave();
    }

    #[test]
    #[should_panic(expected = "finished once, and after the open state was left")]
    fn finishing_an_open_side_is_a_bug() {
        Sides::open().finish();
    }

    #[test]
    #[should_panic(expected = "no deadline for its end")]
    fn limiting_an_open_side_is_a_bug() {
        Sides::open().limit(Tick(1), 1);
    }
}
