//! The private ring of a shard: polls, batched receives, batched sends of established connections.
//!
//! A plain fan-out is one `send(2)` for each subscriber. This ring differs from it in six points:
//!
//! 1. **One system call sends a whole batch.** Each send is one entry of the ring; `io_uring_enter` tries them all.
//! 2. **The batch is synchronous.** `MSG_DONTWAIT` makes the kernel try an entry at once, and fail it rather than wait.
//!    When `enter` returns, the kernel has copied the bytes and borrows nothing, so no recipient needs a reference.
//! 3. **Success is silent.** `CQE_SKIP_SUCCESS` posts no completion for an entry that was sent whole. `MSG_WAITALL`
//!    has to be set with it: a *short* send then counts as failed, and its completion has the exact count. Without
//!    `MSG_WAITALL` a short send would be a success without a completion, and the missing bytes would be lost.
//! 4. **Receives are tried late.** Only a multishot poll stays armed. The turn fetches the bytes itself, so all
//!    messages that have arrived by then are in the same run.
//! 5. **Entries that the kernel does not take are withdrawn.** Where the kernel has no memory for requests, it leaves
//!    entries in the queue. Those of a batch borrow from the caller, so they become entries that do nothing
//!    ([`Entries`]), and are reported as refused. Polls and cancellations borrow nothing; they wait for the next
//!    submission.
//! 6. **A poll ends by being cancelled.** A poll that is armed holds its socket open after the descriptor was closed. A
//!    removal (`POLL_REMOVE`) fails while a wake-up of the poll is under way, and leaves a multishot poll armed for
//!    ever. A cancellation marks the poll, and the poll ends after the wake-up. The result is checked: after any
//!    failure but "not found" the cancellation is repeated, and the shard does not sleep before that.
//!
//! The ring uses `COOP_TASKRUN`, `SINGLE_ISSUER` and `SUBMIT_ALL`, and never `DEFER_TASKRUN`: the runtime watches the
//! ring's descriptor with epoll, which deferred work would not wake.

mod queue;
mod set_up;
mod token;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd},
};

use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};

use tokio::io::{Interest, unix::AsyncFd};

use self::{
    queue::Entries,
    token::{Kind, Token},
};
use crate::sys::{
    io::{Io, Key, Readiness, Receive, SendEntry, SendLimits, Unsent},
    net,
    transport::Transport,
};

/// A private `io_uring` for the sockets of one shard, used by the thread that made it.
pub struct HotRing {
    ring: IoUring,
    /// The memory of the submission queue.
    entries: Entries,
    /// The number of entries that were queued since the start. The ring itself has the same count.
    pushed: u32,
    /// Polls and cancellations that are to be queued.
    waiting: VecDeque<squeue::Entry>,
    /// Polls that were asked for and have not ended.
    armed: u64,
    /// Cancellations that had to be repeated.
    repeated: u64,
    /// Readiness that was seen while a batch was under way; kept for the next [`Io::reap`].
    ready: Vec<Readiness>,
    /// Completions of the current batch.
    completed: Vec<Completed>,
    /// Counts batches, so that a completion can be told from one of an earlier batch.
    batch: u32,
    /// How many more entries the kernel has memory for, set by a test. `None`: no limit.
    #[cfg(test)]
    memory: Option<u32>,
}

impl std::fmt::Debug for HotRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotRing").field("fd", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

/// The completion of an entry of a batch.
#[derive(Debug, Clone, Copy)]
struct Completed {
    /// The entry's index in the part of the batch that was submitted.
    index: usize,
    result: i32,
    /// Whether the socket had input left after a receive.
    has_more: bool,
}

impl HotRing {
    /// Entries of one submission. A larger batch is submitted in parts of this size.
    pub const BATCH_MAX: usize = 256;

    /// Returns the ring itself, for a test that submits entries of its own.
    #[cfg(test)]
    pub(super) fn raw(&mut self) -> &mut IoUring {
        &mut self.ring
    }

