//! Plain WebSocket connections for loads that the generator does not offer.

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Returns the request that opens a WebSocket at `target`, a path with a query.
pub(crate) fn opening_request(address: SocketAddr, target: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The beginning of an answer that accepts an opening request.
pub(crate) const ACCEPTED: &[u8] = b"HTTP/1.1 101 ";

/// Opens a WebSocket. Nothing after the answer has been read.
pub(crate) fn open(address: SocketAddr, target: &str) -> io::Result<TcpStream> {
    Opening::begin(address, target)?.finish()
}

/// Opens an event stream. Returns the connection, and its answer with the first event. Nothing after the event has been
/// read.
pub(crate) fn open_stream(address: SocketAddr, target: &str) -> io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // An event ends with an empty line, and its chunk with another line.
    while !answer.ends_with(b"\n\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
        if answer.ends_with(b"\r\n\r\n") && !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("{target} was answered {}", String::from_utf8_lossy(&answer))));
        }
    }
    Ok((stream, String::from_utf8_lossy(&answer).into_owned()))
}

/// A WebSocket whose opening request has been sent.
pub(crate) struct Opening<'a> {
    stream: TcpStream,
    target: &'a str,
}

impl<'a> Opening<'a> {
    /// Connects, and sends the opening request.
    pub(crate) fn begin(address: SocketAddr, target: &'a str) -> io::Result<Opening<'a>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(&opening_request(address, target))?;
        Ok(Opening { stream, target })
    }

    /// Reads the answer, and nothing after it.
    pub(crate) fn finish(mut self) -> io::Result<TcpStream> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if head.starts_with(ACCEPTED) {
            return Ok(self.stream);
        }
        let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        Err(io::Error::other(format!("{} was answered {}", self.target, String::from_utf8_lossy(status))))
    }
}

/// Returns the answer of a server to a request for its metrics.
pub(crate) fn metrics_of(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Returns the frame of a client's binary message of 126 to 255 bytes, whose masking key is all zeros.
pub(crate) fn binary_frame(length: u8) -> Vec<u8> {
    // RFC 6455 5.2: final, binary, masked, a length of 16 bits, the key.
    let mut frame = vec![0x82, 0x80 | 126, 0, length, 0, 0, 0, 0];
    frame.resize(frame.len() + usize::from(length), b'x');
    frame
}

/// The result of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// This number of bytes.
    Bytes(u64),
    Nothing,
    /// The peer has ended its side.
    End,
}

/// Lets the kernel drop the bytes that one read would return. `nothing` is the buffer of the read, which the kernel
/// does not fill.
pub(crate) fn drop_received(stream: &TcpStream, nothing: &mut [u8]) -> io::Result<Received> {
    match recv(stream, nothing, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
        Ok((_, 0)) => Ok(Received::End),
        Ok((_, count)) => Ok(Received::Bytes(count as u64)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Sends as many bytes as the socket takes now, and returns their number.
pub(crate) fn send_some(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The most bytes that are dropped at once.
pub(crate) const DROP_BYTES: usize = 256 * 1_024;
