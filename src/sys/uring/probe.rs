//! Checks at start whether this kernel and container allow the operations that the hub needs of io_uring.

use std::{
    fmt,
    io::{self, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use io_uring::{IoUring, Probe, opcode, squeue, types::Fd};

use super::{
    HotRing, block_on, nop,
    operations::{OPERATIONS, Operation},
    readable,
    restriction::RingAccess,
};
use crate::sys::{Io, Key, SendEntry, SendLimits, Transport, net};

/// The reason why the hub cannot use io_uring here.
#[derive(Debug)]
pub enum ProbeError {
    /// The kernel has refused a system call, or an operation of a ring.
    Refused(Call, io::Error),
    /// The thread of the probe could not be started.
    Thread(io::Error),
    /// The kernel lacks an operation or a feature.
    TooOld(&'static str),
    /// A short send was not reported with its exact count.
    ShortSend(String),
    /// A poll that was cancelled has not ended.
    Cancel(String),
}

/// A call that the kernel may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `io_uring_setup`, with the mapping of the queues.
    Setup,
    /// `io_uring_register`.
    Register,
    /// `io_uring_enter`.
    Enter,
    /// An operation of a ring, by its name in the kernel's headers.
    Operation(&'static str),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Setup => f.write_str("io_uring_setup"),
            Call::Register => f.write_str("io_uring_register"),
            Call::Enter => f.write_str("io_uring_enter"),
            Call::Operation(name) => write!(f, "IORING_OP_{name}"),
        }
    }
}

/// Writes what was refused. The cause and the remedy are those of [`RefusalCause`](super::cause::RefusalCause).
impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring cannot be used: {}", self.refused())
    }
}

impl std::error::Error for ProbeError {}

impl ProbeError {
    /// Returns the refusal in a few words, such as `io_uring_setup fails with EPERM`.
    #[must_use]
    pub fn refused(&self) -> String {
        match self {
            ProbeError::Refused(call, error) => format!("{call} fails with {}", errno_name(error)),
            ProbeError::Thread(error) => format!("its probe cannot run ({})", errno_name(error)),
            ProbeError::TooOld(what) => format!("it lacks {what}"),
            ProbeError::ShortSend(what) => format!("a short send is not reported exactly ({what})"),
            ProbeError::Cancel(what) => format!("a poll that is cancelled does not end ({what})"),
        }
    }

    /// Returns the reason as the value of a metric's label: few values, and no numbers that change.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            ProbeError::Refused(call, error) => format!("{call} {}", errno_name(error)),
            ProbeError::Thread(_) => "no probe".into(),
            ProbeError::TooOld(what) => format!("no {what}"),
            ProbeError::ShortSend(_) => "inexact short sends".into(),
            ProbeError::Cancel(_) => "polls that do not end".into(),
        }
    }
}

/// Returns whether an error says that something is forbidden.
pub(super) fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// Returns the name of an error that refusals of io_uring have, or the error's text.
fn errno_name(error: &io::Error) -> String {
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::EACCES, "EACCES"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENFILE, "ENFILE"),
        (libc::EAGAIN, "EAGAIN"),
    ];
    let name = names.iter().find(|(code, _)| error.raw_os_error() == Some(*code));
    name.map_or_else(|| error.to_string(), |(_, name)| (*name).into())
}

/// Checks the operations of the kernel that a shard needs of io_uring, before anything listens.
///
/// The probe has its own thread. The kernel frees a closed ring some time later, and interrupts the thread that used
/// it; on the caller's thread, the next call with a timeout would fail with EINTR.
///
/// # Errors
///
/// See [`ProbeError`].
pub fn probe() -> Result<(), ProbeError> {
    let thread = thread::Builder::new().name("ringhub-probe".into()).spawn(|| probe_by(&ThisKernel));
    let outcome = thread.map_err(ProbeError::Thread)?.join();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The kernel that the probe asks. A test may stand in for the kernel.
trait Kernel {
    /// Makes a small ring, on which single operations are tried.
    fn ring(&self) -> io::Result<IoUring>;

    /// Returns the first operation that the kernel does not know.
    fn unknown(&self, ring: &IoUring) -> io::Result<Option<&'static Operation>> {
        let mut known = Probe::new();
        ring.submitter().register_probe(&mut known)?;
        Ok(OPERATIONS.iter().find(|operation| !known.is_supported(operation.code)))
    }

    /// Returns the first feature that the ring lacks.
    fn lacks(&self, ring: &IoUring) -> Option<&'static str> {
        let features = [
            (ring.params().is_feature_skip_cqe_on_success(), "skipped completions"),
            (ring.params().is_feature_nodrop(), "completions that are never dropped"),
        ];
        features.into_iter().find(|(is_there, _)| !is_there).map(|(_, name)| name)
    }

    /// Makes a ring as a shard does.
    fn hot_ring(&self) -> io::Result<HotRing>;

    /// Makes the runtime of a shard, and waits for a socket on it.
    fn run(&self) -> io::Result<()>;
}

