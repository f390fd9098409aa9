//! A network made of one seed: sockets, what is on its way on each, and the polls that watch them.
//!
//! What it does is what Linux may do, at the worst moment that chance finds: reports come late, more than once, or in
//! one for several causes; a multishot poll ends on its own; a receive finds nothing though it was announced; a send
//! takes a part, or refuses for want of memory; bytes, ends and resets arrive in the middle of a turn. What it never
//! does is lose a report of a poll that is armed: whoever hangs in a run has forgotten something.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, VecDeque},
    io,
    net::SocketAddr,
    rc::Rc,
};

use super::{random::Random, stream::Stream};
use crate::{
    shard::pace::Pace,
    sys::{Io, Key, Readiness, Receive, SendEntry, Unsent},
};

/// How unkind the network is: chances per mille, all 0 once the clients only wait for what they are owed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// A report is held back at a reap.
    pub(super) late: u32,
    /// A report comes although nothing happened.
    pub(super) repeated: u32,
    /// A report is the poll's last.
    pub(super) ended: u32,
    /// A receive is interrupted, finds nothing, or finds only a part of what has arrived.
    pub(super) short_receive: u32,
    /// A send takes a part or nothing although there is room.
    pub(super) short_send: u32,
    /// Something happens on the network in the middle of a turn.
    pub(super) busy: u32,
}

impl Weather {
    pub(super) const FAIR: Weather =
        Weather { late: 0, repeated: 0, ended: 0, short_receive: 0, short_send: 0, busy: 0 };
}

/// What stands behind the last byte that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It has finished sending, and may read on.
    Finished,
    /// It has closed its socket: what it is sent is refused, sooner or later.
    Closed,
    /// The connection was reset.
    Reset,
}

/// One connection, seen from both ends.
#[derive(Debug)]
pub(super) struct Line {
    /// What the client has sent and what has not arrived yet.
    pub(super) on_the_way: VecDeque<u8>,
    /// What comes behind it.
    pub(super) end: Option<End>,
    /// What has arrived at the server's socket.
    arrived: VecDeque<u8>,
    arrived_end: Option<End>,
    reset_reported: bool,
    /// What the server's socket has taken and the client has not fetched.
    pub(super) sent: VecDeque<u8>,
    /// Everything it has taken, checked.
    pub(super) stream: Stream,
    /// How much `sent` may hold.
    pub(super) room: usize,
    /// It takes everything whole, whatever the weather.
    pub(super) steady: bool,
    /// The client fetches nothing at present.
    pub(super) stalled: bool,
    /// What the client has fetched and not looked at.
    pub(super) fetched: Vec<u8>,
    key: Option<Key>,
    disarmed: bool,
    /// The server will send nothing more.
    pub(super) finished: bool,
    /// The server has given up the socket.
    pub(super) dropped: bool,
    /// Dropping it resets the connection.
    reset: bool,
    /// The socket did not take everything once.
    pub(super) was_short: bool,
    /// How many sends it was offered.
    pub(super) offers: u64,
    /// The server has come to know of an end or a reset.
    pub(super) end_received: bool,
}

/// What happened, in numbers.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) sends: u64,
    pub(super) short_sends: u64,
    /// Reports that came when their connection had ended.
    pub(super) stale: u64,
    /// Reports that came when their slot had another owner.
    pub(super) stale_reused: u64,
    pub(super) polls_ended: u64,
    /// Sockets dropped before the server had finished, while the client was still there.
    pub(super) cut_off: u64,
}

/// What sockets were offered since somebody last looked, whether they took it or not.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Offered {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    /// Bytes of the largest entry.
    largest: usize,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) random: Random,
    pub(super) weather: Weather,
    /// Every connection there has been.
    pub(super) lines: Vec<Line>,
    /// Those with anything left to happen.
    pub(super) active: Vec<usize>,
    pub(super) tally: Tally,
    pub(super) offered: Offered,
    /// Asked for and not yet submitted.
    asked: Vec<Asked>,
    /// Multishot polls for input.
    inputs: HashMap<Key, usize>,
    /// One-shot polls for room.
    rooms: HashMap<Key, usize>,
    reports: Vec<Readiness>,
    /// Present owners of slots.
    owners: HashMap<u32, u32>,
    /// Nothing can be sent, whatever room there is.
    pub(super) is_short_of_memory: bool,
    /// The run is over: sockets may be dropped anyhow.
    pub(super) is_over: bool,
}

