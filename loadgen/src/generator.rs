//! The generator's event loop: one edge-triggered epoll watches all connections, and each ready one is read until it is
//! empty.
//!
//! It spins by default. A sleeping generator has to be woken, and the server pays for the wake-up inside its own send.
//! So the comparison of two servers would depend on how often each finds the generator asleep.

use crate::connection::{Connection, Judge, Reading, State, opening_answer, opening_request};
use crate::error::Error;
use crate::frame;
use crate::moment::LatencyBuckets;
use crate::options::Plan;
use crate::payload;
use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// All connections, and what they have received together. Subscribers come first, then publishers.
pub(crate) struct Generator<'a> {
    pub(crate) plan: &'a Plan,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    pub(crate) connections: Vec<Connection>,
    /// Connections whose handshake is done.
    pub(crate) opened: usize,
    pub(crate) disconnected: u64,
    /// The reasons of the first few disconnections.
    pub(crate) disconnections: Vec<String>,
    pub(crate) received: Received,
    pub(crate) judge: Judge,
    frame_length: u64,
    buffer: Vec<u8>,
    clock: Instant,
}

/// The sums of what all subscribers have received.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    /// Messages of the subscribers that read their frames.
    messages: u64,
    /// Bytes of the other subscribers.
    dropped_bytes: u64,
    /// Reads that found bytes, of all subscribers.
    pub(crate) reads: u64,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(plan: &'a Plan) -> Result<Generator<'a>, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::system("create an epoll"))?;
        // The highest value is sixty seconds in nanoseconds; a longer latency is recorded as this.
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid histogram bounds");
        let judge = Judge {
            run: std::process::id() as u16,
            opcode: plan.opcode,
            form: payload::Form::of(plan.size),
            padding: payload::padding(plan.size),
            publishers_receive: plan.publishers_receive,
            window: None,
            latency,
            buckets: LatencyBuckets::default(),
        };
        Ok(Generator {
            plan,
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            connections: Vec::with_capacity(plan.subscribers + plan.publishers),
            opened: 0,
            disconnected: 0,
            disconnections: Vec::new(),
            received: Received::default(),
            judge,
            frame_length: frame::server_frame_length(plan.size) as u64,
            buffer: vec![0; READ_MAX],
            clock: Instant::now(),
        })
    }

    /// Returns the nanoseconds since this generator was made.
    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Returns the number of messages delivered to subscribers. Messages of subscribers that drop their bytes are not
    /// counted one by one: their number is that of the dropped bytes, divided by the length of a frame.
    pub(crate) fn deliveries(&self, received: &Received) -> u64 {
        received.messages + received.dropped_bytes / self.frame_length
    }

    /// Adds a socket that is connecting.
    pub(crate) fn adopt(&mut self, socket: OwnedFd) -> Result<(), Error> {
        let interest =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.epoll, &socket, data, interest).map_err(Error::system("watch a socket"))?;
        self.connections.push(Connection::new(socket));
        Ok(())
    }

    /// Waits at most `patience` for ready connections, and handles them. Returns their number.
    pub(crate) fn poll(&mut self, patience: Duration) -> Result<usize, Error> {
        let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::system("wait for sockets")(error)),
        }
        let ready = self.events.len();
        for at in 0..ready {
            let epoll::Event { flags, data } = self.events[at];
            self.handle(data.u64() as usize, flags)?;
        }
        Ok(ready)
    }

    fn handle(&mut self, index: usize, flags: epoll::EventFlags) -> Result<(), Error> {
        if let State::Opening { .. } = self.connections[index].state {
            if !self.open(index)? {
                return Ok(());
            }
        } else if self.connections[index].unsent() > 0 {
            self.flush(index);
        }
        let ended = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if ended || flags.contains(epoll::EventFlags::IN) {
            self.receive(index, ended);
        }
        Ok(())
    }

    /// Goes on with an opening handshake, and returns whether it is done.
    fn open(&mut self, index: usize) -> Result<bool, Error> {
        let connection = &mut self.connections[index];
        let State::Opening { requested, answer } = &mut connection.state else { return Ok(true) };
        let Some(socket) = &connection.socket else { return Ok(false) };
        let refused = |why: String| Error::Connect(format!("connection {index} to {}: {why}", self.plan.target));
        if !*requested {
            rustix::net::sockopt::socket_error(socket)
                .and_then(|outcome| outcome)
                .map_err(|error| refused(error.to_string()))?;
            *requested = true;
            let subscriber = index < self.plan.subscribers;
            connection.push(&opening_request(if subscriber { &self.plan.subscribe } else { &self.plan.publish }));
            connection.flush().map_err(|error| refused(error.to_string()))?;
            return Ok(false);
        }
        let end = loop {
            match rustix::net::recv(socket, &mut self.buffer[..ANSWER_READ_MAX], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(refused("closed before the handshake was done".to_owned())),
                Ok((count, _)) => answer.extend_from_slice(&self.buffer[..count]),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(refused(error.to_string())),
            }
            if let Some(end) = opening_answer(answer).map_err(|why| refused(format!("the server answered {why}")))? {
                break end;
            }
        };
        let first_frames = answer.split_off(end);
        connection.state = Self::opened_state(self.plan, index);
        self.opened += 1;
        self.take(index, &first_frames);
        self.receive(index, false);
        Ok(true)
    }

    fn opened_state(plan: &Plan, index: usize) -> State {
        let subscriber = index < plan.subscribers;
        if subscriber && !plan.verify.reads_frames(index, plan.subscribers) {
            return State::Dropping { bytes: 0 };
        }
        let publishers = if subscriber { plan.publishers } else { 0 };
        State::Reading(Box::new(Reading::of_publishers(publishers)))
    }

    /// Reads a connection until it has no more bytes, or to its end if `to_the_end`.
    fn receive(&mut self, index: usize, to_the_end: bool) {
        loop {
            let connection = &self.connections[index];
            let Some(socket) = &connection.socket else { return };
            let dropping = matches!(connection.state, State::Dropping { .. });
            // With TRUNC the kernel frees the bytes instead of copying them, and still returns their number.
            let flags = if dropping { RecvFlags::DONTWAIT | RecvFlags::TRUNC } else { RecvFlags::DONTWAIT };
            let count = match rustix::net::recv(socket, &mut self.buffer[..], flags) {
                Ok((_, 0)) => return self.end(index, "closed by the server without a close frame"),
                Ok((_, count)) => count,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => continue,
                Err(error) => return self.end(index, &error.to_string()),
            };
            if index < self.plan.subscribers {
                self.received.reads += 1;
            }
            if let State::Dropping { bytes } = &mut self.connections[index].state {
                *bytes += count as u64;
                self.received.dropped_bytes += count as u64;
            } else {
                let buffer = std::mem::take(&mut self.buffer);
                self.take(index, &buffer[..count]);
                self.buffer = buffer;
            }
            if count < READ_MAX && !to_the_end {
                return;
            }
        }
    }

    fn take(&mut self, index: usize, bytes: &[u8]) {
        if let State::Dropping { .. } = self.connections[index].state {
            self.received.dropped_bytes += bytes.len() as u64;
        }
        let now_ns = self.now_ns();
        let (messages, ended) = self.connections[index].take(bytes, now_ns, &mut self.judge);
        self.received.messages += messages;
        if self.connections[index].unsent() > 0 {
            self.flush(index);
        }
        if let Err(why) = ended {
            self.end(index, &why);
        }
    }

    /// Writes the bytes that wait for this connection, as many as its socket takes.
    pub(crate) fn flush(&mut self, index: usize) {
        if let Err(error) = self.connections[index].flush() {
            self.end(index, &error.to_string());
        }
    }

    fn end(&mut self, index: usize, why: &str) {
        if self.connections[index].socket.take().is_none() {
            return;
        }
        self.disconnected += 1;
        if self.disconnections.len() < REASONS_MAX {
            let role = if index < self.plan.subscribers { "subscriber" } else { "publisher" };
            self.disconnections.push(format!("{role}, connection {index}: {why}"));
        }
    }
}

/// The most connections that are handled between two looks at the clock and the schedule.
const EVENTS_MAX: usize = 128;

/// The bytes of one read. The number is large, so that one read empties a socket, and the number of reads shows the
/// number of sends.
const READ_MAX: usize = 1 << 20;

const ANSWER_READ_MAX: usize = 4 << 10;

/// The most reasons that are kept for the report; the count of disconnections is always exact.
pub(crate) const REASONS_MAX: usize = 8;