    /// Returns whether [`Io::reap`] is due: it would find completions, or entries are still to be submitted, such as a
    /// repeated cancellation, or entries for which the kernel had no memory.
    pub fn has_completions(&mut self) -> bool {
        !self.ready.is_empty() || !self.ring.completion().is_empty() || self.owes_kernel()
    }

    /// Returns the number of polls that were asked for and have not ended. Each of them holds its socket open.
    #[must_use]
    pub fn armed(&self) -> u64 {
        self.armed
    }

    /// Returns how often the cancellation of a poll had to be repeated.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Returns whether an `enter` is due: entries wait for the kernel, or completions wait in the kernel.
    fn owes_kernel(&mut self) -> bool {
        let queue = self.ring.submission();
        !self.waiting.is_empty() || !queue.is_empty() || queue.cq_overflow()
    }

    /// Lets the runtime of the calling thread watch for completions, on a descriptor of its own: the ring itself
    /// belongs to the turn.
    ///
    /// # Errors
    ///
    /// If the descriptor cannot be duplicated or registered.
    pub fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        // SAFETY: the ring owns its descriptor and keeps it open for as long as `self` is borrowed.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let watched = ring.try_clone_to_owned()?;
        // SAFETY: `watched` is owned by the `AsyncFd` alone, an `OwnedFd` always names the same open descriptor, and
        // it is closed only when the `AsyncFd` has been dropped.
        unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }.map_err(Into::into)
    }

    fn receive_part(&mut self, batch: &mut [Receive<'_, Transport>]) {
        // Checked before the first is queued: nothing may unwind while a queued entry borrows.
        assert!(batch.iter().all(|entry| entry.buffer.len() < entry.buffer.capacity()), "a receive entry needs room");
        if !self.begin_batch() {
            batch.iter_mut().for_each(|entry| entry.result = Err(io::ErrorKind::Interrupted.into()));
            return;
        }
        for (index, entry) in batch.iter_mut().enumerate() {
            let room = entry.buffer.spare_capacity_mut();
            let length = room.len().min(Receive::<Transport>::BYTES_MAX) as u32;
            let receive = opcode::Recv::new(descriptor(entry.socket), room.as_mut_ptr().cast(), length)
                .flags(libc::MSG_DONTWAIT)
                .build()
                .user_data(self.batch_token(index));
            // SAFETY: the entry points into the spare capacity of a buffer that `batch` borrows mutably until this
            // function returns, and `enter` below does not return before the kernel has tried the entry
            // (MSG_DONTWAIT: it never keeps it for later) or the entry was withdrawn.
            unsafe { self.push(&receive) };
        }
        let tried = batch.len() - self.enter_batch();
        self.fetch();
        for entry in &mut batch[tried..] {
            entry.result = Err(io::ErrorKind::Interrupted.into());
        }
        for &Completed { index, result, has_more } in &self.completed {
            let entry = &mut batch[index];
            entry.has_more = has_more;
            entry.result = match -result {
                // The kernel had no memory to try this entry. No poll will report the bytes in the socket again.
                libc::ENOMEM | libc::ENOBUFS => Err(io::ErrorKind::Interrupted.into()),
                _ => outcome(result),
            };
            if let Ok(received) = entry.result {
                let length = entry.buffer.len() + received;
                // SAFETY: the kernel has written `received` bytes from the start of the spare capacity, no more than
                // the room it was given.
                unsafe { entry.buffer.set_len(length) };
            }
        }
    }

    fn send_part(&mut self, batch: &[SendEntry<'_, Transport>], first: usize, refused: &mut Vec<Unsent>) {
        // Checked before the first is queued: nothing may unwind while a queued entry borrows.
        assert!(batch.iter().all(is_sendable), "a send entry has 1 to 1 024 pieces, each smaller than 2 GiB");
        let untried = |index| Unsent { index: first + index, sent: Err(io::ErrorKind::WouldBlock.into()) };
        if !self.begin_batch() {
            refused.extend((0..batch.len()).map(untried));
            return;
        }
        // Never grows: its elements must not move before they were submitted.
        let mut headers: Vec<libc::msghdr> = Vec::with_capacity(batch.iter().filter(|e| e.pieces.len() > 1).count());
        for (index, entry) in batch.iter().enumerate() {
            let fd = descriptor(entry.socket);
            let send = match entry.pieces {
                [piece] => opcode::Send::new(fd, piece.as_ptr(), piece.len() as u32).flags(SEND_FLAGS).build(),
                pieces => {
                    let at = headers.len();
                    headers.push(message_header(pieces));
                    opcode::SendMsg::new(fd, &raw const headers[at]).flags(SEND_FLAGS as u32).build()
                }
            };
            let send = send.flags(squeue::Flags::SKIP_SUCCESS).user_data(self.batch_token(index));
            // SAFETY: the entry points to pieces that `batch` borrows until this function returns and to an element
            // of `headers`, which has its full capacity reserved and lives as long; `enter` below does not return
            // before the kernel has tried the entry and copied what it sends, or the entry was withdrawn.
            unsafe { self.push(&send) };
        }
        let tried = batch.len() - self.enter_batch();
        self.fetch();
        drop(headers);
        refused.extend((tried..batch.len()).map(untried));
        for &Completed { index, result, .. } in &self.completed {
            refused.push(Unsent { index: first + index, sent: outcome(result) });
        }
    }

    /// Returns whether the queue is empty, so that a batch fits into it.
    fn begin_batch(&mut self) -> bool {
        self.completed.clear();
        self.batch = (self.batch + 1) & Token::GENERATION_MAX;
        if self.ring.completion().len() > COMPLETIONS as usize / 2 {
            // The queue then has room for a completion of each entry, and the kernel needs no memory for them.
            self.fetch();
        }
        self.submit();
        self.ring.submission().is_empty()
    }

    fn batch_token(&self, index: usize) -> u64 {
        Token::new(Kind::Batch, Key { slot: index as u32, generation: self.batch }).0
    }

    /// Puts an entry into the queue, which has room.
    ///
    /// # Safety
    ///
    /// The memory that `entry` points to must stay valid until the entry was submitted, or withdrawn.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller keeps the entry's memory valid until it was submitted and tried, or withdrawn.
        let pushed = unsafe { self.ring.submission().push(entry) };
        assert!(pushed.is_ok(), "the submission queue has room for a batch");
        self.pushed = self.pushed.wrapping_add(1);
    }

    /// Submits the entries of a batch, and the kernel tries them. If it has no memory for the last ones, these are
    /// withdrawn; returns their number. Afterwards no entry borrows any more.
    fn enter_batch(&mut self) -> usize {
        if self.enter() { 0 } else { self.withdraw() }
    }

    /// Turns all queued entries into entries that do nothing. Returns their number.
    fn withdraw(&mut self) -> usize {
        let count = self.ring.submission().len();
        self.entries.withdraw(self.pushed, count as u32);
        count
    }

    /// Submits all queued entries. Returns whether the kernel has tried all of them; it may have no memory for some.
    ///
    /// # Panics
    ///
    /// If the kernel refuses the ring as such. The queued entries were withdrawn before, so none borrows any more.
    fn enter(&mut self) -> bool {
        for _ in 0..ENTER_ATTEMPTS_MAX {
            let submitted = self.enter_once();
            if self.ring.submission().is_empty() {
                return true;
            }
            match submitted.map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::EINTR)) => {}
                // Completions have overflowed and must be fetched before more is taken.
                Err(Some(libc::EBUSY)) => self.fetch(),
                Err(Some(libc::EAGAIN | libc::ENOMEM)) => return false,
                Err(code) => {
                    self.withdraw();
                    panic!("the entries of the hot ring are refused: {code:?}");
                }
            }
        }
        false
    }

    fn enter_once(&mut self) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(memory) = &mut self.memory {
            let most = (*memory).min(self.ring.submission().len() as u32);
            if most == 0 {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            *memory -= most;
            // SAFETY: it is what `submit` calls, with fewer entries than there are.
            return unsafe { self.ring.submitter().enter::<libc::sigset_t>(most, 0, 0, None) };
        }
        self.ring.submit()
    }

    /// Takes all completions, and puts them into `ready` and `completed`.
    fn fetch(&mut self) {
        loop {
            for completion in self.ring.completion() {
                let token = Token(completion.user_data());
                match token.kind() {
                    Some(Kind::Batch) if token.key().generation == self.batch => {
                        let has_more = cqueue::sock_nonempty(completion.flags());
                        let index = token.key().slot as usize;
                        self.completed.push(Completed { index, result: completion.result(), has_more });
                    }
                    Some(kind @ (Kind::Input | Kind::Room)) => {
                        self.armed -= u64::from(!cqueue::more(completion.flags()));
                        self.ready.extend(readiness(token.key(), kind, &completion));
                    }
                    // Cancelled, or not found: the poll had ended, or never was.
                    Some(Kind::InputCancel | Kind::RoomCancel)
                        if completion.result() >= 0 || completion.result() == -libc::ENOENT => {}
                    Some(kind @ (Kind::InputCancel | Kind::RoomCancel)) => {
                        self.repeated += 1;
                        self.waiting.push_back(cancellation(kind, token.key()));
                    }
                    Some(Kind::Batch) | None => {}
                }
            }
            if !self.ring.submission().cq_overflow() {
                return;
            }
            // Completions that found no room wait in the kernel; an enter moves them into the queue just emptied.
            // Without them, failed sends would look like successful ones.
            // SAFETY: nothing is submitted, and no argument is pointed to.
            let moved = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, GET_EVENTS, None) };
            if let Err(error) = moved
                && !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR))
            {
                self.withdraw();
                panic!("completions of the hot ring cannot be had: {error}");
            }
        }
    }
}