#[derive(Debug, Clone, Copy)]
enum Asked {
    Input(Key, usize),
    Room(Key, usize),
    Removal(Key),
}

/// The server's end of a [`Line`].
#[derive(Debug)]
pub(super) struct SimulatedSocket {
    line: usize,
    network: Rc<RefCell<Network>>,
}

/// The sockets of one shard, simulated.
#[derive(Debug)]
pub(super) struct SimulatedIo(pub(super) Rc<RefCell<Network>>);

impl Tally {
    pub(super) fn add(&mut self, other: &Tally) {
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.sends += other.sends;
        self.short_sends += other.short_sends;
        self.stale += other.stale;
        self.stale_reused += other.stale_reused;
        self.polls_ended += other.polls_ended;
        self.cut_off += other.cut_off;
    }
}

impl Offered {
    fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
    }

    /// Is this what one flush may offer? Its last entry may have more bytes than are left of its portion.
    pub(super) fn is_within(&self, pace: &Pace) -> bool {
        self.entries <= pace.flush_entries && self.bytes < pace.flush_bytes + self.largest.max(1)
    }
}

impl Network {
    pub(super) fn new(random: Random, weather: Weather) -> Self {
        Network {
            random,
            weather,
            lines: Vec::new(),
            active: Vec::new(),
            tally: Tally::default(),
            offered: Offered::default(),
            asked: Vec::new(),
            inputs: HashMap::new(),
            rooms: HashMap::new(),
            reports: Vec::new(),
            owners: HashMap::new(),
            is_short_of_memory: false,
            is_over: false,
        }
    }

    /// A new connection whose server must send `answer` before anything else.
    pub(super) fn connect(network: &Rc<RefCell<Self>>, answer: &[u8], room: usize) -> SimulatedSocket {
        let mut this = network.borrow_mut();
        this.lines.push(Line {
            on_the_way: VecDeque::new(),
            end: None,
            arrived: VecDeque::new(),
            arrived_end: None,
            reset_reported: false,
            sent: VecDeque::new(),
            stream: Stream::new(answer),
            room,
            steady: room == usize::MAX,
            stalled: false,
            fetched: Vec::new(),
            key: None,
            disarmed: false,
            finished: false,
            dropped: false,
            reset: false,
            was_short: false,
            offers: 0,
            end_received: false,
        });
        let line = this.lines.len() - 1;
        this.active.push(line);
        SimulatedSocket { line, network: Rc::clone(network) }
    }

    /// Does the ring have something to report?
    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// Is input of the line, or its end, about to be reported?
    pub(super) fn has_input_report(&self, number: usize) -> bool {
        let key = self.lines[number].key;
        self.reports.iter().any(|report| report.readable && Some(report.key) == key)
    }

    /// Is everything that was asked for under way?
    pub(super) fn has_submitted(&self) -> bool {
        self.asked.is_empty()
    }

    /// Has everything arrived that can?
    pub(super) fn is_quiet(&self) -> bool {
        let line_is_quiet = |line: &Line| {
            line.on_the_way.is_empty() && line.end == line.arrived_end && (line.sent.is_empty() || line.stalled)
        };
        self.reports.is_empty() && self.active.iter().all(|&number| line_is_quiet(&self.lines[number]))
    }

