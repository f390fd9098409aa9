//! A network whose behaviour one seed decides: sockets, the bytes that are on their way on each, and the polls that
//! watch them.
//!
//! The network does what Linux may do, at the worst moment that chance finds: reports come late or more than once, and
//! one report may have several causes; a multishot poll ends by itself; a receive finds nothing although input was
//! announced; a receive ends in front of an urgent byte, which is not reported again; a send takes a part, or is
//! refused for lack of memory; bytes, ends and resets arrive in the middle of a turn. The network never loses a
//! report of an armed poll, so a shard that hangs in a run has forgotten something.

use std::{collections::HashMap, io, mem};

use super::{
    line::{End, Line, take_front},
    random::Random,
    socket::is_failure,
    tally::{Offered, Tally},
};
use crate::sys::{Key, Readiness};

/// The faults of the network: chances per mille, all 0 once the clients only wait for their messages.
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

/// The lines of all connections, and the polls that watch them.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) random: Random,
    pub(super) weather: Weather,
    /// The lines of all connections that there have been.
    pub(super) lines: Vec<Line>,
    /// Lines on which something can still happen.
    pub(super) active: Vec<usize>,
    pub(super) tally: Tally,
    pub(super) offered: Offered,
    /// The shard's entries since the last submission.
    pub(super) asked: Vec<Asked>,
    /// Multishot polls for input.
    inputs: HashMap<Key, usize>,
    /// One-shot polls for room.
    rooms: HashMap<Key, usize>,
    pub(super) reports: Vec<Readiness>,
    /// The layer above the sockets has something to report by itself.
    pub(super) has_layer_reports: bool,
    /// The generations of the slots' present owners.
    pub(super) owners: HashMap<u32, u32>,
    /// No socket takes anything, although it has room.
    pub(super) is_short_of_memory: bool,
    /// The run is over: sockets may be dropped in any state.
    pub(super) is_over: bool,
}

