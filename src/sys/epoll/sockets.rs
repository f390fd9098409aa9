//! The sockets of a shard on epoll: edges of readiness, receives and sends one by one.
//!
//! The plain version of an epoll loop waits, and looks at which sockets are readable. This one differs from it in five
//! points, so that a shard sees no difference from a [`HotRing`](crate::sys::HotRing):
//!
//! 1. **Edges.** A socket is added once, with `EPOLLET`, and reports new input, not input that still waits. A socket
//!    that the shard leaves unread, since it has no room, does not make every wait return at once.
//! 2. **A wait for room needs no system call.** Every socket is watched for room too, and an edge comes after each
//!    send that was refused or short. An edge for input also says whether there is room; so room is reported only to
//!    an owner that waits for it ([`Watches`]).
//! 3. **Waits never block.** [`Io::reap`] takes the edges that have come, and again while the list was full. If edges
//!    are left when it stops, [`Epoll::has_reports`] is true, since the runtime sees an edge of the whole instance only
//!    when the instance becomes readable anew.
//! 4. **A watch ends with its descriptor.** Nobody duplicates the descriptor of a watched socket, so closing it ends
//!    the watch. Edges of a slot's earlier owner are recognised by their generation.
//! 5. **A socket that cannot be watched is polled.** Where the kernel allows no more watches, the shard receives from
//!    the socket again in each turn, and watches it as soon as it may.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::{Errno, retry_on_intr},
    net::{SendAncillaryBuffer, SendFlags},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::watches::Watches;
use crate::sys::{
    io::{Io, Key, Readiness, Receive, SendEntry, SendLimits, Unsent},
    net,
    transport::Transport,
};

/// The type of a shard's sockets.
type Socket = Transport;

/// An epoll instance for the sockets of one shard, used by the thread that made it.
pub struct Epoll {
    instance: OwnedFd,
    watches: Watches,
    /// Reports of sockets that cannot be watched; kept for the next [`Io::reap`].
    ready: Vec<Readiness>,
    /// Scratch, empty between uses.
    events: Vec<Event>,
    /// Whether edges may be left that the last [`Io::reap`] did not take.
    is_full: bool,
    /// Whether the kernel has refused a send since the last [`Io::reap`] for another reason than want of room, so that
    /// no edge will come.
    has_untried: bool,
    /// Whether a watch was refused, which is logged once.
    was_refused: bool,
    /// How many more sockets may be watched, set by a test. `None`: no limit.
    #[cfg(test)]
    watches_left: Option<u32>,
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll").field("fd", &self.instance.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Epoll {
    /// Makes an instance for the calling thread.
    ///
    /// # Errors
    ///
    /// The error of `epoll_create1(2)`: descriptors or memory are used up.
    pub fn new() -> io::Result<Epoll> {
        Ok(Epoll {
            instance: epoll::create(CreateFlags::CLOEXEC)?,
            watches: Watches::default(),
            ready: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            is_full: false,
            has_untried: false,
            was_refused: false,
            #[cfg(test)]
            watches_left: None,
        })
    }

    /// Returns the number of sockets that are watched.
    #[must_use]
    pub fn armed(&self) -> u64 {
        self.watches.count()
    }

    /// Lets the runtime of the calling thread watch for edges, on a descriptor of its own.
    ///
    /// # Errors
    ///
    /// If the descriptor cannot be duplicated or registered.
    pub fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let watched = self.instance.try_clone()?;
        // SAFETY: `watched` is owned by the `AsyncFd` alone, an `OwnedFd` always names the same open descriptor, and
        // it is closed only when the `AsyncFd` has been dropped.
        unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }.map_err(Into::into)
    }

    /// Watches a socket, or looks again at one that is watched: what it has is reported, as if it had just come.
    fn add(&mut self, key: Key, socket: &Socket) -> Result<(), Errno> {
        #[cfg(test)]
        if let Some(left) = &mut self.watches_left {
            *left = left.checked_sub(1).ok_or(Errno::NOSPC)?;
        }
        let data = EventData::new_u64(u64::from(key.generation) << 32 | u64::from(key.slot));
        match epoll::add(&self.instance, socket, data, EDGES) {
            Err(Errno::EXIST) => epoll::modify(&self.instance, socket, data, EDGES),
            Ok(()) => {
                net::tell_unread(socket);
                Ok(())
            }
            refused => refused,
        }
    }

    /// Returns the report of an event; `None` if it is not for the slot's owner, or the owner does not wait for it.
    fn report(&mut self, event: Event) -> Option<Readiness> {
        let (data, flags) = (event.data.u64(), event.flags);
        let key = Key { slot: data as u32, generation: (data >> 32) as u32 };
        if !self.watches.has(key) {
            return None;
        }
        let hung_up = flags.intersects(HUNG_UP);
        // The receive that follows a hang-up finds the end of input, or the error.
        let readable = hung_up || flags.contains(EventFlags::IN);
        let has_room = flags.contains(EventFlags::OUT) || flags.intersects(BROKEN);
        let writable = has_room && self.watches.take_wait(key);
        (readable || writable).then_some(Readiness { key, readable, hung_up, writable, disarmed: false })
    }

    /// Tries an entry. Returns how many of its bytes were sent.
    fn send_entry(entry: &SendEntry<'_, Socket>) -> Result<usize, Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        retry_on_intr(|| match entry.pieces {
            [piece] => rustix::net::send(entry.socket, piece, flags),
            pieces => rustix::net::sendmsg(entry.socket, pieces, &mut SendAncillaryBuffer::default(), flags),
        })
    }
}

impl Io for Epoll {
    type Socket = Socket;