struct ThisKernel;

impl Kernel for ThisKernel {
    fn ring(&self) -> io::Result<IoUring> {
        IoUring::new(2)
    }

    fn hot_ring(&self) -> io::Result<HotRing> {
        HotRing::new()
    }

    fn run(&self) -> io::Result<()> {
        block_on(RingAccess::Unrestricted, async {
            let (socket, mut peer) = UnixStream::pair()?;
            peer.write_all(b"x")?;
            nop().await;
            readable(Rc::new(socket)).await
        })?
    }
}

/// Checks the operations on this thread.
fn probe_by(kernel: &impl Kernel) -> Result<(), ProbeError> {
    let refused = |call| move |error| ProbeError::Refused(call, error);
    let mut ring = kernel.ring().map_err(refused(Call::Setup))?;
    if let Some(Operation { name, .. }) = kernel.unknown(&ring).map_err(refused(Call::Register))? {
        return Err(ProbeError::TooOld(name));
    }
    if let Some(feature) = kernel.lacks(&ring) {
        return Err(ProbeError::TooOld(feature));
    }
    try_operations(&mut ring)?;
    drop(ring);
    let mut hot_ring = kernel.hot_ring().map_err(refused(Call::Setup))?;
    check_short_send(&mut hot_ring).map_err(|error| ProbeError::ShortSend(error.to_string()))?;
    check_cancel(&mut hot_ring).map_err(|error| ProbeError::Cancel(error.to_string()))?;
    kernel.run().map_err(refused(Call::Setup))
}

/// Tries each operation once, with the flags that a shard gives it: a filter may allow a ring and forbid a single
/// operation, or a flag.
fn try_operations(ring: &mut IoUring) -> Result<(), ProbeError> {
    let pair = UnixStream::pair().map_err(|error| ProbeError::Refused(Call::Operation("SEND"), error))?;
    let (fd, peer) = (Fd(pair.0.as_raw_fd()), Fd(pair.1.as_raw_fd()));
    let text = *b"probe";
    let pieces = [IoSlice::new(&text)];
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (pieces.as_ptr().cast_mut().cast(), pieces.len() as _);
    let mut buffer = [0; 16];
    let sends = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
    let (text_pointer, header_pointer, buffer_pointer) = (text.as_ptr(), &raw const header, buffer.as_mut_ptr());
    for Operation { code, constant, .. } in OPERATIONS {
        let entry = match *code {
            opcode::PollAdd::CODE => opcode::PollAdd::new(fd, (libc::POLLOUT | libc::POLLRDHUP) as u32).build(),
            opcode::AsyncCancel::CODE => opcode::AsyncCancel::new(NO_POLL).build(),
            opcode::Recv::CODE => opcode::Recv::new(fd, buffer_pointer, 16).flags(libc::MSG_DONTWAIT).build(),
            opcode::Send::CODE => opcode::Send::new(peer, text_pointer, 5).flags(sends).build(),
            opcode::SendMsg::CODE => opcode::SendMsg::new(peer, header_pointer).flags(sends as u32).build(),
            _ => opcode::Nop::new().build(),
        };
        // SAFETY: what the entry points to lives until this function returns, and no operation outlives `enter`: each
        // is done at once, since the socket has room, and a receive does not wait.
        let result = unsafe { try_operation(ring, &entry) }.map_err(|error| ProbeError::Refused(Call::Enter, error))?;
        let is_expected = match *code {
            opcode::AsyncCancel::CODE => -libc::ENOENT,
            opcode::Recv::CODE => -libc::EAGAIN,
            _ => 0,
        };
        if result < 0 && result != is_expected {
            let error = io::Error::from_raw_os_error(-result);
            return Err(ProbeError::Refused(Call::Operation(constant), error));
        }
    }
    // A send that is sent whole posts no completion, so the first completion is that of the NOP after it.
    let silent = opcode::Send::new(peer, text_pointer, 5).flags(sends).build().flags(squeue::Flags::SKIP_SUCCESS);
    // SAFETY: the text lives until this function returns, and the send is done at once.
    let pushed = unsafe { ring.submission().push(&silent) };
    assert!(pushed.is_ok(), "the queue was emptied");
    // SAFETY: a NOP points to nothing.
    let result = unsafe { try_operation(ring, &opcode::Nop::new().build()) };
    match result.map_err(|error| ProbeError::Refused(Call::Enter, error))? {
        0 => Ok(()),
        _ => Err(ProbeError::TooOld("skipped completions")),
    }
}