    /// Lets up to `most` bytes, and then the end, arrive at the server.
    pub(super) fn arrive(&mut self, number: usize, most: usize) {
        let line = &mut self.lines[number];
        let count = most.min(line.on_the_way.len());
        let mut something = count > 0;
        let arriving = line.on_the_way.drain(..count);
        line.arrived.extend(arriving);
        if line.on_the_way.is_empty() && line.arrived_end != line.end && line.arrived_end != Some(End::Reset) {
            line.arrived_end = line.end;
            something = true;
            if line.end != Some(End::Finished) {
                line.sent.clear();
            }
            if line.end == Some(End::Reset) && self.random.chance(500) {
                self.lines[number].arrived.clear();
            }
        }
        if something {
            self.report_input(number);
        }
        if matches!(self.lines[number].arrived_end, Some(End::Closed | End::Reset)) {
            self.report_room(number);
        }
    }

    /// Lets the client fetch up to `most` of what it was sent.
    pub(super) fn fetch(&mut self, number: usize, most: usize) {
        let line = &mut self.lines[number];
        let count = most.min(line.sent.len());
        let fetched = line.sent.drain(..count);
        line.fetched.extend(fetched);
        if line.sent.is_empty() && line.finished && line.arrived_end.is_some() {
            // The connection is over for both sides, which wakes whoever watches.
            self.report_input(number);
        }
        self.report_room(number);
    }

    /// Something happens somewhere, or nothing.
    fn happen(&mut self) {
        if self.active.is_empty() || !self.random.chance(self.weather.busy) {
            return;
        }
        let number = self.random.pick(&self.active);
        let most = self.random.pick(&[1, 3, 10, 100, 5_000, 100_000]);
        match self.random.within(0..=2) {
            0 => self.arrive(number, most),
            1 if !self.lines[number].stalled => self.fetch(number, most),
            _ if self.random.chance(self.weather.repeated) => self.report_input(number),
            _ => {}
        }
    }