    fn arm(&mut self, key: Key, socket: &Socket) {
        self.watches.begin(key);
        if let Err(error) = self.add(key, socket) {
            self.watches.end(key);
            if !std::mem::replace(&mut self.was_refused, true) {
                tracing::warn!(
                    error = %io::Error::from(error),
                    "epoll cannot watch a socket, which is polled instead: raise the limit fs.epoll.max_user_watches, \
                     or lower --max-connections"
                );
            }
            self.ready.push(Readiness { key, readable: true, hung_up: false, writable: true, disarmed: true });
        }
    }

    fn await_room(&mut self, key: Key, socket: &Socket) {
        if !self.watches.await_room(key) {
            // The socket is polled, for input and for room.
            return;
        }
        if self.has_untried {
            // No edge may come for this socket, unless it is looked at again.
            if let Err(error) = self.add(key, socket) {
                tracing::debug!(error = %io::Error::from(error), "epoll cannot look at a socket again");
                self.ready.push(Readiness { key, readable: false, hung_up: false, writable: true, disarmed: false });
                self.watches.take_wait(key);
            }
        }
    }

    fn disarm(&mut self, key: Key) {
        self.watches.end(key);
        self.ready.retain(|report| report.key != key);
    }

    fn submit(&mut self) {}

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        ready.append(&mut self.ready);
        self.has_untried = false;
        // So many lists hold an edge of each socket. More edges come only during this loop.
        let lists_max = self.watches.count() / EVENTS_MAX as u64 + 1;
        for _ in 0..lists_max {
            let waited = epoll::wait(&self.instance, spare_capacity(&mut self.events), Some(&NOW));
            match waited {
                Ok(count) => self.is_full = count == EVENTS_MAX,
                Err(Errno::INTR) => self.is_full = true,
                Err(error) => panic!("the epoll instance is refused: {error}"),
            }
            let mut events = std::mem::take(&mut self.events);
            ready.extend(events.drain(..).filter_map(|event| self.report(event)));
            self.events = events;
            if !self.is_full {
                break;
            }
        }
    }

    fn has_reports(&mut self) -> bool {
        // Edges may be left, or a socket could not be watched.
        self.is_full || !self.ready.is_empty()
    }

    fn receive(&mut self, batch: &mut [Receive<'_, Socket>]) {
        for entry in batch {
            let room = entry.buffer.spare_capacity_mut();
            assert!(!room.is_empty(), "a receive entry needs room");
            let most = room.len().min(Receive::<Socket>::BYTES_MAX);
            entry.result = match net::receive_and_tell(entry.socket, &mut room[..most]) {
                Ok(taken) => {
                    entry.has_more = taken.has_more;
                    Ok(taken.count)
                }
                // No edge will report the bytes in the socket again.
                Err(error) if is_untried(&error) => Err(io::ErrorKind::Interrupted.into()),
                Err(error) => Err(error),
            };
            if let Ok(count) = entry.result {
                let length = entry.buffer.len() + count;
                // SAFETY: the kernel has written `count` bytes from the start of the spare capacity, no more than the
                // room it was given.
                unsafe { entry.buffer.set_len(length) };
            }
        }
    }

    fn discard(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        net::discard(socket.socket(), most)
    }

    fn send(&mut self, batch: &[SendEntry<'_, Socket>], refused: &mut Vec<Unsent>) {
        assert!(batch.iter().all(is_sendable), "a send entry has 1 to 1 024 pieces, none of them empty");
        for (index, entry) in batch.iter().enumerate() {
            let sent = Self::send_entry(entry);
            if sent == Ok(entry.pieces.iter().map(|piece| piece.len()).sum()) {
                continue;
            }
            self.has_untried |= sent.is_err_and(|error| error != Errno::AGAIN);
            refused.push(Unsent { index, sent: sent.map_err(Into::into) });
        }
    }

    fn addresses(&self, socket: &Socket) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (net::peer(socket), net::local(socket))
    }

    fn finish(&mut self, socket: &Socket) {
        net::shutdown(socket, false);
    }

    fn unread(&self, socket: &Socket) -> usize {
        // A socket that cannot report this has failed. The next receive will fail too.
        net::unread(socket).unwrap_or_default()
    }

    fn limit_output(&mut self, socket: &Socket, limits: SendLimits) {
        // A socket that cannot be limited has no connection any more.
        if let Err(error) = net::limit_output(socket, limits) {
            tracing::debug!(%error, "a socket's output is not limited");
        }
    }

    fn unacknowledged(&self, socket: &Socket) -> usize {
        // A socket that cannot report this has no connection any more.
        net::unacknowledged(socket).unwrap_or_default()
    }

    fn reset(&mut self, socket: &Socket) {
        net::reset_when_closed(socket);
    }
}

/// Returns whether a receive that has failed in this way has not looked at the socket.
fn is_untried(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS | libc::EINTR))
}

/// Returns whether the entry can be sent as it is.
fn is_sendable(entry: &SendEntry<'_, Socket>) -> bool {
    (1..=SendEntry::<Socket>::PIECES_MAX).contains(&entry.pieces.len())
        && entry.pieces.iter().all(|piece| !piece.is_empty())
}

/// The edges that every socket reports. `EPOLLHUP` and `EPOLLERR` come unasked.
const EDGES: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
const BROKEN: EventFlags = EventFlags::HUP.union(EventFlags::ERR);
const HUNG_UP: EventFlags = BROKEN.union(EventFlags::RDHUP);

/// A timeout of 0.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Events of one list.
const EVENTS_MAX: usize = 1_024;

#[cfg(test)]
mod tests;