/// Submits an entry, and returns the result of the first completion.
///
/// # Safety
///
/// The memory that `entry` points to must stay valid until the operation has completed.
unsafe fn try_operation(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<i32> {
    // SAFETY: the caller keeps the entry's memory valid.
    let pushed = unsafe { ring.submission().push(entry) };
    assert!(pushed.is_ok(), "the queue has room for two entries, and is emptied by each submission");
    ring.submit_and_wait(1)?;
    let first = ring.completion().next();
    first.map(|completion| completion.result()).ok_or_else(|| io::Error::other("no completion"))
}

/// A poll that was never asked for.
const NO_POLL: u64 = u64::MAX;

/// Cancels polls of sockets while another thread sends to these sockets, and checks that the polls end, and the sockets
/// with them.
fn check_cancel(ring: &mut HotRing) -> io::Result<()> {
    let (peers, to_write_to) = channel();
    thread::scope(|scope| {
        let writer = scope.spawn(|| to_write_to.into_iter().try_for_each(write_until_closed));
        let polled = (0..CANCELS).try_for_each(|slot| {
            let (mut stream, peer) = UnixStream::pair()?;
            peers.send(peer).map_err(io::Error::other)?;
            stream.set_read_timeout(Some(2 * PATIENCE))?;
            stream.read_exact(&mut [0])?;
            // From here on the writer writes to the socket.
            let (key, socket) = (Key { slot, generation: 0 }, Transport::from(OwnedFd::from(stream)));
            ring.arm(key, &socket);
            ring.submit();
            ring.disarm(key);
            drop(socket);
            ring.submit();
            Ok(())
        });
        drop(peers);
        // If a socket stays open, the writer's error says so. It is returned rather than an error of the polls.
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(polled)
    })?;
    let begin = Instant::now();
    while ring.armed() > 0 {
        if begin.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("{} of {CANCELS} are still armed", ring.armed())));
        }
        ring.reap(&mut Vec::new());
    }
    Ok(())
}

/// Writes until the other end is closed.
fn write_until_closed(mut stream: UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    loop {
        match stream.write_all(b"x") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::other("a socket is open although its descriptor is closed"));
            }
            Err(_) => return Ok(()),
        }
    }
}

/// Checks that the ring reports a short send exactly: sends more than fits to a peer that does not read, then compares
/// the reported count with the bytes that arrive.
fn check_short_send(ring: &mut HotRing) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut reader = TcpStream::connect(listener.local_addr()?)?;
    let (writer, _) = listener.accept()?;
    let writer = Transport::from(OwnedFd::from(writer));
    net::prepare_connection(writer.socket(), SendLimits { send_buffer_bytes: Some(4_096), ..SendLimits::default() })?;
    let bytes = vec![7; 8 << 20];
    let pieces = [IoSlice::new(&bytes)];
    let mut refused = Vec::new();
    ring.send(&[SendEntry { socket: &writer, pieces: &pieces }], &mut refused);
    drop(writer);
    let Some(entry) = refused.pop() else {
        return Err(io::Error::other("8 MiB were accepted at once"));
    };
    let reported = entry.sent?;
    reader.set_read_timeout(Some(PATIENCE))?;
    let mut arrived = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            count => arrived += count,
        }
    }
    if arrived == reported {
        Ok(())
    } else {
        Err(io::Error::other(format!("{reported} bytes reported, {arrived} arrived")))
    }
}

/// The number of polls that [`check_cancel`] cancels.
const CANCELS: u32 = 32;

/// The longest wait for one step; a first byte may take twice as long.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
pub(crate) mod tests;
