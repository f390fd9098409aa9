//! What the bare loops (K1, K2 and K3) share: their listener, the opening handshake, and the codec of frames.

use crate::tools::allow_descriptors;
use bytes::{Buf, BytesMut};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// Pins the thread to a CPU, allows as many descriptors as possible, and listens.
pub(crate) fn listen(address: SocketAddr, cpu: Option<usize>) -> io::Result<TcpListener> {
    if let Some(id) = cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(io::Error::other(format!("cannot pin to CPU {id}")));
    }
    allow_descriptors()?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection from the queue of a listener.
pub(crate) enum Accepted {
    /// A client after its opening handshake, and whether it wants to receive.
    Client(TcpStream, bool),
    /// A client that has sent no handshake of the generator. One that only checks whether the port is open sends none.
    Stranger,
    /// The queue is empty.
    NoMore,
}

pub(crate) fn accept(listener: &TcpListener) -> io::Result<Accepted> {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Accepted::NoMore),
        Err(error) => return Err(error),
    };
    Ok(match shake_hands(&stream) {
        Ok(receives) => Accepted::Client(stream, receives),
        Err(_) => Accepted::Stranger,
    })
}

/// Sends the rest to a full socket, while all other connections wait. The bare loop has no backlog, but must not lose
/// anything.
pub(crate) fn insist(socket: &impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(socket, PollFlags::OUT)], None)),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Answers the opening handshake of the generator, which always sends the key of RFC 6455 1.3. Returns whether the
/// client wants to receive.
fn shake_hands(mut stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HANDSHAKE_DEADLINE))?;
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    if !head.contains("dGhlIHNhbXBsZSBub25jZQ==") {
        return Err(io::Error::other("not the generator"));
    }
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )?;
    stream.set_nonblocking(true)?;
    Ok(!head.lines().next().is_some_and(|line| line.contains("mode=pub")))
}

/// Takes whole masked frames from `input`. Appends the frames of text and binary data to `run`, unmasked, and drops the
/// others. Returns false if the connection must end.
pub(crate) fn unmask_frames(input: &mut BytesMut, run: &mut Vec<u8>) -> bool {
    loop {
        let &[first, second, ref rest @ ..] = &input[..] else { return true };
        let (extended, length) = match second & 0x7f {
            126 => match rest.first_chunk() {
                Some(&length) => (2, u64::from(u16::from_be_bytes(length))),
                None => return true,
            },
            127 => match rest.first_chunk() {
                Some(&length) => (8, u64::from_be_bytes(length)),
                None => return true,
            },
            short => (0, u64::from(short)),
        };
        let length = length as usize;
        let (header, masked) = (2 + extended + 4, second & 0x80 != 0);
        if !masked || length > MESSAGE_MAX || first & 0x0f == 0x8 {
            return false;
        }
        if input.len() < header + length {
            return true;
        }
        if matches!(first & 0x0f, 0x1 | 0x2) {
            let key = input[header - 4..].first_chunk::<4>().copied().expect("the frame is whole");
            run.extend_from_slice(&[first, second & 0x7f]);
            run.extend_from_slice(&input[2..2 + extended]);
            let start = run.len();
            run.extend_from_slice(&input[header..header + length]);
            run[start..].iter_mut().enumerate().for_each(|(index, byte)| *byte ^= key[index % 4]);
        }
        input.advance(header + length);
    }
}

pub(crate) const READ_MAX: usize = 64 << 10;
const MESSAGE_MAX: usize = 64 << 20;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 section 5.7: a single-frame masked text message, byte by byte, after a pong.
    #[test]
    fn masked_frames_become_unmasked_ones() {
        let (mut input, mut run) = (BytesMut::new(), Vec::new());
        for &byte in b"\x8a\x80\x01\x02\x03\x04\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58" {
            input.extend_from_slice(&[byte]);
            assert!(unmask_frames(&mut input, &mut run));
        }
        assert_eq!(run, b"\x81\x05Hello");
        assert!(input.is_empty());
    }

    #[test]
    fn close_and_unmasked_frames_end_the_connection() {
        let mut run = Vec::new();
        assert!(!unmask_frames(&mut BytesMut::from(&b"\x88\x80\x01\x02\x03\x04"[..]), &mut run));
        assert!(!unmask_frames(&mut BytesMut::from(&b"\x81\x01x"[..]), &mut run));
        assert!(run.is_empty());
    }
}
