//! The private ring of a shard: polls, batched receives, batched sends of established connections.
//!
//! The plain version of a fan-out is one `send(2)` for each subscriber. What is different here:
//!
//! 1. **One system call carries a whole batch.** Each send is one entry of the ring; `io_uring_enter` tries them all.
//! 2. **The batch is synchronous.** `MSG_DONTWAIT` makes the kernel try an entry at once and fail it rather than wait,
//!    so when `enter` returns the kernel has copied the bytes and borrows nothing: no reference for each recipient.
//! 3. **Success is silent.** `CQE_SKIP_SUCCESS` posts no completion for an entry that was sent whole. `MSG_WAITALL`
//!    belongs to it: it makes a *short* send count as failed, which posts a completion with the exact count. Without
//!    it a short send would be a success, its completion skipped and the missing bytes lost without a trace.
//! 4. **Receives are tried late.** Only a multishot poll stays armed; bytes are fetched when the turn gets there, so
//!    that everything that has arrived by then rides in the same run.
//!
//! The ring uses `COOP_TASKRUN`, `SINGLE_ISSUER` and `SUBMIT_ALL`, and never `DEFER_TASKRUN`: the runtime watches the
//! ring's descriptor with epoll, which deferred work would not wake.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    io::{Io, Key, Readiness, Receive, Refused, Send},
    net,
};

/// A private `io_uring` for the sockets of one shard, used by the thread that made it.
pub struct HotRing {
    ring: IoUring,
    /// Readiness that was seen while a batch was under way; kept for the next [`Io::reap`].
    ready: Vec<Readiness>,
    /// Completions of the current batch: index of the entry, result.
    completed: Vec<(usize, i32)>,
    /// Counts batches, so that a completion can be told from one of an earlier batch.
    batch: u32,
}

