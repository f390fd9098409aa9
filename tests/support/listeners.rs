//! Crowds of listeners that one thread serves: each listener checks that the numbers of its topic come without a gap.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::BytesMut;
use ringhub::proto::{Fin, FrameHeader, OpCode, ResponseHead, encode_masked};
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};

use super::{DEADLINE, reset, upgrade_request};

/// A topic whose messages are numbered from 0 on.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    target: String,
    /// The number of the next message. A publisher raises this number before it sends that message.
    begun: Arc<AtomicU64>,
}

impl Numbered {
    pub(crate) fn new(target: &str) -> Numbered {
        Numbered { target: target.into(), begun: Arc::default() }
    }

    /// Returns the target of the topic's publishers and listeners, without a query.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Returns the number of messages whose publishing has begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Returns the next message: its number, a space, and `length` more bytes. Each listener that is already subscribed
    /// must receive the message.
    pub(crate) fn next(&self, length: usize) -> String {
        format!("{} {}", self.begun.fetch_add(1, Ordering::SeqCst), "x".repeat(length))
    }

    /// Returns the next message, which is the last.
    pub(crate) fn last(&self) -> String {
        self.next(0) + LAST
    }
}

/// The state of a listener, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server has not answered the opening request.
    Opening,
    Open,
    /// The server has refused the opening request with this status and this `retry-after`.
    Refused(u16, Option<String>),
    /// The connection ended before an answer.
    Unanswered,
    /// The server has sent a close frame with this code and reason, and the connection has ended.
    Closed(u16, String),
    /// The connection ended without a closing handshake.
    Cut,
    /// The listener has left.
    Gone,
}

struct Listener {
    topic: Numbered,
    stream: Option<TcpStream>,
    fate: Fate,
    /// The code and the reason of the server's close frame, from its arrival to the connection's end.
    close: Option<(u16, String)>,
    is_connected: bool,
    rest: BytesMut,
    /// How many messages had begun when the opening answer came.
    joined_at: u64,
    next: Option<u64>,
    has_last: bool,
}

/// Many listeners.
pub(crate) struct Listeners {
    address: SocketAddr,
    poll: rustix::fd::OwnedFd,
    listeners: Vec<Listener>,
    opening: usize,
    open: usize,
    finished: usize,
    moved: Instant,
    chunk: Vec<u8>,
}

impl Listeners {
    pub(crate) fn new(address: SocketAddr) -> Listeners {
        Listeners {
            address,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll"),
            listeners: Vec::new(),
            opening: 0,
            open: 0,
            finished: 0,
            moved: Instant::now(),
            chunk: vec![0; 64 * 1_024],
        }
    }

