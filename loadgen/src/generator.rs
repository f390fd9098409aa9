//! A thread's event loop: one edge-triggered epoll watches the thread's connections, and each ready one is read until
//! it is empty.
//!
//! It spins by default. A sleeping generator has to be woken, and the server pays for the wake-up inside its own send.
//! So the comparison of two servers would depend on how often each finds the generator asleep.

use crate::connection::{Connection, Posting, Reading, Role, State, opening_answer};
use crate::crew::Crew;
use crate::error::Error;
use crate::frame;
use crate::http::Input;
use crate::judge::{Judge, Writes};
use crate::options::{Activity, Plan, Share};
use crate::pattern::Values;
use crate::ports::Ports;
use crate::protocol::{Endpoint, Publishing};
use crate::scenario::churn::Churned;
use crate::sequence::{SequenceChecker, Tally};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The connections of a thread, and what they have received together. First come the thread's subscribers, then the
/// publishers, which the first thread has, then subscribers that came later.
pub(crate) struct Generator<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) crew: &'a Crew,
    pub(crate) share: Share,
    epoll: OwnedFd,
    pub(crate) connections: Vec<Connection>,
    /// The subscribers before the publishers.
    pub(crate) first_subscribers: usize,
    /// Connections that opened and were not closed by the scenario.
    pub(crate) opened: usize,
    pub(crate) disconnected: u64,
    /// The reasons of the first few disconnections of publishers, and those of the others.
    pub(crate) disconnections: [Vec<String>; 2],
    pub(crate) received: Received,
    pub(crate) judge: Judge,
    /// In an echo, the messages of each stream that the socket has taken; those of other threads are 0.
    pub(crate) written: Vec<u64>,
    /// The counts of the subscribers that have left, and the deliveries that were expected at them.
    pub(crate) departed: (Tally, u64),
    /// The foreign, the corrupt and the misrouted messages of these subscribers.
    pub(crate) departed_foreign: [u64; 3],
    /// The subscribers that left and joined in a churn.
    pub(crate) churned: Churned,
    /// The connections that failed to open, each with its error; `None` if such a failure ends the run.
    pub(crate) refused: Option<Vec<(usize, String)>>,
    /// Connections that publish by HTTP and are opened anew, because the server took no more requests on the old one.
    pub(crate) reopening: Vec<(usize, Posting)>,
    /// In an echo, the connections that got messages, each with the number of messages.
    pub(crate) echoed: Option<Vec<(usize, u64)>>,
    /// For each publisher, but those of an echo, the time at which its latest write began. Time that passes within a
    /// write is the server's if both run on one CPU.
    pub(crate) write_began_ns: Vec<u64>,
    /// In a stall, the share of the subscribers that does not read now.
    pub(crate) stalled: Option<f64>,
    /// The time for which this thread had nothing to read and nothing to publish.
    pub(crate) spare_ns: u64,
    /// Connections that have more bytes than one turn reads.
    unfinished: Vec<usize>,
    frame_length: u64,
    buffer: Vec<u8>,
    plain: Vec<u8>,
    /// The local ports of connections from the plan's source addresses.
    pub(crate) ports: Ports,
    clock: Instant,
}