impl std::fmt::Debug for HotRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotRing").field("fd", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl HotRing {
    /// Entries of one submission. A larger batch is submitted in parts of this size.
    pub const BATCH_MAX: usize = 256;

    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    ///
    /// What `io_uring_setup(2)` answers: `EPERM` and `ENOSYS` where a container's seccomp profile or
    /// `kernel.io_uring_disabled` forbids it, `EINVAL` where the kernel is older than 6.0, `ENOMEM` where locked
    /// memory is used up.
    pub fn new() -> io::Result<HotRing> {
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(Self::BATCH_MAX as u32)?;
        Ok(HotRing { ring, ready: Vec::new(), completed: Vec::new(), batch: 0 })
    }

    /// Whether [`Io::reap`] would find something.
    pub fn has_completions(&mut self) -> bool {
        !self.ready.is_empty() || !self.ring.completion().is_empty() || self.ring.submission().cq_overflow()
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

    fn receive_part(&mut self, batch: &mut [Receive<'_, OwnedFd>]) {
        // Checked before the first is queued: nothing may unwind while a queued entry borrows.
        assert!(batch.iter().all(|entry| entry.buffer.len() < entry.buffer.capacity()), "a receive entry needs room");
        self.begin_batch();
        for (index, entry) in batch.iter_mut().enumerate() {
            let room = entry.buffer.spare_capacity_mut();
            let length = u32::try_from(room.len()).unwrap_or(u32::MAX);
            let receive = opcode::Recv::new(Fd(entry.socket.as_raw_fd()), room.as_mut_ptr().cast(), length)
                .flags(libc::MSG_DONTWAIT)
                .build()
                .user_data(self.batch_token(index));
            // SAFETY: the entry points into the spare capacity of a buffer that `batch` borrows mutably until this
            // function returns, and `enter` below does not return before the kernel has tried the entry
            // (MSG_DONTWAIT: it never keeps it for later).
            unsafe { self.push(&receive) };
        }
        self.enter();
        self.fetch();
        for &(index, result) in &self.completed {
            let entry = &mut batch[index];
            entry.result = outcome(result);
            if let Ok(received) = entry.result {
                let length = entry.buffer.len() + received;
                // SAFETY: the kernel has written `received` bytes from the start of the spare capacity, no more than
                // the room it was given.
                unsafe { entry.buffer.set_len(length) };
            }
        }
    }

    fn send_part(&mut self, batch: &[Send<'_, OwnedFd>], first: usize, refused: &mut Vec<Refused>) {
        // Checked before the first is queued: nothing may unwind while a queued entry borrows.
        assert!(batch.iter().all(is_sendable), "a send entry has 1 to 1 024 pieces, each smaller than 2 GiB");
        self.begin_batch();
        // Never grows: its elements must not move before they were submitted.
        let mut headers: Vec<libc::msghdr> = Vec::with_capacity(batch.iter().filter(|e| e.pieces.len() > 1).count());
        for (index, entry) in batch.iter().enumerate() {
            let fd = Fd(entry.socket.as_raw_fd());
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
            // before the kernel has tried the entry and copied what it sends.
            unsafe { self.push(&send) };
        }
        self.enter();
        self.fetch();
        drop(headers);
        for &(index, result) in &self.completed {
            refused.push(Refused { index: first + index, sent: outcome(result) });
        }
    }

    fn begin_batch(&mut self) {
        if !self.ring.submission().is_empty() {
            self.enter();
        }
        self.completed.clear();
        self.batch = (self.batch + 1) & Token::GENERATION_MAX;
    }

    fn batch_token(&self, index: usize) -> u64 {
        Token::new(Kind::Batch, Key { slot: index as u32, generation: self.batch }).0
    }

    /// Queues an entry, after submitting what is queued if there is no room.
    ///
    /// # Safety
    ///
    /// The memory that `entry` points to must stay valid until the next [`HotRing::enter`] has returned.
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        if self.ring.submission().is_full() {
            self.enter();
        }
        // SAFETY: the caller keeps the entry's memory valid until it was submitted and tried.
        let pushed = unsafe { self.ring.submission().push(entry) };
        assert!(pushed.is_ok(), "a submission queue that was just entered has room");
    }

    /// Submits everything queued. When it returns, the kernel has tried every entry.
    fn enter(&mut self) {
        for _ in 0..ENTER_ATTEMPTS_MAX {
            let submitted = self.ring.submit();
            if self.ring.submission().is_empty() {
                return;
            }
            match submitted.map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::EINTR)) => {}
                // Completions have overflowed and must be fetched before more is taken.
                Err(Some(libc::EBUSY)) => self.fetch(),
                // The kernel is short of memory for requests right now.
                Err(Some(libc::EAGAIN)) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        give_up("the entries of the hot ring are refused");
    }

    /// Takes every completion there is, into `ready` and `completed`.
    fn fetch(&mut self) {
        loop {
            for completion in self.ring.completion() {
                let token = Token(completion.user_data());
                match token.kind() {
                    Some(Kind::Batch) if token.key().generation == self.batch => {
                        self.completed.push((token.key().slot as usize, completion.result()));
                    }
                    Some(kind @ (Kind::Input | Kind::Room)) => {
                        self.ready.extend(readiness(token.key(), kind, &completion))
                    }
                    Some(Kind::Batch | Kind::Removal) | None => {}
                }
            }
            if !self.ring.submission().cq_overflow() {
                return;
            }
            // Completions that found no room wait in the kernel; an enter moves them into the queue just emptied. Going
            // on without them would take sends that failed for sends that succeeded.
            if let Err(error) = self.ring.submit()
                && !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR))
            {
                give_up("completions of the hot ring cannot be had");
            }
        }
    }
}

impl Io for HotRing {
    type Socket = OwnedFd;

    fn arm(&mut self, key: Key, socket: &OwnedFd) {
        let poll = opcode::PollAdd::new(Fd(socket.as_raw_fd()), INPUT).multi(true).build();
        // SAFETY: a poll points to no memory.
        unsafe { self.push(&poll.user_data(Token::new(Kind::Input, key).0)) };
    }

    fn await_room(&mut self, key: Key, socket: &OwnedFd) {
        let poll = opcode::PollAdd::new(Fd(socket.as_raw_fd()), OUTPUT).build();
        // SAFETY: a poll points to no memory.
        unsafe { self.push(&poll.user_data(Token::new(Kind::Room, key).0)) };
    }

    fn disarm(&mut self, key: Key) {
        // An armed poll holds the socket open after its descriptor was closed. A removal names the poll by its token,
        // so it does not matter who owns the descriptor's number by the time it is submitted.
        for kind in [Kind::Input, Kind::Room] {
            let removal = opcode::PollRemove::new(Token::new(kind, key).0).build();
            // SAFETY: a removal points to no memory.
            unsafe { self.push(&removal.user_data(Token::new(Kind::Removal, key).0)) };
        }
    }

