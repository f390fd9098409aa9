//! What the end-to-end tests share: a server of their own as a process, and clients that know what they receive.
//!
//! Nothing here measures time. A deadline only keeps a test that would hang from doing so.

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

pub(crate) use client::{Client, Received, binary, close, frame, text};
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

/// Whether the caller wants the servers of these tests on epoll.
#[allow(dead_code, reason = "only some tests are about io_uring alone")]
pub(crate) fn is_on_epoll() -> bool {
    std::env::var_os("RINGHUB_IO").is_some_and(|io| io == "epoll")
}

/// A connection that gives up at [`DEADLINE`].
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    dial_with(address, None)
}

/// The same with a receive buffer of that many bytes, so that little is on its way to a client that does not read.
pub(crate) fn dial_with(address: SocketAddr, receive_buffer: Option<usize>) -> TcpStream {
    dial_from(address, None, receive_buffer)
}

/// The same from an address of this machine, such as 127.0.0.2.
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

/// Bytes that differ from those of every other `seed` and repeat at no power of two.
pub(crate) fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at + seed * 7) % 251) as u8).collect()
}

/// The same as text, with characters of one, two and three bytes; `length` is in bytes.
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
