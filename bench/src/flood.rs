//! Flooders: connections that send one kind of frame as fast as the server reads, without end.
//!
//! Each kind has its own process at nice 19, so that measured clients get the CPU first. The process prints `ready`
//! when every flooder has been connected, floods until its standard input ends, and prints its counts.

use crate::client::{ACCEPTED, DROP_BYTES, Received, drop_received, opening_request, send_some};
use clap::ValueEnum;
use ringhub_loadgen::frame::{opcode, write_masked};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};

/// What a flooder sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Text messages without a payload.
    EmptyText,
    /// Binary messages without a payload.
    EmptyBinary,
    /// Binary messages of 125 bytes.
    Small,
    /// Binary messages of 16 KiB.
    Large,
    /// Binary messages of 1 MiB, to many subscribers that do not read.
    Unread,
    /// Fragments of one byte, of a message that never ends.
    Fragments,
    /// Pings of 125 bytes.
    Pings,
    /// Unsolicited pongs without a payload.
    Pongs,
    /// A frame that breaks the protocol, then noise. The client sends no close frame, and connects again as soon as the
    /// server has answered.
    Garbage,
}

/// The counts of a flood.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Bytes that the server's sockets took.
    pub(crate) bytes: u64,
    /// The approximate number of frames in these bytes.
    pub(crate) frames: u64,
    /// Opening handshakes that were accepted.
    pub(crate) opened: u64,
    /// Opening handshakes that were refused, and connections that failed before they were open.
    pub(crate) refused: u64,
}

impl Done {
    /// Returns the sum of two floods.
    pub(crate) fn and(self, other: Done) -> Done {
        Done {
            bytes: self.bytes + other.bytes,
            frames: self.frames + other.frames,
            opened: self.opened + other.opened,
            refused: self.refused + other.refused,
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::EmptyText => "empty-text",
            Kind::EmptyBinary => "empty-binary",
            Kind::Small => "small",
            Kind::Large => "large",
            Kind::Unread => "unread",
            Kind::Fragments => "fragments",
            Kind::Pings => "pings",
            Kind::Pongs => "pongs",
            Kind::Garbage => "garbage",
        }
    }

    /// Returns the number of subscribers of the topic `heard-…`, and whether the subscribers read.
    fn subscribers(self) -> (usize, bool) {
        match self {
            Kind::Unread => (UNREADING, false),
            _ => (SUBSCRIBERS, true),
        }
    }

    fn stream(self) -> Stream {
        let mut frame = Vec::new();
        let mut first = Vec::new();
        match self {
            Kind::EmptyText => write_masked(opcode::TEXT, KEY, b"", &mut frame),
            Kind::EmptyBinary => write_masked(opcode::BINARY, KEY, b"", &mut frame),
            Kind::Small => write_masked(opcode::BINARY, KEY, &[0x55; 125], &mut frame),
            Kind::Large => write_masked(opcode::BINARY, KEY, &[0x55; 16 << 10], &mut frame),
            Kind::Unread => write_masked(opcode::BINARY, KEY, &vec![0x55; 1 << 20], &mut frame),
            Kind::Pings => write_masked(opcode::PING, KEY, &[0x55; 125], &mut frame),
            Kind::Pongs => write_masked(opcode::PONG, KEY, b"", &mut frame),
            Kind::Fragments => {
                write_masked(opcode::TEXT, KEY, b"x", &mut first);
                first[0] &= !FIN;
                write_masked(CONTINUATION, KEY, b"x", &mut frame);
                frame[0] &= !FIN;
                0
            }
            Kind::Garbage => {
                // The first frame has a reserved bit. The noise after it is always the same.
                first.extend([0xc1, 0x80, 0, 0, 0, 0]);
                let noise = |at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8;
                frame.extend((0..16 << 10).map(noise));
                0
            }
        };
        let frames = (CHUNK_BYTES / frame.len()).max(1);
        Stream { first, chunk: frame.repeat(frames), frame_length: frame.len() }
    }
}

/// The bytes of a flooder: `first`, then `chunk` again and again.
struct Stream {
    first: Vec<u8>,
    /// A number of whole frames.
    chunk: Vec<u8>,
    frame_length: usize,
}