    /// Takes over what was asked for, in order, as a submission does.
    fn submit(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            match asked {
                Asked::Input(key, number) => {
                    let earlier = self.inputs.insert(key, number);
                    assert!(earlier.is_none(), "{key:?} is armed twice: removing one poll would leave the other");
                    let line = &self.lines[number];
                    if !line.arrived.is_empty() || line.arrived_end.is_some() {
                        self.report_input(number);
                    }
                }
                Asked::Room(key, number) => {
                    let earlier = self.rooms.insert(key, number);
                    assert!(earlier.is_none(), "{key:?} awaits room twice: removing one poll would leave the other");
                    self.report_room(number);
                }
                Asked::Removal(key) => {
                    self.inputs.remove(&key);
                    self.rooms.remove(&key);
                }
            }
        }
    }

    /// Input, an end, or nothing at all is reported if a poll watches the line.
    fn report_input(&mut self, number: usize) {
        let Some(key) = self.lines[number].key.filter(|key| self.inputs.contains_key(key)) else { return };
        let hung_up = self.lines[number].arrived_end.is_some();
        let disarmed = self.random.chance(self.weather.ended);
        if disarmed {
            self.inputs.remove(&key);
            self.tally.polls_ended += 1;
        }
        let earlier = self.reports.iter_mut().find(|report| report.key == key && report.readable && !report.disarmed);
        match earlier {
            Some(report) if self.random.chance(500) => {
                report.hung_up |= hung_up;
                report.disarmed |= disarmed;
            }
            _ => self.reports.push(Readiness { key, readable: true, hung_up, writable: false, disarmed }),
        }
    }

    /// Room is reported if it is awaited and there is enough of it, as Linux does from a third of the buffer on.
    fn report_room(&mut self, number: usize) {
        let line = &self.lines[number];
        let Some(key) = line.key.filter(|key| self.rooms.contains_key(key)) else { return };
        let hung_up = line.arrived_end == Some(End::Reset);
        let free = line.room.saturating_sub(line.sent.len());
        if free > 0 && free >= line.room / 3 || hung_up {
            self.rooms.remove(&key);
            self.reports.push(Readiness { key, readable: false, hung_up, writable: true, disarmed: false });
        }
    }

    fn line(&mut self, socket: &SimulatedSocket) -> &mut Line {
        let line = &mut self.lines[socket.line];
        assert!(!line.dropped, "a socket is used after it was dropped");
        line
    }

    fn receive_one(&mut self, number: usize, room: usize) -> io::Result<Vec<u8>> {
        let short = self.random.chance(self.weather.short_receive);
        let kind = self.random.within(0..=2);
        let line = &mut self.lines[number];
        let most = room.min(line.arrived.len());
        if short && self.random.chance(200) {
            // Nothing was looked at: it is up to the caller to come again.
            return Err(io::ErrorKind::Interrupted.into());
        }
        let line = &mut self.lines[number];
        if most > 0 && short && line.arrived_end.is_none() {
            // What is left behind arrives a moment later, and is reported.
            let count = if kind == 0 { 0 } else { 1 + (self.random.next() % most as u64) as usize };
            let received: Vec<u8> = self.lines[number].arrived.drain(..count).collect();
            self.report_input(number);
            return if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(received) };
        }
        if most > 0 {
            return Ok(line.arrived.drain(..most).collect());
        }
        match line.arrived_end {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(end) => {
                line.end_received = true;
                if end == End::Reset && !std::mem::replace(&mut line.reset_reported, true) {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Ok(Vec::new())
            }
        }
    }

    fn send_one(&mut self, number: usize, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let short = self.random.chance(self.weather.short_send) && !self.lines[number].steady;
        let part = match () {
            () if self.is_short_of_memory && !self.lines[number].steady => 0,
            () if short => (self.random.next() % (length as u64 + 1)) as usize,
            () => length,
        };
        let line = &mut self.lines[number];
        assert!(!line.finished, "something is sent on line {number} after its end");
        match line.arrived_end {
            Some(End::Reset) => {
                line.end_received = true;
                let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
                return Err(kinds[(length & 1) & usize::from(!line.reset_reported)].into());
            }
            Some(End::Closed) => {
                // Nobody reads it any more; the reset that answers it arrives some time later.
                line.stream.take(pieces, length);
                line.end = Some(End::Reset);
                if short {
                    self.arrive(number, 0);
                }
                return Ok(length);
            }
            Some(End::Finished) | None => {}
        }
        let count = part.min(line.room.saturating_sub(line.sent.len()));
        line.stream.take(pieces, count);
        let mut left = count;
        for piece in pieces {
            let taken = left.min(piece.len());
            line.sent.extend(&piece[..taken]);
            left -= taken;
        }
        line.was_short |= count < length;
        if count > 0 {
            return Ok(count);
        }
        // ENOBUFS or EAGAIN, and EAGAIN where there was nothing to take it.
        let errors = [rustix::io::Errno::NOBUFS, rustix::io::Errno::AGAIN];
        Err(io::Error::from_raw_os_error(errors[length & 1].raw_os_error()))
    }
}

impl Io for SimulatedIo {
    type Socket = SimulatedSocket;

    fn arm(&mut self, key: Key, socket: &SimulatedSocket) {
        let mut network = self.0.borrow_mut();
        let line = network.line(socket);
        assert!(line.key.is_none_or(|earlier| earlier == key), "a socket is armed under a second key");
        line.key = Some(key);
        network.owners.insert(key.slot, key.generation);
        network.asked.push(Asked::Input(key, socket.line));
    }

    fn await_room(&mut self, key: Key, socket: &SimulatedSocket) {
        let mut network = self.0.borrow_mut();
        assert_eq!(network.line(socket).key, Some(key), "room is awaited under another key");
        network.asked.push(Asked::Room(key, socket.line));
    }

    fn disarm(&mut self, key: Key) {
        let mut network = self.0.borrow_mut();
        if let Some(line) = network.lines.iter_mut().find(|line| line.key == Some(key)) {
            line.disarmed = true;
        }
        network.owners.remove(&key.slot);
        network.asked.push(Asked::Removal(key));
    }