    /// Begins to connect one more listener, without waiting, and returns its number.
    pub(crate) fn dial(&mut self, topic: &Numbered, receive_buffer: Option<usize>) -> usize {
        let number = self.listeners.len();
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP)).unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        if let Err(error) = socket.connect(&self.address.into()) {
            assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "{error}");
        }
        let stream = TcpStream::from(socket);
        epoll::add(&self.poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::OUT).unwrap();
        self.listeners.push(Listener {
            topic: topic.clone(),
            stream: Some(stream),
            fate: Fate::Opening,
            close: None,
            is_connected: false,
            rest: BytesMut::new(),
            joined_at: 0,
            next: None,
            has_last: false,
        });
        self.opening += 1;
        number
    }

    /// Connects `count` listeners of a topic, and serves all listeners until the server has accepted each of them.
    pub(crate) fn join(&mut self, count: usize, topic: &Numbered, receive_buffer: Option<usize>) {
        let first = self.len();
        for number in 0..count {
            self.dial(topic, receive_buffer);
            if number % 100 == 99 {
                self.serve_until("some are subscribed", |all| all.opening < 50);
            }
        }
        self.serve_until("all are subscribed", |all| all.opening == 0);
        let refused = self.listeners[first..].iter().find(|listener| listener.fate != Fate::Open);
        assert!(refused.is_none(), "not every listener was accepted: {refused:?}");
    }

    pub(crate) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Returns the number of listeners that wait for the opening answer.
    pub(crate) fn opening(&self) -> usize {
        self.opening
    }

    /// Returns the number of listeners that are subscribed now.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Returns the number of listeners that have seen the last message.
    pub(crate) fn finished(&self) -> usize {
        self.finished
    }

    pub(crate) fn fate(&self, number: usize) -> &Fate {
        &self.listeners[number].fate
    }

    /// Returns the number of listeners whose fate `is_it` accepts.
    pub(crate) fn count(&self, is_it: impl Fn(&Fate) -> bool) -> usize {
        self.listeners.iter().filter(|listener| is_it(&listener.fate)).count()
    }

    /// Returns the number of the message that the listener expects next; 0 before its first message.
    pub(crate) fn next(&self, number: usize) -> u64 {
        self.listeners[number].next.unwrap_or(0)
    }

    /// Returns whether these listeners have received every message of their topic whose publishing has begun.
    pub(crate) fn have_all(&self, mut numbers: impl Iterator<Item = usize>) -> bool {
        numbers.all(|number| self.next(number) == self.listeners[number].topic.begun())
    }

    /// Makes a listener stop reading.
    pub(crate) fn stall(&mut self, number: usize) {
        self.watch(number, epoll::EventFlags::empty());
    }

    /// Makes a listener read again.
    pub(crate) fn resume(&mut self, number: usize) {
        self.watch(number, epoll::EventFlags::IN);
    }

    fn watch(&mut self, number: usize, flags: epoll::EventFlags) {
        if let Some(stream) = &self.listeners[number].stream {
            epoll::modify(&self.poll, stream, epoll::EventData::new_u64(number as u64), flags).unwrap();
        }
    }

    /// Closes a listener's socket without a closing handshake: with a reset, or by a plain close.
    pub(crate) fn leave(&mut self, number: usize, is_reset: bool) {
        if let Some(stream) = self.end(number, Fate::Gone) {
            if is_reset { reset(stream) } else { drop(stream) }
        }
    }

    /// Begins the closing handshake of a listener; the listener goes on reading to the end.
    pub(crate) fn close(&mut self, number: usize) {
        let listener = &mut self.listeners[number];
        if listener.fate == Fate::Open {
            listener.say(OpCode::Close, &1000_u16.to_be_bytes());
        }
    }

    /// Ends the sending side of a listener; the listener goes on reading to the end.
    pub(crate) fn shut_down(&mut self, number: usize) {
        if let Some(stream) = &self.listeners[number].stream {
            // The call fails if the server has ended the connection, which is allowed.
            drop(stream.shutdown(Shutdown::Write));
        }
    }

    /// Serves all listeners until `is_done` returns true. Panics if nothing arrives for [`DEADLINE`] before that.
    #[track_caller]
    pub(crate) fn serve_until(&mut self, what: &str, is_done: impl Fn(&Listeners) -> bool) {
        self.moved = Instant::now();
        while !is_done(self) {
            let is_stuck = self.moved.elapsed() > DEADLINE;
            assert!(!is_stuck, "nothing arrives until {what}: {self:?}");
            self.serve_once(100);
        }
    }

    /// Waits at most `wait_ms` milliseconds for input, and serves the listeners that have some.
    pub(crate) fn serve_once(&mut self, wait_ms: i64) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let wait = Timespec { tv_sec: 0, tv_nsec: wait_ms * 1_000_000 };
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            let data = event.data;
            self.serve(data.u64() as usize);
        }
    }

    fn serve(&mut self, number: usize) {
        let listener = &mut self.listeners[number];
        let Some(stream) = &mut listener.stream else { return };
        let outcome = if listener.is_connected {
            stream.read(&mut self.chunk)
        } else if let Err(error) = listener.request() {
            Err(error)
        } else {
            return self.watch(number, epoll::EventFlags::IN);
        };
        match outcome {
            Ok(0) => {
                let is_whole = listener.rest.is_empty() || listener.fate == Fate::Opening;
                assert!(is_whole, "listener {number}: an orderly end within a frame");
                self.lose(number);
            }
            Ok(count) => {
                self.moved = Instant::now();
                listener.rest.extend_from_slice(&self.chunk[..count]);
                self.look(number);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Epoll also reports a reset of a listener that is stalled.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                self.lose(number);
            }
            Err(error) => panic!("listener {number}: {error}"),
        }
    }

    /// Notes the end of a connection that this side has not ended.
    fn lose(&mut self, number: usize) {
        let listener = &mut self.listeners[number];
        let fate = match (&listener.fate, listener.close.take()) {
            (_, Some((code, reason))) => Fate::Closed(code, reason),
            (Fate::Opening, None) => Fate::Unanswered,
            _ => Fate::Cut,
        };
        self.end(number, fate);
    }

    fn end(&mut self, number: usize, fate: Fate) -> Option<TcpStream> {
        let listener = &mut self.listeners[number];
        let stream = listener.stream.take()?;
        self.opening -= usize::from(listener.fate == Fate::Opening);
        self.open -= usize::from(listener.fate == Fate::Open);
        listener.fate = fate;
        listener.rest = BytesMut::new();
        self.moved = Instant::now();
        Some(stream)
    }

    /// Handles what a listener has received.
    fn look(&mut self, number: usize) {
        let listener = &mut self.listeners[number];
        if listener.fate == Fate::Opening {
            let Some((head, length)) = ResponseHead::decode(&listener.rest).expect("the answer is HTTP") else {
                return;
            };
            if head.status() != 101 {
                let delay = head.headers().get("retry-after").map(|value| String::from_utf8_lossy(value).into());
                let fate = Fate::Refused(head.status(), delay);
                self.end(number, fate);
                return;
            }
            drop(listener.rest.split_to(length));
            (listener.fate, listener.joined_at) = (Fate::Open, listener.topic.begun());
            self.opening -= 1;
            self.open += 1;
        }
        while let Some((opcode, payload)) = self.listeners[number].next_frame() {
            let listener = &mut self.listeners[number];
            assert!(listener.close.is_none(), "listener {number}: something follows the close frame");
            match opcode {
                OpCode::Text => self.finished += usize::from(listener.take(number, &payload)),
                OpCode::Ping => listener.say(OpCode::Pong, &payload),
                OpCode::Close => {
                    let (code, reason) = payload.split_at(2.min(payload.len()));
                    let code = code.try_into().map_or(1005, u16::from_be_bytes);
                    listener.close = Some((code, String::from_utf8_lossy(reason).into()));
                    listener.say(OpCode::Close, &payload[..2.min(payload.len())]);
                }
                other => panic!("listener {number}: {other:?}"),
            }
        }
    }
}