impl Stream {
    /// Returns bytes that follow the first `sent` bytes.
    fn rest(&self, sent: usize) -> &[u8] {
        match sent.checked_sub(self.first.len()) {
            None => &self.first[sent..],
            Some(sent) => &self.chunk[sent % self.chunk.len()..],
        }
    }
}

/// Floods from `connections` connections, half of them to a topic with subscribers, until standard input ends.
pub(crate) fn flood(address: SocketAddr, kind: Kind, connections: usize) -> Result<bool, Box<dyn Error>> {
    rustix::process::nice(NICE)?;
    let mut crowd = Crowd::new(address, kind, connections);
    let mut is_ready = false;
    let input = io::stdin();
    loop {
        crowd.wait_and_step(&input)?;
        if !is_ready && crowd.flooders.iter().all(|flooder| flooder.has_opened) {
            is_ready = true;
            println!("{READY}");
            io::stdout().flush()?;
        }
        if crowd.is_over {
            println!("{}", serde_json::to_string(&crowd.done)?);
            return Ok(true);
        }
    }
}

struct Crowd {
    address: SocketAddr,
    stream: Stream,
    kind: Kind,
    flooders: Vec<Flooder>,
    /// The buffer of reads that drop the received bytes. The kernel does not fill this buffer.
    nothing: Vec<u8>,
    done: Done,
    is_over: bool,
}

/// A client. When its connection ends, the client connects again.
struct Flooder {
    target: String,
    is_subscriber: bool,
    reads: bool,
    has_opened: bool,
    state: State,
}

enum State {
    /// The flooder must connect again.
    Gone,
    Opening {
        socket: TcpStream,
        request: Vec<u8>,
        sent: usize,
        answer: Vec<u8>,
    },
    Open {
        socket: TcpStream,
        sent: usize,
    },
}

impl Crowd {
    fn new(address: SocketAddr, kind: Kind, connections: usize) -> Crowd {
        let name = kind.name();
        let flooder = |target: String, is_subscriber, reads| Flooder {
            target,
            is_subscriber,
            reads,
            has_opened: false,
            state: State::Gone,
        };
        let (subscribers, read) = kind.subscribers();
        let subscribers = (0..subscribers).map(|_| flooder(format!("/t/heard-{name}?mode=sub"), true, read));
        let publishers = (0..connections).map(|index| {
            let topic = if index % 2 == 0 { "heard" } else { "unheard" };
            flooder(format!("/t/{topic}-{name}?mode=pub"), false, true)
        });
        Crowd {
            address,
            stream: kind.stream(),
            kind,
            flooders: subscribers.chain(publishers).collect(),
            nothing: vec![0; DROP_BYTES],
            done: Done::default(),
            is_over: false,
        }
    }

    /// Connects the flooders without a connection. Waits until a socket is ready, or `PATIENCE` is over. Then lets all
    /// flooders go on.
    fn wait_and_step(&mut self, input: &io::Stdin) -> Result<(), Box<dyn Error>> {
        for flooder in &mut self.flooders {
            if let State::Gone = flooder.state {
                let request = opening_request(self.address, &flooder.target);
                flooder.state = match connect(self.address, flooder.reads) {
                    Ok(socket) => State::Opening { socket, request, sent: 0, answer: Vec::new() },
                    Err(_) => {
                        self.done.refused += 1;
                        State::Gone
                    }
                };
            }
        }
        let mut ready = vec![PollFd::new(input, PollFlags::IN)];
        ready.extend(self.flooders.iter().filter_map(Flooder::interest));
        match poll(&mut ready, Some(&PATIENCE)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.is_over = !ready[0].revents().is_empty();
        for flooder in &mut self.flooders {
            if flooder.step(&self.stream, self.kind, &mut self.nothing, &mut self.done).is_err() {
                self.done.refused += u64::from(matches!(flooder.state, State::Opening { .. }));
                flooder.state = State::Gone;
            }
        }
        Ok(())
    }
}

impl Flooder {
    fn interest(&self) -> Option<PollFd<'_>> {
        let both = PollFlags::IN | PollFlags::OUT;
        match &self.state {
            State::Gone => None,
            State::Opening { socket, request, sent, .. } => {
                Some(PollFd::new(socket, if *sent < request.len() { both } else { PollFlags::IN }))
            }
            State::Open { socket, .. } => {
                let reads = if self.reads { PollFlags::IN } else { PollFlags::empty() };
                Some(PollFd::new(socket, if self.is_subscriber { reads } else { both }))
            }
        }
    }

