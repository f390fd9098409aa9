//! Sockets and descriptors: options that are set once, at start or when a connection is accepted.

use std::{
    io,
    mem::{MaybeUninit, zeroed},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags, Shutdown, SocketFlags, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::io::SendLimits;

/// Returns `count` listening sockets on one address, one for each shard, and the address; in place of port 0 it has the
/// port that the kernel chose. The kernel spreads connections over the sockets by a hash of both addresses. With
/// `is_dual` sockets on `[::]` take the connections of IPv4 too.
///
/// The sockets are non-blocking, for [`accept_now`].
///
/// # Errors
///
/// The error of `bind(2)` or `listen(2)`; `AddrInUse` if another process listens already, even if that process is a hub
/// too, whose sockets would take a part of this hub's connections.
pub fn listen(address: SocketAddr, count: usize, is_dual: bool) -> io::Result<(Vec<OwnedFd>, SocketAddr)> {
    let probe = bind(address, false, is_dual)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let listeners: io::Result<Vec<OwnedFd>> = (0..count)
        .map(|_| {
            let socket = bind(address, true, is_dual)?;
            socket.set_nonblocking(true)?;
            socket.listen(backlog_max())?;
            Ok(socket.into())
        })
        .collect();
    Ok((listeners?, address))
}

fn bind(address: SocketAddr, is_shared: bool, is_dual: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // An IPv4 connection costs 128 bytes more on a dual-stack socket than on a socket of IPv4.
        socket.set_only_v6(!is_dual)?;
    }
    // Connections of a hub that has just ended must not keep the next hub from starting. Two listeners still clash.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts a connection that waits on a non-blocking listener. The socket is non-blocking and closed on exec.
///
/// # Errors
///
/// `WouldBlock` if none waits; otherwise the error of `accept4(2)`, such as `EINVAL` after the listener was shut down.
pub fn accept_now(listener: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

/// Lets the runtime of the calling thread watch a listener for connections.
///
/// # Errors
///
/// If the descriptor cannot be registered.
pub fn watch(listener: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` alone owns `listener`, an `OwnedFd` always names the same open descriptor, and it is closed
    // only when the `AsyncFd` has been dropped.
    unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }.map_err(Into::into)
}

/// Ends accepting: polls of `listener` are answered, [`accept_now`] fails with `EINVAL`, and the port refuses.
///
/// # Errors
///
/// The error of `shutdown(2)`.
pub fn stop_listening(listener: &OwnedFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(listener, Shutdown::Both)?)
}

/// Sets the options of an accepted connection: small frames leave at once, and a receive takes urgent bytes like all
/// others.
///
/// # Errors
///
/// The error of `setsockopt(2)`.
pub fn prepare_connection(socket: &OwnedFd, limits: SendLimits) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    // Otherwise the kernel would take the last urgent byte out of the input. With this option too, a receive ends in
    // front of that byte, although there is more input.
    SockRef::from(socket).set_out_of_band_inline(true)?;
    limit_output(socket, limits)
}

/// Limits the output that the kernel keeps for a socket.
///
/// # Errors
///
/// The error of `setsockopt(2)`.
pub fn limit_output(socket: &impl AsFd, limits: SendLimits) -> io::Result<()> {
    if let Some(bytes) = limits.send_buffer_bytes {
        SockRef::from(&socket.as_fd()).set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = limits.unsent_low_water_bytes {
        SockRef::from(&socket.as_fd()).set_tcp_notsent_lowat(u32::try_from(bytes).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Lets the kernel end a connection whose peer acknowledges nothing of what it is sent for so long
/// (`TCP_USER_TIMEOUT`). Where the kernel refuses, its own time holds: some 15 minutes.
pub fn limit_silence(socket: &impl AsFd, silence_ms: u64) {
    let set = sockopt::set_tcp_user_timeout(socket, u32::try_from(silence_ms).unwrap_or(u32::MAX));
    if let Err(error) = set {
        tracing::debug!(%error, "TCP_USER_TIMEOUT cannot be set");
    }
}

/// Returns the address of the other side.
#[must_use]
pub fn peer(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(&socket.as_fd()).peer_addr().ok()?.as_socket()
}

/// Returns the address of this side.
#[must_use]
pub fn local(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(&socket.as_fd()).local_addr().ok()?.as_socket()
}

/// Returns whether the other side has ended its sending, or the connection.
#[must_use]
pub fn has_left(socket: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // If the poll fails, the next receive finds the end.
    poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
}

/// Returns whether the connection is over for both sides: the other side has reset it, or both have ended it.
#[must_use]
pub fn is_reset(socket: &impl AsFd) -> bool {
    // The kernel reports errors and hang-ups without being asked for them.
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
}

/// Receives input that has arrived, without waiting.
///
/// # Errors
///
/// `WouldBlock` if there is none; otherwise the error of `recv(2)`.
pub fn receive_now(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?.0)
}

/// Makes [`receive_and_tell`] fast for this socket: the kernel adds to each receive how much is left (`TCP_INQ`). A
/// socket that refuses this is asked after each receive.
pub fn tell_unread(socket: &impl AsFd) {
    let on: libc::c_int = 1;
    let (level, length) = (libc::IPPROTO_TCP, size_of_val(&on) as libc::socklen_t);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the kernel reads `length` bytes of `on`.
    unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, libc::TCP_INQ, (&raw const on).cast(), length) };
}

/// Receives input that has arrived into the beginning of `room`, without waiting.
///
/// # Errors
///
/// `WouldBlock` if there is none; otherwise the error of `recvmsg(2)`.
pub fn receive_and_tell(socket: &impl AsFd, room: &mut [MaybeUninit<u8>]) -> io::Result<Taken> {
    let mut piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: all-zero bytes are a valid `Left`, which has only numbers.
    let mut left: Left = unsafe { zeroed() };
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
    (message.msg_control, message.msg_controllen) = ((&raw mut left).cast(), size_of::<Left>() as _);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed. The kernel writes only to `message`, within
    // `room`, and within `left`, all of which outlive the call.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let is_told = (left.header.cmsg_level, left.header.cmsg_type) == (libc::IPPROTO_TCP, libc::TCP_CM_INQ);
    let has_more = if is_told { left.bytes > 0 } else { unread(socket).is_ok_and(|bytes| bytes > 0) };
    Ok(Taken { count, has_more })
}

/// The outcome of [`receive_and_tell`].
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The number of bytes that were received.
    pub count: usize,
    /// Whether the socket still has input. The end of input may count as well.
    pub has_more: bool,
}

/// The message of the kernel that tells how much a receive has left in the socket. The end of input counts as one byte.
#[repr(C)]
struct Left {
    header: libc::cmsghdr,
    bytes: libc::c_int,
}

/// Sends as many bytes as fit into the socket, without waiting.
///
/// # Errors
///
/// `WouldBlock` if none fits; otherwise the error of `send(2)`.
pub fn send_now(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Drops up to `most` bytes that have arrived, and returns their number; `Ok(0)` is the end of input. The kernel copies
/// nothing (`MSG_TRUNC`, tcp(7)).
///
/// # Errors
///
/// `WouldBlock` if no byte is there; otherwise the error of `recv(2)`.
pub fn discard(socket: &OwnedFd, most: usize) -> io::Result<usize> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer, so that it may be null; the descriptor is open
    // for as long as `socket` is borrowed.
    let count = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), most, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Returns how many bytes have arrived at the socket and were not received (`SIOCINQ`). The end of input does not
/// count.
///
/// # Errors
///
/// The error of `ioctl(2)`.
pub fn unread(socket: &impl AsFd) -> io::Result<usize> {
    Ok(usize::try_from(rustix::io::ioctl_fionread(socket)?).unwrap_or(usize::MAX))
}

/// Returns how many bytes the socket holds that the peer has not acknowledged (`SIOCOUTQ`). The end after them counts
/// as one. For a connection that is over, by a reset for example, returns 0, although the kernel still counts bytes
/// that no peer will take.
///
/// # Errors
///
/// The error of `ioctl(2)`.
pub fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and this request writes one `int` to where
    // its argument points, which is `bytes`.
    let outcome = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    if bytes > 0 && is_not_connected(&SockRef::from(&socket.as_fd())) {
        Ok(0)
    } else {
        Ok(usize::try_from(bytes).unwrap_or_default())
    }
}

/// Returns whether the kernel has ended the socket's connection. While a connection is closing, the kernel still knows
/// its peer.
fn is_not_connected(socket: &SockRef<'_>) -> bool {
    socket.peer_addr().is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
}

/// Sends FIN, after which the socket can still receive; or ends both ways.
pub fn shutdown(socket: &impl AsFd, both_ways: bool) {
    let how = if both_ways { Shutdown::Both } else { Shutdown::Write };
    // ENOTCONN: the peer is gone already, so nothing is left to do.
    if let Err(error) = rustix::net::shutdown(socket.as_fd(), how) {
        tracing::trace!(%error, "shutdown");
    }
}

/// Ends the input of a socket, which can still send: whoever waits for input finds its end.
pub fn end_input(socket: &impl AsFd) {
    if let Err(error) = rustix::net::shutdown(socket.as_fd(), Shutdown::Read) {
        tracing::trace!(%error, "shutdown");
    }
}

/// Makes the close of the socket reset the connection. The kernel then drops the bytes that the other side has not
/// taken.
pub fn reset_when_closed(socket: &impl AsFd) {
    if let Err(error) = SockRef::from(&socket.as_fd()).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a socket cannot be reset");
    }
}

/// Raises the limit of open descriptors as far as this process may, and returns it.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => most,
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// The longest queue of connections that wait to be accepted.
fn backlog_max() -> i32 {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(4_096)
}