impl Io for HotRing {
    type Socket = Transport;

    fn arm(&mut self, key: Key, socket: &Transport) {
        let poll = opcode::PollAdd::new(descriptor(socket), INPUT).multi(true).build();
        self.waiting.push_back(poll.user_data(Token::new(Kind::Input, key).0));
        self.armed += 1;
    }

    fn await_room(&mut self, key: Key, socket: &Transport) {
        let poll = opcode::PollAdd::new(descriptor(socket), OUTPUT).build();
        self.waiting.push_back(poll.user_data(Token::new(Kind::Room, key).0));
        self.armed += 1;
    }

    fn disarm(&mut self, key: Key) {
        // A cancellation names the poll by its token, so it does not matter that the descriptor is closed, or who owns
        // its number, by the time it is submitted: the poll itself, submitted before, keeps the socket until then.
        self.waiting.extend([Kind::InputCancel, Kind::RoomCancel].map(|kind| cancellation(kind, key)));
    }

    fn submit(&mut self) {
        while !self.waiting.is_empty() || !self.ring.submission().is_empty() {
            while !self.ring.submission().is_full()
                && let Some(entry) = self.waiting.pop_front()
            {
                // SAFETY: polls and cancellations point to no memory.
                unsafe { self.push(&entry) };
            }
            if !self.enter() {
                // The next call tries again, and there will be one: see `has_completions`.
                return;
            }
        }
    }

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        self.submit();
        self.fetch();
        ready.append(&mut self.ready);
    }

    fn has_reports(&mut self) -> bool {
        self.has_completions()
    }

    fn receive(&mut self, batch: &mut [Receive<'_, Transport>]) {
        for part in batch.chunks_mut(Self::BATCH_MAX) {
            self.receive_part(part);
        }
    }

    fn send(&mut self, batch: &[SendEntry<'_, Transport>], refused: &mut Vec<Unsent>) {
        for (number, part) in batch.chunks(Self::BATCH_MAX).enumerate() {
            self.send_part(part, number * Self::BATCH_MAX, refused);
        }
    }

    fn addresses(&self, socket: &Transport) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (net::peer(socket), net::local(socket))
    }

    fn finish(&mut self, socket: &Transport) {
        // ENOTCONN: the peer is gone already. The next receive will fail too.
        if let Err(error) = rustix::net::shutdown(socket, rustix::net::Shutdown::Write) {
            tracing::trace!(%error, "shutdown");
        }
    }

    fn discard(&mut self, socket: &Transport, most: usize) -> io::Result<usize> {
        net::discard(socket.socket(), most)
    }

    fn unread(&self, socket: &Transport) -> usize {
        // A socket that cannot report this has failed. The next receive will fail too.
        net::unread(socket).unwrap_or_default()
    }

    fn limit_output(&mut self, socket: &Transport, limits: SendLimits) {
        // A socket that cannot be limited has no connection any more.
        if let Err(error) = net::limit_output(socket, limits) {
            tracing::debug!(%error, "a socket's output is not limited");
        }
    }

    fn unacknowledged(&self, socket: &Transport) -> usize {
        // A socket that cannot report this has no connection any more.
        net::unacknowledged(socket).unwrap_or_default()
    }

    fn reset(&mut self, socket: &Transport) {
        net::reset_when_closed(socket);
    }
}