    fn submit(&mut self) {
        self.0.borrow_mut().submit();
    }

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        let mut network = self.0.borrow_mut();
        network.submit();
        network.happen();
        let late = network.weather.late;
        for report in std::mem::take(&mut network.reports) {
            if network.random.chance(late) {
                network.reports.push(report);
                continue;
            }
            match network.owners.get(&report.key.slot) {
                Some(&generation) if generation == report.key.generation => {}
                Some(_) => network.tally.stale_reused += 1,
                None => network.tally.stale += 1,
            }
            ready.push(report);
        }
        if network.random.chance(300) {
            ready.reverse();
        }
    }

    fn receive(&mut self, batch: &mut [Receive<'_, SimulatedSocket>]) {
        let mut network = self.0.borrow_mut();
        network.submit();
        let mut named = HashSet::new();
        for entry in batch {
            network.happen();
            let room = entry.buffer.capacity() - entry.buffer.len();
            assert!(room > 0, "a receive entry needs room");
            let room = room.min(Receive::<SimulatedSocket>::BYTES_MAX);
            assert!(named.insert(entry.socket.line), "a receive batch names a socket twice");
            network.line(entry.socket);
            entry.result = network.receive_one(entry.socket.line, room).map(|received| {
                entry.buffer.extend_from_slice(&received);
                network.tally.bytes_received += received.len() as u64;
                received.len()
            });
        }
    }

    fn send(&mut self, batch: &[SendEntry<'_, SimulatedSocket>], refused: &mut Vec<Unsent>) {
        let mut network = self.0.borrow_mut();
        network.submit();
        let mut named = HashSet::new();
        for (index, entry) in batch.iter().enumerate() {
            network.happen();
            assert!(named.insert(entry.socket.line), "a send batch names line {} twice", entry.socket.line);
            let pieces = entry.pieces.len();
            assert!((1..=SendEntry::<SimulatedSocket>::PIECES_MAX).contains(&pieces), "a send of {pieces} pieces");
            assert!(entry.pieces.iter().all(|piece| !piece.is_empty()), "an empty piece");
            network.line(entry.socket).offers += 1;
            let length: usize = entry.pieces.iter().map(|piece| piece.len()).sum();
            let sent = network.send_one(entry.socket.line, entry.pieces);
            network.offered.add(length);
            network.tally.sends += 1;
            let count = *sent.as_ref().unwrap_or(&0);
            network.tally.bytes_sent += count as u64;
            if count < length {
                let is_error = network.lines[entry.socket.line].arrived_end == Some(End::Reset);
                network.tally.short_sends += u64::from(!is_error);
                refused.push(Unsent { index, sent });
            }
        }
        if network.random.chance(300) {
            refused.reverse();
        }
    }

    fn addresses(&self, _socket: &SimulatedSocket) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (None, None)
    }

    fn finish(&mut self, socket: &SimulatedSocket) {
        let mut network = self.0.borrow_mut();
        let line = network.line(socket);
        assert!(!line.finished, "a socket is finished twice");
        line.finished = true;
        let may_end = line.stream.has_ended() || line.end_received;
        assert!(may_end, "line {} is finished before its close frame is out", socket.line);
    }

    fn unacknowledged(&self, socket: &SimulatedSocket) -> usize {
        self.0.borrow_mut().line(socket).sent.len()
    }

    fn reset(&mut self, socket: &SimulatedSocket) {
        self.0.borrow_mut().line(socket).reset = true;
    }
}

impl Drop for SimulatedSocket {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut network = self.network.borrow_mut();
        let is_over = network.is_over;
        let line = &mut network.lines[self.line];
        line.dropped = true;
        // A poll that is still armed would hold the socket open.
        assert!(line.disarmed || is_over, "line {} is dropped while polls watch it", self.line);
        assert!(
            line.reset || line.sent.is_empty() || is_over,
            "the kernel keeps what line {} does not take",
            self.line
        );
        if line.reset {
            line.sent.clear();
        }
        let cut_off = !line.finished && !line.end_received && !is_over;
        network.tally.cut_off += u64::from(cut_off);
    }
}
