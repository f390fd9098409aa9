//! Checks at start whether this kernel and container allow the operations that the hub needs.

use std::{
    fmt,
    io::{self, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use io_uring::{IoUring, Probe, opcode};

use super::HotRing;
use crate::sys::{Io, Key, SendEntry, net};

/// The reason why the hub cannot run here; its text names a remedy.
#[derive(Debug)]
pub enum ProbeError {
    /// io_uring, or the thread of the probe, could not be set up.
    Refused(io::Error),
    /// The kernel lacks an operation or a feature.
    TooOld(&'static str),
    /// A short send was not reported with its exact count.
    ShortSend(String),
    /// A poll that was cancelled has not ended.
    Cancel(String),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeError::Refused(error) => match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => write!(
                    f,
                    "io_uring is not permitted here ({error}). In a container the seccomp profile usually forbids it: \
                     start it with `--security-opt seccomp=unconfined` or a profile that allows io_uring_setup, \
                     io_uring_enter and io_uring_register. On the host, `sysctl kernel.io_uring_disabled` must be 0."
                ),
                Some(libc::ENOSYS) => write!(
                    f,
                    "this kernel has no io_uring, or a seccomp profile hides it ({error}). ringhub needs Linux 6.1 or \
                     newer with CONFIG_IO_URING; in a container, use a seccomp profile that allows io_uring."
                ),
                Some(libc::ENOMEM) => write!(
                    f,
                    "there is no memory for io_uring's queues ({error}). Raise the limit of locked memory \
                     (`ulimit -l`, or `--ulimit memlock=-1` for a container) or the container's memory limit."
                ),
                Some(libc::EINVAL) => write!(
                    f,
                    "this kernel's io_uring does not know the flags ringhub needs ({error}). Linux 6.1 or newer is \
                     needed."
                ),
                _ => write!(f, "io_uring cannot be set up: {error}"),
            },
            ProbeError::TooOld(what) => write!(f, "this kernel's io_uring lacks {what}. Linux 6.1 or newer is needed."),
            ProbeError::ShortSend(what) => write!(
                f,
                "this kernel does not report a short send exactly ({what}), which could lose bytes unnoticed; \
                 ringhub does not run on it. Please report the kernel's version."
            ),
            ProbeError::Cancel(what) => write!(
                f,
                "this kernel does not end a poll that is cancelled while input arrives ({what}), which would keep \
                 sockets open for ever; ringhub does not run on it. Please report the kernel's version."
            ),
        }
    }
}

impl std::error::Error for ProbeError {}

/// Checks the operations of the kernel that the hot ring needs, before anything listens.
///
/// The probe has its own thread. The kernel frees a closed ring some time later, and interrupts the thread that used
/// it; on the caller's thread, the next call with a timeout would fail with EINTR.
///
/// # Errors
///
/// See [`ProbeError`].
pub fn probe() -> Result<(), ProbeError> {
    let thread = thread::Builder::new().name("ringhub-probe".into()).spawn(probe_here);
    let outcome = thread.map_err(ProbeError::Refused)?.join();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Checks the operations on this thread.
fn probe_here() -> Result<(), ProbeError> {
    let ring = IoUring::new(2).map_err(ProbeError::Refused)?;
    let mut operations = Probe::new();
    ring.submitter().register_probe(&mut operations).map_err(ProbeError::Refused)?;
    let needed = [
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancellation"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
    ];
    for (code, name) in needed {
        if !operations.is_supported(code) {
            return Err(ProbeError::TooOld(name));
        }
    }
    if !ring.params().is_feature_skip_cqe_on_success() {
        return Err(ProbeError::TooOld("skipped completions"));
    }
    if !ring.params().is_feature_nodrop() {
        return Err(ProbeError::TooOld("completions that are never dropped"));
    }
    drop(ring);
    let mut hot_ring = HotRing::new().map_err(ProbeError::Refused)?;
    check_short_send(&mut hot_ring).map_err(|error| ProbeError::ShortSend(error.to_string()))?;
    check_cancel(&mut hot_ring).map_err(|error| ProbeError::Cancel(error.to_string()))
}

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
            let (key, socket) = (Key { slot, generation: 0 }, OwnedFd::from(stream));
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
    let writer = OwnedFd::from(writer);
    net::prepare_connection(&writer, Some(4_096))?;
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
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes() {
        if let Err(error) = probe() {
            panic!("{error}");
        }
    }

    #[test]
    fn a_refusal_names_the_remedy() {
        let text = |code| ProbeError::Refused(io::Error::from_raw_os_error(code)).to_string();
        assert!(text(libc::EPERM).contains("seccomp"));
        assert!(text(libc::ENOSYS).contains("seccomp"));
        assert!(text(libc::ENOMEM).contains("memlock"));
        assert!(text(libc::EINVAL).contains("6.1"));
        let text = ProbeError::Cancel("a socket is open".into()).to_string();
        assert!(text.contains("(a socket is open)") && text.contains("kernel"));
    }
}
