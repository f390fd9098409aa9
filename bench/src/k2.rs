//! The bare loop of batched sends: it shows the cost of the hub's system calls alone.
//!
//! The loop uses only the hub's ring. The loop waits for readiness, and receives from each ready connection. If a
//! receive has filled its buffer, the loop receives from the connection again. Then the loop sends all received
//! messages to every subscriber in synchronous batches. The loop has no topics, timers, shards or backlogs. The
//! difference between the hub and this loop is the cost of the hub's own code.

use bytes::{Buf, BytesMut};
use ringhub::sys::{HotRing, Io, Key, Readiness, Receive, SendEntry, Transport, Unsent};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr, cpu: Option<usize>) -> io::Result<bool> {
    if let Some(id) = cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(io::Error::other(format!("cannot pin to CPU {id}")));
    }
    let (mut limit, resource) =
        (rustix::process::getrlimit(rustix::process::Resource::Nofile), rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(resource, limit)?;
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let mut bare = Bare { ring: HotRing::new()?, connections: Vec::new(), subscribers: Vec::new(), run: Vec::new() };
    let watched = descriptor(&bare.ring)?;
    let mut ready = Vec::new();
    loop {
        bare.ring.submit();
        if !bare.ring.has_completions() {
            let waiting = [PollFd::new(&watched, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
            if wait(waiting)? {
                bare.accept(&listener)?;
            }
        }
        bare.ring.reap(&mut ready);
        bare.receive(&mut ready);
        bare.flush();
    }
}

struct Bare {
    ring: HotRing,
    /// The connections by slot; a slot is used only once.
    connections: Vec<Option<Connection>>,
    /// The slots of the connections that receive.
    subscribers: Vec<usize>,
    /// The frames that every subscriber is owed.
    run: Vec<u8>,
}

struct Connection {
    socket: Transport,
    input: BytesMut,
}

impl Bare {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            // A client that only checks whether the port is open sends no handshake.
            let Ok(receives) = shake_hands(&stream) else { continue };
            let slot = self.connections.len();
            let socket = Transport::from(OwnedFd::from(stream));
            self.ring.arm(Key { slot: slot as u32, generation: 0 }, &socket);
            self.connections.push(Some(Connection { socket, input: BytesMut::new() }));
            if receives {
                self.subscribers.push(slot);
            }
        }
    }

    fn receive(&mut self, ready: &mut Vec<Readiness>) {
        let mut slots: Vec<usize> = ready.drain(..).map(|readiness| readiness.key.slot as usize).collect();
        slots.sort_unstable();
        slots.dedup();
        while !slots.is_empty() {
            slots.retain(|&slot| self.connections[slot].is_some());
            let mut inputs: Vec<BytesMut> = Vec::with_capacity(slots.len());
            for &slot in &slots {
                let connection = self.connections[slot].as_mut().expect("retained above");
                connection.input.reserve(READ_MAX);
                inputs.push(std::mem::take(&mut connection.input));
            }
            let sockets = slots.iter().map(|&slot| &self.connections[slot].as_ref().expect("retained above").socket);
            let rooms: Vec<usize> = inputs.iter().map(|input| input.capacity() - input.len()).collect();
            let mut batch: Vec<_> =
                sockets.zip(&mut inputs).map(|(socket, input)| Receive::new(socket, input)).collect();
            self.ring.receive(&mut batch);
            let results: Vec<io::Result<usize>> = batch.into_iter().map(|entry| entry.result).collect();
            let mut again = Vec::new();
            for (((slot, mut input), result), room) in slots.drain(..).zip(inputs).zip(results).zip(rooms) {
                let goes_on = match result {
                    Ok(0) => false,
                    Ok(count) => {
                        if count == room {
                            again.push(slot);
                        }
                        unmask_frames(&mut input, &mut self.run)
                    }
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
                if goes_on {
                    if input.is_empty() {
                        input = BytesMut::new();
                    }
                    self.connections[slot].as_mut().expect("still there").input = input;
                } else {
                    self.close(slot);
                }
            }
            slots = again;
        }
    }

    fn close(&mut self, slot: usize) {
        self.ring.disarm(Key { slot: slot as u32, generation: 0 });
        self.connections[slot] = None;
        self.subscribers.retain(|&subscriber| subscriber != slot);
    }

    /// Sends the run to every subscriber.
    fn flush(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let pieces = [IoSlice::new(&self.run)];
        let sockets = self.subscribers.iter().filter_map(|&slot| Some(&self.connections[slot].as_ref()?.socket));
        let batch: Vec<_> = sockets.map(|socket| SendEntry { socket, pieces: &pieces }).collect();
        let mut refused = Vec::new();
        self.ring.send(&batch, &mut refused);
        for Unsent { index, sent } in refused {
            let sent = match sent {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                // The next receive reports that the connection has ended.
                Err(_) => continue,
            };
            insist(batch[index].socket, &self.run[sent..]);
        }
        self.run.clear();
    }
}

/// Returns a descriptor that is readable when the ring has completions. The ring gives such a descriptor only to a
/// runtime, so this call makes a runtime, and ends it. The loop itself uses no runtime.
fn descriptor(ring: &HotRing) -> io::Result<OwnedFd> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    Ok(ring.watch()?.into_inner())
}

/// Waits until one of the two descriptors is readable, or a signal comes. Returns whether the second one is readable.
fn wait(mut waiting: [PollFd<'_>; 2]) -> io::Result<bool> {
    match poll(&mut waiting, None) {
        Ok(_) => Ok(!waiting[1].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sends the rest to a full socket, while all other connections wait. The bare loop has no backlog, but must not lose
/// anything.
fn insist(socket: &Transport, mut bytes: &[u8]) {
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
fn unmask_frames(input: &mut BytesMut, run: &mut Vec<u8>) -> bool {
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

const READ_MAX: usize = 64 << 10;
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