impl Listener {
    /// Sends the opening request once the socket is connected.
    fn request(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().expect("the listener is connected");
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        stream.write_all(upgrade_request(&format!("{}?mode=sub", self.topic.target)).as_bytes())?;
        self.is_connected = true;
        Ok(())
    }

    fn next_frame(&mut self) -> Option<(OpCode, BytesMut)> {
        let (header, length) = FrameHeader::decode(&self.rest).expect("the server sends frames")?;
        let whole = length + header.payload_len as usize;
        if self.rest.len() < whole {
            return None;
        }
        assert_eq!(header.fin, Fin::Set, "a message of this server is one frame");
        let mut frame = self.rest.split_to(whole);
        Some((header.opcode, frame.split_off(length)))
    }

    /// Takes a message. Its number must be the expected number. Returns whether the message is the topic's last.
    fn take(&mut self, own: usize, payload: &[u8]) -> bool {
        let text = str::from_utf8(payload).expect("text");
        let (number, rest) = text.split_once(' ').expect("a number and a space");
        let number: u64 = number.parse().expect("a number");
        match self.next {
            Some(next) => assert_eq!(number, next, "listener {own}: a gap or a repetition"),
            None => assert!(number <= self.joined_at, "listener {own}: message {number} is the first of {self:?}"),
        }
        self.next = Some(number + 1);
        let is_last = rest == LAST && !self.has_last;
        self.has_last |= is_last;
        is_last
    }

    /// Sends a small frame. A failed write is ignored, since the next read reports the connection's end.
    fn say(&mut self, opcode: OpCode, payload: &[u8]) {
        let mut frame = Vec::new();
        encode_masked(opcode, Fin::Set, payload, [0x37, 0xfa, 0x21, 0x3d], &mut frame);
        if let Some(stream) = &mut self.stream {
            drop(stream.write(&frame));
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listener { topic, fate, joined_at, next, .. } = self;
        write!(f, "{} {fate:?}, joined at {joined_at} of {}, expects {next:?}", topic.target, topic.begun())
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listeners { opening, open, finished, listeners, .. } = self;
        write!(f, "{opening} opening, {open} open, {finished} finished, of {}, ", listeners.len())?;
        f.debug_list().entries(listeners.iter().filter(|listener| !listener.has_last).take(5)).finish()
    }
}

/// The text of a topic's last message after the number and the space.
const LAST: &str = "last";