    fn submit(&mut self) {
        if !self.ring.submission().is_empty() {
            self.enter();
        }
    }

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        self.submit();
        self.fetch();
        ready.append(&mut self.ready);
    }

    fn receive(&mut self, batch: &mut [Receive<'_, OwnedFd>]) {
        for part in batch.chunks_mut(Self::BATCH_MAX) {
            self.receive_part(part);
        }
    }

    fn send(&mut self, batch: &[Send<'_, OwnedFd>], refused: &mut Vec<Refused>) {
        for (number, part) in batch.chunks(Self::BATCH_MAX).enumerate() {
            self.send_part(part, number * Self::BATCH_MAX, refused);
        }
    }

    fn addresses(&self, socket: &OwnedFd) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (net::peer(socket), net::local(socket))
    }

    fn finish(&mut self, socket: &OwnedFd) {
        // ENOTCONN: the peer is gone already, as the next receive will show.
        if let Err(error) = rustix::net::shutdown(socket, rustix::net::Shutdown::Write) {
            tracing::trace!(%error, "shutdown");
        }
    }
}

/// Can the entry be queued as it is?
fn is_sendable(entry: &Send<'_, OwnedFd>) -> bool {
    let fits = |piece: &io::IoSlice<'_>| !piece.is_empty() && i32::try_from(piece.len()).is_ok();
    (1..=Send::<OwnedFd>::PIECES_MAX).contains(&entry.pieces.len()) && entry.pieces.iter().all(fits)
}

/// Ends the process where going on would be unsound: what is queued may borrow from our callers, who must neither go on
/// nor unwind while the kernel could still come to read it.
fn give_up(why: &str) -> ! {
    struct Abort;
    impl Drop for Abort {
        fn drop(&mut self) {
            std::process::abort();
        }
    }
    // Also if telling why panics.
    let _abort = Abort;
    tracing::error!(error = %io::Error::last_os_error(), "{why}");
    std::process::abort();
}

fn message_header(pieces: &[io::IoSlice<'_>]) -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` has the layout of `iovec` (its documentation guarantees it); the kernel only reads from it.
    header.msg_iov = pieces.as_ptr().cast_mut().cast();
    header.msg_iovlen = pieces.len() as _;
    header
}

/// What a completion of a poll says, if it says anything.
fn readiness(key: Key, kind: Kind, completion: &cqueue::Entry) -> Option<Readiness> {
    let result = completion.result();
    if result == -libc::ECANCELED {
        return None;
    }
    let disarmed = !cqueue::more(completion.flags());
    // A poll that fails reports like a hang-up: the receive that follows meets the cause.
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

/// `user_data` of an entry: 8 bits kind, 24 bits generation, 32 bits slot (or index in the batch). A completion that
/// comes late is recognised by its generation and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token(u64);

impl Token {
    const GENERATION_MAX: u32 = (1 << 24) - 1;

    fn new(kind: Kind, key: Key) -> Token {
        debug_assert!(key.generation <= Self::GENERATION_MAX);
        Token((kind as u64) << 56 | u64::from(key.generation) << 32 | u64::from(key.slot))
    }

    fn kind(self) -> Option<Kind> {
        [Kind::Batch, Kind::Input, Kind::Room, Kind::Removal].into_iter().find(|&kind| kind as u64 == self.0 >> 56)
    }

    fn key(self) -> Key {
        Key { slot: self.0 as u32, generation: (self.0 >> 32) as u32 & Self::GENERATION_MAX }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An entry of the batch whose number is the generation.
    Batch = 1,
    /// The multishot poll for input.
    Input = 2,
    /// The one-shot poll for room to send.
    Room = 3,
    /// The removal of a poll.
    Removal = 4,
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
const INPUT: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const OUTPUT: u32 = libc::POLLOUT as u32;
const HUNG_UP: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32;

/// Completions the kernel keeps before it has to allocate for them: a batch that fails whole, beside the readiness of
/// some thousand connections. Beyond it nothing is lost, but multishot polls end and are armed again.
const COMPLETIONS: u32 = 8_192;

/// How often an `enter` that leaves entries behind is repeated before the process gives up.
const ENTER_ATTEMPTS_MAX: u32 = 10_000;

#[cfg(test)]
mod tests;
