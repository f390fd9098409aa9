//! Shared by the end-to-end tests: a server as a process, and clients that check what they receive.
//!
//! Nothing here measures time. A deadline only ends a test that would hang.

mod client;
mod crowd;
mod http;
mod listeners;
pub(crate) mod program;
mod server;
mod sockets;

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use client::{Client, RESTART, Received, binary, close, frame, text};
pub(crate) use crowd::CrowdPermit;
pub(crate) use http::{
    Response, ask, exchange, post, published, read_response, request, take_response, upgrade_request,
};
pub(crate) use listeners::{Fate, Listeners, Numbered};
pub(crate) use program::{binary_path, clean, program, run_to_end};
pub(crate) use server::{Counts, Server};
pub(crate) use sockets::KernelSocket;

/// How long anything may take before a test gives up: long enough for a machine that is busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Returns whether `RINGHUB_IO` asks for servers on epoll.
#[allow(dead_code, reason = "only some tests are about io_uring alone")]
pub(crate) fn is_on_epoll() -> bool {
    std::env::var_os("RINGHUB_IO").is_some_and(|io| io == "epoll")
}

/// Connects to an address; reads and writes time out after [`DEADLINE`].
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    dial_with(address, None)
}

/// Connects with a receive buffer of that many bytes. A small one keeps the bytes few that the kernel takes for a
/// client that does not read.
pub(crate) fn dial_with(address: SocketAddr, receive_buffer: Option<usize>) -> TcpStream {
    dial_from(address, None, receive_buffer)
}

/// Connects from an address of this machine, such as 127.0.0.2.
pub(crate) fn dial_from(address: SocketAddr, own: Option<IpAddr>, receive_buffer: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap();
    if let Some(own) = own {
        socket.bind(&SocketAddr::new(own, 0).into()).unwrap();
    }
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.connect(&address.into()).unwrap_or_else(|error| panic!("{address} does not accept: {error}"));
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Closes a connection with a reset instead of an orderly end.
pub(crate) fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

/// Returns bytes that differ for each `seed` below 251. Their period is no power of two.
pub(crate) fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at + seed * 7) % 251) as u8).collect()
}

/// Returns text of `length` bytes, with characters of one, two and three bytes.
pub(crate) fn text_pattern(length: usize) -> String {
    let mut text = String::with_capacity(length);
    for character in "ring é hub ⚡ ".chars().cycle() {
        if text.len() + character.len_utf8() > length {
            break;
        }
        text.push(character);
    }
    let missing = length - text.len();
    text + &"xx"[..missing]
}