/// The sums of what subscribers have received.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    /// Messages of the subscribers that read their frames.
    pub(crate) messages: u64,
    /// Bytes of the other subscribers.
    pub(crate) dropped_bytes: u64,
    /// Reads that found bytes, of all subscribers.
    pub(crate) reads: u64,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(plan: &'a Plan, crew: &'a Crew, share: Share) -> Result<Generator<'a>, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::system("create an epoll"))?;
        let first_subscribers = share.size(plan.subscribers);
        let is_first = share.index == 0;
        // In an echo each thread writes and reads its own messages.
        let writes = match plan.activity {
            Activity::Echo(_) if !is_first => Arc::new(Writes::new(plan.topics.streams())),
            _ => Arc::clone(&crew.writes),
        };
        Ok(Generator {
            plan,
            crew,
            share,
            epoll,
            connections: Vec::with_capacity(first_subscribers + if is_first { plan.publishers } else { 0 }),
            first_subscribers,
            opened: 0,
            disconnected: 0,
            disconnections: [const { Vec::new() }; 2],
            received: Received::default(),
            judge: Judge::new(plan, crew.run, Arc::clone(&crew.clock), writes),
            written: Vec::new(),
            departed: (Tally::default(), 0),
            departed_foreign: [0; 3],
            churned: Churned::default(),
            refused: None,
            reopening: Vec::new(),
            echoed: matches!(plan.activity, Activity::Echo(_)).then(Vec::new),
            write_began_ns: match plan.activity {
                Activity::Echo(_) => Vec::new(),
                _ if is_first => vec![0; plan.publishers],
                _ => Vec::new(),
            },
            stalled: None,
            spare_ns: 0,
            ports: Ports::local((std::process::id() as usize + share.index) * PORTS_APART),
            unfinished: Vec::new(),
            frame_length: frame::server_frame_length(plan.size) as u64,
            buffer: vec![0; READ_MAX],
            plain: Vec::new(),
            clock: crew.start,
        })
    }

    /// Returns the nanoseconds since the run began.
    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Returns what the subscribers of all threads have received.
    pub(crate) fn received(&self) -> Received {
        self.crew.others(self.share).fold(self.received, |mut sum, other| {
            let Received { messages, dropped_bytes, reads } = other.received();
            sum.messages += messages;
            sum.dropped_bytes += dropped_bytes;
            sum.reads += reads;
            sum
        })
    }

    /// Returns the number of messages delivered to subscribers. Messages of subscribers that drop their bytes are not
    /// counted one by one: their number is that of the dropped bytes, divided by the length of a frame.
    pub(crate) fn deliveries(&self, received: &Received) -> u64 {
        received.messages + received.dropped_bytes / self.frame_length
    }

    /// Returns who a connection of this thread is.
    pub(crate) fn role(&self, index: usize) -> Role {
        let publishers = self.own_publishers();
        match index.checked_sub(self.first_subscribers) {
            None => Role::Subscriber(self.share.global(index)),
            Some(publisher) if publisher < publishers => Role::Publisher(publisher),
            Some(_) => Role::Subscriber(self.share.global(index - publishers)),
        }
    }

    /// Returns the connection of one of this thread's publishers; in an echo each connection publishes.
    pub(crate) fn publisher_at(&self, publisher: usize) -> usize {
        self.publisher_place(if self.echoed.is_some() { publisher / self.share.of } else { publisher })
    }

    /// Returns the connection of the publisher at a place among those of this thread.
    pub(crate) fn publisher_place(&self, place: usize) -> usize {
        if self.echoed.is_some() { place } else { self.first_subscribers + place }
    }

    /// Returns whether a publisher is one of this thread.
    pub(crate) fn has_publisher(&self, publisher: usize) -> bool {
        if self.echoed.is_some() { publisher % self.share.of == self.share.index } else { self.share.index == 0 }
    }

    /// Returns the publishers that have connections of their own.
    pub(crate) fn own_publishers(&self) -> usize {
        if self.share.index == 0 && self.echoed.is_none() { self.plan.publishers } else { 0 }
    }

    /// Adds a socket that is connecting as a new connection.
    pub(crate) fn adopt(&mut self, socket: OwnedFd) -> Result<(), Error> {
        self.watch(&socket, self.connections.len())?;
        self.connections.push(Connection::new(socket));
        Ok(())
    }

    /// Puts a socket that is connecting in the place of a connection that has ended.
    pub(crate) fn replace(&mut self, index: usize, socket: OwnedFd) -> Result<(), Error> {
        self.watch(&socket, index)?;
        self.connections[index] = Connection::new(socket);
        Ok(())
    }

    fn watch(&self, socket: &OwnedFd, index: usize) -> Result<(), Error> {
        let interest =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, socket, data, interest).map_err(Error::system("watch a socket"))
    }

    /// Waits at most `patience` for ready connections, and handles them. Returns their number.
    pub(crate) fn poll(&mut self, patience: Duration) -> Result<usize, Error> {
        let unfinished = std::mem::take(&mut self.unfinished);
        let patience = if unfinished.is_empty() { patience } else { Duration::ZERO };
        let asleep_ns = if patience.is_zero() { 0 } else { self.now_ns() };
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        let waited = epoll::wait(&self.epoll, &mut events[..], Some(&timeout));
        if !patience.is_zero() {
            self.spare_ns += self.now_ns() - asleep_ns;
        }
        let ready = match waited {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(Error::system("wait for sockets")(error)),
        };
        for &mut epoll::Event { flags, data } in &mut *ready {
            self.handle(data.u64() as usize, flags)?;
        }
        for &index in &unfinished {
            self.receive(index, true)?;
        }
        Ok(ready.len() + unfinished.len())
    }

    /// Counts the time since a turn began as time to spare, if the thread did not sleep: [`Self::poll`] counts sleep.
    pub(crate) fn note_spare(&mut self, patience: Duration, begin_ns: u64) {
        if patience.is_zero() {
            self.spare_ns += self.now_ns() - begin_ns;
        }
    }

    fn handle(&mut self, index: usize, flags: epoll::EventFlags) -> Result<(), Error> {
        if let State::Connecting = self.connections[index].state {
            self.request(index)?;
        } else if self.connections[index].unsent() > 0 {
            self.flush(index)?;
        }
        let ended = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if (ended || flags.contains(epoll::EventFlags::IN)) && !self.is_stalled(index) {
            self.receive(index, ended)?;
        }
        Ok(())
    }

    /// Returns where a role's connections lead.
    pub(crate) fn endpoint(&self, role: Role) -> &'a Endpoint {
        match (role, &self.plan.publishing) {
            (Role::Publisher(_), Publishing::Post(post)) => &post.endpoint,
            _ => &self.plan.endpoint,
        }
    }

    /// Sends the opening request of a connection whose TCP is connected, or opens a connection that publishes by HTTP.
    fn request(&mut self, index: usize) -> Result<(), Error> {
        let role = self.role(index);
        let endpoint = self.endpoint(role);
        let plan = self.plan;
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else { return Ok(()) };
        if let Err(error) = rustix::net::sockopt::socket_error(socket).and_then(|outcome| outcome) {
            return self.refuse(index, error.to_string());
        }
        if let Some(settings) = &endpoint.tls {
            connection.begin_tls(settings)?;
        }
        let (topic, number) = match role {
            Role::Subscriber(number) => (plan.topics.first_of(number), number),
            Role::Publisher(publisher) => (plan.topics.topic_of(publisher % plan.topics.streams()), publisher),
        };
        let values = Values { topic: &plan.topics.name(topic), size: plan.size, connection: number, id: 0 };
        let request = match (role, &plan.publishing) {
            (Role::Publisher(_), Publishing::Post(_)) => None,
            (Role::Publisher(_), Publishing::Message { request, .. }) => Some(request),
            (Role::Subscriber(_), _) => Some(&plan.subscribe),
        };
        match request {
            Some(request) => {
                connection.state = State::Opening(Vec::new());
                connection.push(&request.bytes(&values));
            }
            None => {
                let place = self.reopening.iter().position(|(at, _)| *at == index);
                let posting = place.map(|place| self.reopening.swap_remove(place).1);
                self.opened += usize::from(posting.is_none());
                connection.state = State::Posting(Box::new(posting.unwrap_or_default()));
            }
        }
        match self.connections[index].flush() {
            Ok(()) => Ok(()),
            Err(error) => self.refuse(index, error.to_string()),
        }
    }

    /// Reads a connection until it has no more bytes, or to its end if `to_the_end`.
    pub(crate) fn receive(&mut self, index: usize, to_the_end: bool) -> Result<(), Error> {
        for _ in 0..READS_MAX {
            let connection = &self.connections[index];
            let Some(socket) = &connection.socket else { return Ok(()) };
            let dropping = matches!(connection.state, State::Dropping { .. });
            // With TRUNC the kernel frees the bytes instead of copying them, and still returns their number.
            let flags = if dropping { RecvFlags::DONTWAIT | RecvFlags::TRUNC } else { RecvFlags::DONTWAIT };
            let count = match rustix::net::recv(socket, &mut self.buffer[..], flags) {
                Ok((_, 0)) => return self.ended(index, "closed by the server without a close frame"),
                Ok((_, count)) => count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return self.ended(index, &error.to_string()),
            };
            if let State::Dropping { bytes } = &mut self.connections[index].state {
                *bytes += count as u64;
                self.received.dropped_bytes += count as u64;
                self.received.reads += 1;
            } else {
                if self.connections[index].is_open() && matches!(self.role(index), Role::Subscriber(_)) {
                    self.received.reads += 1;
                }
                let buffer = std::mem::take(&mut self.buffer);
                let consumed = self.arrived(index, &buffer[..count]);
                self.buffer = buffer;
                consumed?;
            }
            if count < READ_MAX && !to_the_end {
                return Ok(());
            }
        }
        // Other connections and the schedule have their turn before the rest. The kernel will not tell of it again.
        self.unfinished.push(index);
        Ok(())
    }

    /// Takes bytes of a socket.
    fn arrived(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        if !self.connections[index].has_tls() {
            return self.consume(index, bytes);
        }
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let opened = self.connections[index].open_records(bytes, &mut plain);
        let consumed = if plain.is_empty() { Ok(()) } else { self.consume(index, &plain) };
        self.plain = plain;
        consumed?;
        match opened {
            Ok(()) => self.flush(index),
            Err(why) => {
                // The reason says more than the failure to send an alert to a server that has closed.
                self.connections[index].flush().unwrap_or_default();
                self.ended(index, &why)
            }
        }
    }

    /// Takes plain bytes.
    fn consume(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        if let State::Opening(answer) = &mut self.connections[index].state {
            answer.extend_from_slice(bytes);
            return match opening_answer(answer, Input::Open) {
                Ok(None) => Ok(()),
                Ok(Some(end)) => {
                    let first_frames = answer.split_off(end);
                    self.join(index)?;
                    if first_frames.is_empty() { Ok(()) } else { self.consume(index, &first_frames) }
                }
                Err(why) => self.refuse(index, format!("the server answered {why}")),
            };
        }
        if let State::Dropping { .. } = self.connections[index].state {
            self.received.dropped_bytes += bytes.len() as u64;
        }
        let (now_ns, role) = (self.now_ns(), self.role(index));
        let taken = self.connections[index].take(bytes, now_ns, self.plan, role, &mut self.judge);
        self.received.messages += taken.messages;
        if taken.messages > 0
            && let Some(echoed) = &mut self.echoed
        {
            echoed.push((index, taken.messages));
        }
        if taken.is_joined {
            self.joined(index);
        }
        if self.connections[index].unsent() > 0 {
            self.flush(index)?;
        }
        if matches!(&self.connections[index].state, State::Posting(posting) if posting.is_last) {
            return self.ended(index, "the server takes no more requests on the connection");
        }
        match taken.ended {
            None => Ok(()),
            Some(why) => self.ended(index, &why),
        }
    }

    /// Begins what follows the opening handshake.
    fn join(&mut self, index: usize) -> Result<(), Error> {
        let (plan, role) = (self.plan, self.role(index));
        if let Role::Subscriber(number) = role
            && !plan.verify.reads_frames(number, plan.subscribers)
        {
            self.connections[index].state = State::Dropping { bytes: 0 };
            self.opened += 1;
            return Ok(());
        }
        let mut reading = Box::new(Reading::new(plan, role));
        let mut output = Vec::new();
        let is_joined = reading.join(plan, role, &mut output)?;
        let connection = &mut self.connections[index];
        connection.state = State::Reading(reading);
        connection.push(&output);
        if is_joined {
            self.joined(index);
        }
        self.flush(index)?;
        Ok(())
    }

    /// Counts a connection as open. Its checkers expect the messages from now on.
    fn joined(&mut self, index: usize) {
        self.opened += 1;
        let (plan, crew) = (self.plan, self.crew);
        let connection = &mut self.connections[index];
        connection.shrink();
        let State::Reading(reading) = &mut connection.state else { return };
        let first = reading.first_topic as usize;
        for (slot, checker) in reading.checkers.iter_mut().enumerate() {
            let stream = plan.topics.stream_of_slot(first, slot);
            *checker = SequenceChecker::starting_at(crew.pushed(stream));
        }
    }

    /// Writes the bytes that wait for this connection, as many as its socket takes.
    pub(crate) fn flush(&mut self, index: usize) -> Result<(), Error> {
        let publisher = index.wrapping_sub(self.first_subscribers);
        if publisher < self.write_began_ns.len() {
            self.write_began_ns[publisher] = self.now_ns();
        }
        match self.connections[index].flush() {
            Err(error) if self.connections[index].is_open() => self.ended(index, &error.to_string()),
            // Why it does not open is in what the server has sent, which is read next.
            _ => Ok(()),
        }
    }

    /// Returns whether a connection does not read now.
    pub(crate) fn is_stalled(&self, index: usize) -> bool {
        let Some(share) = self.stalled else { return false };
        matches!(self.role(index), Role::Subscriber(number) if is_in_share(share, number))
    }
}

/// Returns whether a subscriber belongs to a share of all, which is spread evenly over them.
pub(crate) fn is_in_share(share: f64, number: usize) -> bool {
    ((number + 1) as f64 * share) as u64 > (number as f64 * share) as u64
}

/// The largest number of connections that are handled before the clock and the schedule are looked at again.
const EVENTS_MAX: usize = 128;

/// The bytes of one read. The number is large, so that one read empties a socket, and the number of reads shows the
/// number of sends.
const READ_MAX: usize = 1 << 20;

/// The reads of one connection in a turn.
const READS_MAX: usize = 4;

/// How far apart the first local ports are of two threads, and of two processes that follow each other.
const PORTS_APART: usize = 4_099;