/// A shard's entry for its ring.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    /// A multishot poll for the input of a line.
    Input(Key, usize),
    /// A one-shot poll for room on a line.
    Room(Key, usize),
    /// The end of both polls.
    Removal(Key),
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
            has_layer_reports: false,
            owners: HashMap::new(),
            is_short_of_memory: false,
            is_over: false,
        }
    }

    /// Returns whether the ring has something to report.
    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty() || self.has_layer_reports
    }

    /// Returns whether input of the line, or its end, is about to be reported.
    pub(super) fn has_input_report(&self, number: usize) -> bool {
        let key = self.lines[number].key;
        self.reports.iter().any(|report| report.readable && Some(report.key) == key)
    }

    /// Returns whether all of the shard's entries are under way.
    pub(super) fn has_submitted(&self) -> bool {
        self.asked.is_empty()
    }

    /// Returns whether everything has arrived that can.
    pub(super) fn is_quiet(&self) -> bool {
        !self.has_reports() && self.active.iter().all(|&number| self.lines[number].is_quiet())
    }

    /// Lets up to `most` bytes, and then the end, arrive at the server.
    pub(super) fn arrive(&mut self, number: usize, most: usize) {
        let mut something = self.arrive_bytes(number, most) > 0;
        let line = &mut self.lines[number];
        if !line.has_on_the_way() && line.arrived_end != line.end && line.arrived_end != Some(End::Reset) {
            line.arrived_end = line.end;
            something = true;
            if line.end != Some(End::Finished) {
                line.sent.clear();
            }
            if line.end == Some(End::Reset) && self.random.chance(500) {
                let line = &mut self.lines[number];
                line.is_lost |= !line.arrived.is_empty();
                line.arrived.clear();
            }
        }
        if something {
            self.report_input(number);
        }
        if matches!(self.lines[number].arrived_end, Some(End::Closed | End::Reset)) {
            self.report_room(number);
        }
    }

    /// Lets up to `most` bytes arrive at the server, in records if the line has some. Returns how many bytes the socket
    /// gets.
    fn arrive_bytes(&mut self, number: usize, most: usize) -> usize {
        let line = &mut self.lines[number];
        let count = most.min(line.on_the_way.len());
        let Some(sealing) = &mut line.sealing else {
            line.arrived.extend(take_front(&mut line.on_the_way, count));
            return count;
        };
        let bytes = take_front(&mut line.on_the_way, count);
        sealing.seal(&bytes, &mut self.random);
        if line.on_the_way.is_empty() && line.end == Some(End::Finished) && self.random.chance(300) {
            sealing.say_goodbye();
        }
        let all = sealing.on_the_way.len();
        let count = if most == usize::MAX { all } else { self.random.within(0..=all) };
        line.arrived.extend(take_front(&mut sealing.on_the_way, count));
        count
    }

    /// Lets the client fetch up to `most` bytes that it was sent.
    pub(super) fn fetch(&mut self, number: usize, most: usize) {
        let line = &mut self.lines[number];
        let count = most.min(line.sent.len());
        let fetched = take_front(&mut line.sent, count);
        match &mut line.sealing {
            Some(sealing) => line.fetched.extend_from_slice(&sealing.fetch(&fetched)),
            None => line.fetched.extend(fetched),
        }
        if line.sent.is_empty() && line.finished && line.arrived_end.is_some() {
            // The connection is over for both sides, which the poll for input reports.
            self.report_input(number);
        }
        self.report_room(number);
    }

    /// Lets something happen on one of the lines, or nothing.
    pub(super) fn happen(&mut self) {
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

    /// Takes over the entries in `asked`, in order, like a submission.
    pub(super) fn submit(&mut self) {
        for asked in mem::take(&mut self.asked) {
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

    /// Reports input, an end, or nothing at all, if a poll watches the line.
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

    /// Reports room if it is awaited and there is enough of it.
    fn report_room(&mut self, number: usize) {
        let line = &self.lines[number];
        let Some(key) = line.key.filter(|key| self.rooms.contains_key(key)) else { return };
        let hung_up = line.arrived_end == Some(End::Reset);
        if line.has_room() || hung_up {
            self.rooms.remove(&key);
            self.reports.push(Readiness { key, readable: false, hung_up, writable: true, disarmed: false });
        }
    }

    /// Returns the line of a socket that the server has.
    pub(super) fn line(&mut self, number: usize) -> &mut Line {
        let line = &mut self.lines[number];
        assert!(!line.dropped, "a socket is used after it was dropped");
        line
    }

    /// Receives up to `room` bytes, or the end. Returns the bytes, and whether the socket says that it has more input.
    pub(super) fn receive_one(&mut self, number: usize, room: usize) -> io::Result<(Vec<u8>, bool)> {
        let short = self.random.chance(self.weather.short_receive);
        let kind = self.random.within(0..=2);
        let line = &mut self.lines[number];
        let most = room.min(line.arrived.len());
        if short && self.random.chance(200) {
            // The socket was not looked at, and the caller has to come again.
            return Err(io::ErrorKind::Interrupted.into());
        }
        let line = &mut self.lines[number];
        if most > 0 && short && line.arrived_end.is_none() {
            let count = if kind == 0 { 0 } else { 1 + (self.random.next() % most as u64) as usize };
            let received = take_front(&mut self.lines[number].arrived, count);
            // The rest arrives a moment later, and is reported. Or it begins with an urgent byte, and no report comes.
            let is_urgent = self.random.chance(500);
            if !is_urgent {
                self.report_input(number);
            }
            self.tally.urgent += u64::from(is_urgent);
            let has_more = is_urgent && !self.lines[number].arrived.is_empty();
            return if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok((received, has_more)) };
        }
        if most > 0 {
            let received = take_front(&mut line.arrived, most);
            return Ok((received, !line.arrived.is_empty() || line.arrived_end.is_some()));
        }
        line.receive_end().map(|()| (Vec::new(), false))
    }

    /// Notes what the shard has received on a line.
    pub(super) fn note_received(&mut self, number: usize, result: &io::Result<usize>) {
        self.tally.bytes_received += *result.as_ref().unwrap_or(&0) as u64;
        self.lines[number].end_received |= match result {
            Ok(count) => *count == 0,
            Err(error) => is_failure(error),
        };
    }

    /// Sends the pieces, or as much of them as the socket takes. Returns how many bytes it took.
    pub(super) fn send_one(&mut self, number: usize, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
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
                let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
                return Err(kinds[(length & 1) & usize::from(!line.reset_reported)].into());
            }
            Some(End::Closed) => {
                // The client reads no more; the reset that answers the bytes arrives some time later.
                let taken: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
                line.witness(&taken);
                line.end = Some(End::Reset);
                if short {
                    self.arrive(number, 0);
                }
                return Ok(length);
            }
            Some(End::Finished) | None => {}
        }
        let count = line.take(pieces, part);
        line.was_short |= count < length;
        if count > 0 {
            return Ok(count);
        }
        // ENOBUFS stands for a kernel without memory, EAGAIN for a socket without room.
        let errors = [rustix::io::Errno::NOBUFS, rustix::io::Errno::AGAIN];
        Err(io::Error::from_raw_os_error(errors[length & 1].raw_os_error()))
    }
}