/// Returns the descriptor that the kernel knows a socket by. The hot ring sends and receives the bytes of the socket,
/// whatever a transport makes of them.
fn descriptor(socket: &Transport) -> Fd {
    Fd(socket.as_fd().as_raw_fd())
}

/// Returns whether the entry can be queued as it is.
fn is_sendable(entry: &SendEntry<'_, Transport>) -> bool {
    let fits = |piece: &io::IoSlice<'_>| !piece.is_empty() && i32::try_from(piece.len()).is_ok();
    (1..=SendEntry::<Transport>::PIECES_MAX).contains(&entry.pieces.len()) && entry.pieces.iter().all(fits)
}

/// Returns the entry that cancels a poll of `key`: the poll for room if `kind` is `RoomCancel`, otherwise the poll for
/// input.
fn cancellation(kind: Kind, key: Key) -> squeue::Entry {
    let poll = if kind == Kind::RoomCancel { Kind::Room } else { Kind::Input };
    opcode::AsyncCancel::new(Token::new(poll, key).0).build().user_data(Token::new(kind, key).0)
}

fn message_header(pieces: &[io::IoSlice<'_>]) -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` has the layout of `iovec` (its documentation guarantees it); the kernel only reads from it.
    header.msg_iov = pieces.as_ptr().cast_mut().cast();
    header.msg_iovlen = pieces.len() as _;
    header
}

/// Returns the readiness that a completion of a poll reports; `None` if the poll was cancelled.
fn readiness(key: Key, kind: Kind, completion: &cqueue::Entry) -> Option<Readiness> {
    let result = completion.result();
    if result == -libc::ECANCELED {
        return None;
    }
    let disarmed = !cqueue::more(completion.flags());
    // A failed poll counts as a hang-up: the receive that follows fails with the cause.
    let events = if result < 0 { libc::POLLERR as u32 } else { result as u32 };
    let hung_up = events & HUNG_UP != 0;
    Some(match kind {
        Kind::Room => Readiness { key, readable: false, hung_up, writable: true, disarmed: false },
        _ => Readiness { key, readable: true, hung_up, writable: false, disarmed },
    })
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// `POLLPRI` would not tell whether there is an urgent byte: the kernel adds it to every report of input.
const INPUT: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const OUTPUT: u32 = libc::POLLOUT as u32;
const HUNG_UP: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32;

/// The completions that the queue has room for: those of a batch in which every entry fails, and the readiness of some
/// thousand connections. Beyond this number the kernel allocates memory. No completion is lost then, but multishot
/// polls end and are armed again.
const COMPLETIONS: u32 = 8_192;

/// `IORING_ENTER_GETEVENTS`: the kernel moves completions that had no room.
const GET_EVENTS: u32 = 1;

/// The number of attempts to submit all entries, after which the rest counts as refused.
const ENTER_ATTEMPTS_MAX: u32 = 10_000;

#[cfg(test)]
mod tests;