    /// Reads and writes as much as possible. An error means that the connection has ended.
    fn step(&mut self, stream: &Stream, kind: Kind, nothing: &mut [u8], done: &mut Done) -> io::Result<()> {
        match &mut self.state {
            State::Gone => Ok(()),
            State::Opening { socket, request, sent, answer } => {
                if *sent < request.len() {
                    match send_some(socket, &request[*sent..]) {
                        Ok(count) => *sent += count,
                        // The socket is not connected yet.
                        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                        Err(error) => return Err(error),
                    }
                    return Ok(());
                }
                let mut chunk = [0; 1_024];
                match recv(&*socket, &mut chunk, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok((count, _)) => answer.extend_from_slice(&chunk[..count]),
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
                if answer.len() >= ACCEPTED.len() && !answer.starts_with(ACCEPTED) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                if answer.windows(4).any(|window| window == b"\r\n\r\n") {
                    done.opened += 1;
                    self.has_opened = true;
                    let socket = socket.try_clone()?;
                    self.state = State::Open { socket, sent: 0 };
                }
                Ok(())
            }
            // The server resets this connection at the end of the close timeout.
            State::Open { socket, .. } if !self.reads => socket.take_error()?.map_or(Ok(()), Err),
            State::Open { socket, sent } => {
                loop {
                    match drop_received(socket, nothing)? {
                        Received::Nothing => break,
                        Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                        // The server sends this client nothing but the close frame.
                        Received::Bytes(_) if kind == Kind::Garbage && !self.is_subscriber => {
                            return Err(io::ErrorKind::ConnectionAborted.into());
                        }
                        Received::Bytes(count) if count < nothing.len() as u64 => break,
                        Received::Bytes(_) => {}
                    }
                }
                if !self.is_subscriber {
                    let count = send_some(socket, stream.rest(*sent))?;
                    *sent += count;
                    done.bytes += count as u64;
                    done.frames = done.bytes / stream.frame_length as u64;
                }
                Ok(())
            }
        }
    }
}

/// Returns a socket that is connecting to the server. A socket that will not be read has a small receive buffer.
fn connect(address: SocketAddr, is_read: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if !is_read {
        socket.set_recv_buffer_size(UNREAD_BYTES)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// The line that says that every flooder has been connected.
pub(crate) const READY: &str = "ready";

/// The lowest priority.
pub(crate) const NICE: i32 = 19;

/// The number of reading subscribers. They read as fast as they can, which may be too slow.
const SUBSCRIBERS: usize = 4;

/// The number of subscribers that do not read, and the size of their receive buffers. For each of these subscribers the
/// server's socket takes some MiB.
const UNREADING: usize = 128;
const UNREAD_BYTES: usize = 32 << 10;

/// The most bytes of one write, unless a frame is larger.
const CHUNK_BYTES: usize = 64 << 10;

/// The longest wait for sockets before the next look at standard input.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The masking key of all frames. The key is not zero, since a server need not unmask a frame whose key is zero.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_whole_frames_after_its_beginning() {
        let fragments = Kind::Fragments.stream();
        assert_eq!(fragments.rest(0), [0x01, 0x81, 0x37, 0xfa, 0x21, 0x3d, b'x' ^ 0x37]);
        assert_eq!(fragments.rest(6), [b'x' ^ 0x37]);
        assert_eq!(fragments.rest(7)[..7], [0x00, 0x81, 0x37, 0xfa, 0x21, 0x3d, b'x' ^ 0x37]);
        assert_eq!(fragments.rest(7 + fragments.chunk.len() + 1)[0], 0x81);
        for kind in Kind::value_variants() {
            let Stream { chunk, frame_length, .. } = kind.stream();
            assert!(chunk.len() % frame_length == 0 && chunk.len() <= CHUNK_BYTES.max(frame_length), "{kind:?}");
        }
        assert_eq!(Kind::EmptyBinary.stream().rest(0)[..6], [0x82, 0x80, 0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(Kind::Garbage.stream().rest(0), [0xc1, 0x80, 0, 0, 0, 0]);
    }
}
