//! Tests of the layer over sockets that take little, refuse, fail and end at every point, beside a plain connection.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use bytes::BytesMut;
use proptest::prelude::*;

use super::{
    receiving::PARTS_MAX,
    sending::{RECORDS_BYTES, contents},
    *,
};
use crate::sys::{
    sealed::{CHUNK_BYTES, OVERHEAD_BYTES_MAX, RECORD_BYTES_MAX, Records as _, UNSENT_BYTES_MAX},
    transport::xor::{Side, Xor, sealed},
};

/// The kernel's side of a connection's socket.
#[derive(Debug, Default)]
struct Wire {
    /// The bytes that the socket still takes.
    room: usize,
    sent: Vec<u8>,
    /// The bytes that have arrived.
    input: VecDeque<u8>,
    /// The bytes in front of an urgent one, at which a receive ends. The first receive at it finds nothing.
    before_urgent: Option<usize>,
    has_input_ended: bool,
    is_broken: bool,
    is_finished: bool,
    is_reset: bool,
    awaited: Option<Key>,
    sends: usize,
}

/// Sockets whose room and input a test decides.
#[derive(Debug, Default)]
struct Wires {
    wires: Vec<Wire>,
    /// Whether the kernel has no memory for output.
    is_short_of_memory: bool,
    /// Whether the next batch of receives is not tried.
    interrupts: bool,
}

#[derive(Debug, Clone)]
struct WireIo(Rc<RefCell<Wires>>);

type Socket = Transport<usize>;

impl Io for WireIo {
    type Socket = Socket;

    fn arm(&mut self, _: Key, _: &Socket) {}

    fn await_room(&mut self, key: Key, socket: &Socket) {
        let earlier = self.0.borrow_mut().wires[*socket.socket()].awaited.replace(key);
        assert_eq!(earlier, None, "room is awaited twice");
    }

    fn disarm(&mut self, _: Key) {}

    fn submit(&mut self) {}

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        for wire in &mut self.0.borrow_mut().wires {
            if wire.room > 0 || wire.is_broken {
                let report = |key| Readiness { key, readable: false, hung_up: false, writable: true, disarmed: false };
                ready.extend(wire.awaited.take().map(report));
            }
        }
    }

    fn has_reports(&mut self) -> bool {
        false
    }

    fn receive(&mut self, batch: &mut [Receive<'_, Socket>]) {
        let mut wires = self.0.borrow_mut();
        let mut named = HashSet::new();
        let interrupts = std::mem::take(&mut wires.interrupts);
        for entry in batch {
            assert!(named.insert(*entry.socket.socket()), "a batch names a socket twice");
            let wire = &mut wires.wires[*entry.socket.socket()];
            let most = (entry.buffer.capacity() - entry.buffer.len()).min(Receive::<Socket>::BYTES_MAX);
            assert!(most > 0, "an entry needs room");
            let before_urgent = wire.before_urgent.unwrap_or(usize::MAX);
            entry.result = match wire.input.len().min(most).min(before_urgent) {
                _ if interrupts => Err(io::ErrorKind::Interrupted.into()),
                0 if before_urgent == 0 => {
                    wire.before_urgent = None;
                    Err(io::ErrorKind::WouldBlock.into())
                }
                0 if wire.is_broken => Err(io::ErrorKind::ConnectionReset.into()),
                0 if wire.has_input_ended => Ok(0),
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => {
                    entry.buffer.extend(wire.input.drain(..count));
                    wire.before_urgent = wire.before_urgent.map(|bytes| bytes - count);
                    entry.has_more = !wire.input.is_empty();
                    Ok(count)
                }
            };
        }
    }

    fn discard(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        let wire = &mut self.0.borrow_mut().wires[*socket.socket()];
        let count = wire.input.len().min(most);
        wire.input.drain(..count);
        if count == 0 && !wire.has_input_ended { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    fn send(&mut self, batch: &[SendEntry<'_, Socket>], refused: &mut Vec<Unsent>) {
        let mut wires = self.0.borrow_mut();
        let is_short_of_memory = wires.is_short_of_memory;
        let mut named = HashSet::new();
        for (index, entry) in batch.iter().enumerate() {
            assert!(named.insert(*entry.socket.socket()), "a batch names a socket twice");
            assert!(!entry.pieces.is_empty() && entry.pieces.iter().all(|piece| !piece.is_empty()), "an empty piece");
            let wire = &mut wires.wires[*entry.socket.socket()];
            wire.sends += 1;
            assert!(!wire.is_finished, "something is sent after the end");
            let bytes: Vec<u8> = entry.pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let taken = bytes.len().min(wire.room);
            if wire.is_broken {
                refused.push(Unsent { index, sent: Err(io::ErrorKind::BrokenPipe.into()) });
            } else if is_short_of_memory {
                refused.push(Unsent { index, sent: Err(io::Error::from_raw_os_error(libc::ENOBUFS)) });
            } else {
                wire.sent.extend(&bytes[..taken]);
                wire.room -= taken;
                if taken < bytes.len() {
                    let sent = if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) };
                    refused.push(Unsent { index, sent });
                }
            }
        }
        // The kernel may report refusals in another order.
        refused.reverse();
    }

    fn addresses(&self, _: &Socket) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (None, None)
    }

    fn finish(&mut self, socket: &Socket) {
        let was_finished = std::mem::replace(&mut self.0.borrow_mut().wires[*socket.socket()].is_finished, true);
        assert!(!was_finished, "a socket is finished twice");
    }

    fn unread(&self, socket: &Socket) -> usize {
        self.0.borrow().wires[*socket.socket()].input.len()
    }

    fn limit_output(&mut self, _: &Socket, _: SendLimits) {}

    fn unacknowledged(&self, _: &Socket) -> usize {
        0
    }

    fn reset(&mut self, socket: &Socket) {
        self.0.borrow_mut().wires[*socket.socket()].is_reset = true;
    }
}

/// A connection as its two ends see it.
struct End {
    /// The client's records; `None` for a plain connection.
    records: Option<Xor>,
    /// Bytes that the layer has taken, and those that the client has read.
    taken: usize,
    read: usize,
    is_over: bool,
    /// Bytes that the client has sent, and those that were received.
    sent: usize,
    received: usize,
    /// Bytes that the client has sent and that have not arrived.
    on_the_way: VecDeque<u8>,
    asked: u64,
    /// Whether the caller waits for room.
    waits: bool,
    /// Whether the kernel has refused the layer's bytes although there was room.
    is_paused: bool,
    is_finished: bool,
    /// Whether input is to be received.
    is_ready: bool,
}

/// A plain connection and two sealed ones.
struct World {
    io: Layered<WireIo>,
    wires: Rc<RefCell<Wires>>,
    sockets: Vec<Socket>,
    ends: Vec<End>,
}

/// Returns whether the transport keeps bytes that the kernel has not taken.
fn has_kept(socket: &Socket) -> bool {
    socket.sealed().is_some_and(|sealed| sealed.kept_bytes() > 0)
}

fn key(number: usize) -> Key {
    Key { slot: number as u32, generation: 7 }
}

/// Returns the byte at a place among the bytes that one end sends.
fn byte(number: usize, at: usize) -> u8 {
    (at % 251) as u8 ^ number as u8
}

fn bytes(number: usize, from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| byte(number, at)).collect()
}

impl World {
    fn new() -> World {
        let wires = Rc::<RefCell<Wires>>::default();
        wires.borrow_mut().wires.extend((0..3).map(|_| Wire { room: usize::MAX, ..Wire::default() }));
        let mut world =
            World { io: Layered::new(WireIo(Rc::clone(&wires))), wires, sockets: Vec::new(), ends: Vec::new() };
        for number in 0..3 {
            let socket = if number == 0 { Transport::Plain(number) } else { sealed(number, Side::Server) };
            world.io.arm(key(number), &socket);
            world.sockets.push(socket);
            world.ends.push(End {
                records: (number > 0).then(|| Xor::new(Side::Client)),
                taken: 0,
                read: 0,
                is_over: false,
                sent: 0,
                received: 0,
                on_the_way: VecDeque::new(),
                asked: 0,
                waits: false,
                is_paused: false,
                is_finished: false,
                is_ready: false,
            });
        }
        world
    }

    fn kept(&self, number: usize) -> usize {
        self.sockets[number].sealed().map_or(0, SealedSocket::kept_bytes)
    }

    /// Offers so many bytes in pieces to each of these connections, in one batch, as a caller that waits for room does.
    fn send(&mut self, offers: &[(usize, Vec<usize>)]) {
        let mut offers = offers.to_vec();
        offers.sort_unstable();
        offers.dedup_by_key(|(number, _)| *number);
        offers.retain(|(number, pieces)| {
            !self.ends[*number].waits && !self.ends[*number].is_finished && !pieces.is_empty()
        });
        let pieces: Vec<Vec<Vec<u8>>> = offers
            .iter()
            .map(|(number, lengths)| {
                let mut at = self.ends[*number].taken;
                let piece = |&length: &usize| (bytes(*number, at, length), at += length).0;
                lengths.iter().map(piece).collect()
            })
            .collect();
        let slices: Vec<Vec<IoSlice<'_>>> =
            pieces.iter().map(|pieces| pieces.iter().map(|piece| IoSlice::new(piece)).collect()).collect();
        let batch: Vec<SendEntry<'_, Socket>> = offers
            .iter()
            .zip(&slices)
            .map(|((number, _), pieces)| SendEntry { socket: &self.sockets[*number], pieces })
            .collect();
        let mut refused = Vec::new();
        self.io.send(&batch, &mut refused);
        let mut named = HashSet::new();
        for (index, (number, lengths)) in offers.iter().enumerate() {
            let end = &mut self.ends[*number];
            let length: usize = lengths.iter().sum();
            let mut outcomes = refused.iter_mut().filter(|entry| entry.index == index);
            let outcome = outcomes.next().map(|entry| std::mem::replace(&mut entry.sent, Ok(0)));
            assert!(outcomes.next().is_none() && named.insert(*number), "an entry is refused twice");
            match outcome.map(Unsent::taken) {
                None => end.taken += length,
                Some(Ok(count)) => {
                    assert!(count < length, "what is taken whole is not refused");
                    end.taken += count;
                    end.waits = true;
                    self.io.await_room(key(*number), &self.sockets[*number]);
                }
                Some(Err(_)) => {
                    assert!(self.wires.borrow().wires[*number].is_broken, "a socket fails that has not");
                    // From now on the connection has only input.
                    end.is_finished = true;
                }
            }
        }
    }

    /// Lets the client send so many bytes, in one record if it sends records.
    fn write(&mut self, number: usize, count: usize) {
        let end = &mut self.ends[number];
        let bytes = bytes(number, end.sent, count);
        end.sent += count;
        match &mut end.records {
            Some(records) if count > 0 => {
                let mut sealed = Vec::new();
                records.seal(&bytes, &mut sealed);
                end.on_the_way.extend(sealed);
            }
            _ => end.on_the_way.extend(bytes),
        }
    }

    fn ask(&mut self, number: usize) {
        let end = &mut self.ends[number];
        if let Some(records) = &mut end.records {
            let mut sealed = Vec::new();
            records.ask(&mut sealed);
            end.asked += 1;
            end.on_the_way.extend(sealed);
        }
    }

    fn arrive(&mut self, number: usize, count: usize) {
        let end = &mut self.ends[number];
        let count = count.min(end.on_the_way.len());
        self.wires.borrow_mut().wires[number].input.extend(end.on_the_way.drain(..count));
        end.is_ready |= count > 0;
    }

    /// Receives once from each connection whose input was announced, into buffers with so much room.
    fn receive(&mut self, room: usize) {
        let ready: Vec<usize> = (0..3).filter(|&number| self.ends[number].is_ready).collect();
        let mut buffers: Vec<BytesMut> = ready.iter().map(|_| BytesMut::with_capacity(room)).collect();
        let sockets = &self.sockets;
        let entry = |(&number, buffer)| Receive::new(&sockets[number], buffer);
        let mut batch: Vec<Receive<'_, Socket>> = ready.iter().zip(&mut buffers).map(entry).collect();
        self.io.receive(&mut batch);
        let results: Vec<io::Result<usize>> = batch.into_iter().map(|entry| entry.result).collect();
        for ((&number, buffer), result) in ready.iter().zip(&buffers).zip(results) {
            let end = &mut self.ends[number];
            let count = match result {
                Ok(count) => count,
                Err(error) => {
                    end.is_ready = error.kind() == io::ErrorKind::Interrupted;
                    assert!(matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock), "{error}");
                    0
                }
            };
            assert_eq!(buffer[..], bytes(number, end.received, count), "the input of connection {number}");
            end.received += count;
            if count > 0 {
                end.is_ready = buffer.len() == buffer.capacity();
            }
        }
    }

    /// Reads what each client was sent, and takes the reports.
    fn step(&mut self) {
        let mut ready = Vec::new();
        self.io.reap(&mut ready);
        for Readiness { key, readable, writable, .. } in ready {
            let number = key.slot as usize;
            let end = &mut self.ends[number];
            end.is_ready |= readable;
            if writable {
                match self.io.resume(key, &self.sockets[number]) {
                    Resumed::Room => end.waits = false,
                    Resumed::Nothing => {}
                    Resumed::Refused => end.is_paused = true,
                }
            }
        }
        for (number, end) in self.ends.iter_mut().enumerate() {
            let wire = &mut self.wires.borrow_mut().wires[number];
            let mut sent = std::mem::take(&mut wire.sent);
            let mut opened = BytesMut::new();
            if let Some(records) = &mut end.records {
                let outcome = records.open(&mut sent, &mut opened, &mut Vec::new()).expect("the records are in order");
                assert!(!end.is_over || outcome.bytes == 0, "something follows the goodbye");
                end.is_over |= outcome.is_last;
                wire.sent = sent.split_off(outcome.bytes);
            } else {
                opened.extend_from_slice(&sent);
            }
            assert_eq!(opened[..], bytes(number, end.read, opened.len()), "the output of connection {number}");
            end.read += opened.len();
            assert!(end.read <= end.taken, "more is read than was taken");
        }
        for number in 0..3 {
            let (kept, end) = (self.kept(number), &self.ends[number]);
            assert!(kept <= UNSENT_BYTES_MAX, "{kept} bytes are kept");
            let is_awaited = self.wires.borrow().wires[number].awaited.is_some();
            assert!(kept == 0 || is_awaited || end.is_paused, "what is kept waits for nothing");
            assert!(kept == 0 || self.io.has_unsent(&self.sockets[number]));
        }
    }

    /// Lets the paused connections try again, as a shard does in the next tick.
    fn retry(&mut self) {
        for (number, end) in self.ends.iter_mut().enumerate() {
            if std::mem::take(&mut end.is_paused) {
                self.io.retry(&self.sockets[number]);
                end.waits = false;
            }
        }
    }

    fn finish(&mut self, number: usize) {
        let end = &mut self.ends[number];
        if !end.is_finished && !end.waits {
            end.is_finished = true;
            self.io.finish(&self.sockets[number]);
        }
    }

    /// Lets everything go on to its end, and checks that everything has arrived.
    fn settle(&mut self) {
        {
            let mut wires = self.wires.borrow_mut();
            (wires.is_short_of_memory, wires.interrupts) = (false, false);
            wires.wires.iter_mut().for_each(|wire| wire.room = usize::MAX);
        }
        for _ in 0..10 {
            (0..3).for_each(|number| self.arrive(number, usize::MAX));
            self.retry();
            self.step();
            while self.ends.iter().any(|end| end.is_ready) {
                self.receive(5_000);
                self.step();
            }
        }
        for (number, end) in self.ends.iter().enumerate() {
            assert!(!end.waits && !end.is_paused, "connection {number} waits for room that is there");
            assert_eq!((end.read, end.received), (end.taken, end.sent), "connection {number}");
            assert_eq!(self.kept(number), 0);
            let (is_finished, is_over) = (self.wires.borrow().wires[number].is_finished, end.is_over);
            assert_eq!((is_finished, is_over), (end.is_finished, end.is_finished && number > 0), "its end");
            let answered = end.records.as_ref().map_or(0, |records| records.answered);
            assert!(answered == end.asked || end.is_finished, "{answered} of {} questions are answered", end.asked);
            assert!(!self.io.has_unsent(&self.sockets[number]));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<(usize, Vec<usize>)>),
    Room(usize, usize),
    Memory(bool),
    Interrupt,
    Write(usize, usize),
    Ask(usize),
    Arrive(usize, usize),
    Receive(usize),
    Retry,
    Finish(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![4 => 1_usize..50, 1 => 1_000_usize..40_000];
    let pieces = prop::collection::vec(length.clone(), 1..6);
    let room = prop_oneof![2 => Just(0_usize), 3 => 1_usize..200, 1 => 10_000_usize..60_000, 1 => Just(usize::MAX)];
    let step = prop_oneof![
        6 => prop::collection::vec((0_usize..3, pieces), 1..4).prop_map(Step::Send),
        5 => (0_usize..3, room).prop_map(|(number, room)| Step::Room(number, room)),
        1 => any::<bool>().prop_map(Step::Memory),
        1 => Just(Step::Interrupt),
        4 => (0_usize..3, prop_oneof![1_usize..60, Just(RECORD_BYTES_MAX)]).prop_map(|(n, most)| Step::Write(n, most)),
        2 => (0_usize..3).prop_map(Step::Ask),
        6 => (0_usize..3, prop_oneof![1_usize..9, 1_usize..40_000]).prop_map(|(n, count)| Step::Arrive(n, count)),
        6 => prop_oneof![1_usize..40, 1_000_usize..90_000].prop_map(Step::Receive),
        2 => Just(Step::Retry),
        1 => (0_usize..3).prop_map(Step::Finish),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the sockets take, refuse or interrupt: each connection's bytes arrive once and in order on both ways,
    /// what is kept is bounded and waits for room, and the goodbye and the end come after everything.
    #[test]
    fn every_byte_arrives_once_and_in_order(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Send(offers) => world.send(&offers),
                Step::Room(number, room) => world.wires.borrow_mut().wires[number].room = room,
                Step::Memory(is_short) => world.wires.borrow_mut().is_short_of_memory = is_short,
                Step::Interrupt => world.wires.borrow_mut().interrupts = true,
                Step::Write(number, count) => world.write(number, count),
                Step::Ask(number) => world.ask(number),
                Step::Arrive(number, count) => world.arrive(number, count),
                Step::Receive(room) => world.receive(room),
                Step::Retry => world.retry(),
                Step::Finish(number) => world.finish(number),
            }
            world.step();
        }
        world.settle();
    }
}

/// A batch without sealed connections goes down as it is: the same entries, in one call.
#[test]
fn a_plain_batch_goes_straight_through() {
    let wires = Rc::<RefCell<Wires>>::default();
    wires.borrow_mut().wires.extend((0..2).map(|_| Wire { room: 10, ..Wire::default() }));
    let mut io = Layered::new(WireIo(Rc::clone(&wires)));
    let sockets = [0, 1].map(Transport::Plain);
    let pieces = [IoSlice::new(b"0123"), IoSlice::new(b"456789ab")];
    let mut refused = Vec::new();
    io.send(&[0, 1].map(|at: usize| SendEntry { socket: &sockets[at], pieces: &pieces[..=at] }), &mut refused);
    assert!(matches!(refused[..], [Unsent { index: 1, sent: Ok(10) }]));
    assert_eq!(io.resume(key(1), &sockets[1]), Resumed::Room);
    assert!(!has_kept(&sockets[1]) && !io.has_reports());
}

/// A connection that takes everything is offered everything, one record after the other; a plain one beside it is
/// offered its entry once.
#[test]
fn a_long_entry_is_sent_in_records() {
    let mut world = World::new();
    world.send(&[(0, vec![100_000]), (1, vec![3 * RECORD_BYTES_MAX, 5, 5]), (2, vec![1; 100])]);
    world.step();
    let sends: Vec<usize> = world.wires.borrow().wires.iter().map(|wire| wire.sends).collect();
    assert_eq!(sends, [1, 4, 1]);
    world.settle();
}

/// More records than stay in the processor's cache are sent in several parts.
#[test]
fn the_memory_of_a_batch_is_bounded() {
    let mut world = World::new();
    for _ in 0..3 {
        world.send(&[(1, vec![20 * RECORD_BYTES_MAX]), (2, vec![20 * RECORD_BYTES_MAX])]);
        world.step();
    }
    assert!(world.io.records.capacity() <= 2 * (RECORDS_BYTES + RECORD_BYTES_MAX + OVERHEAD_BYTES_MAX));
    world.settle();
}

/// Sealed bytes cannot be taken back: they count as sent although the kernel has taken none of them, and newer bytes
/// are refused until it has.
#[test]
fn bytes_that_are_kept_count_as_sent_and_go_first() {
    let mut world = World::new();
    world.wires.borrow_mut().wires[1].room = 0;
    world.send(&[(1, vec![10])]);
    assert_eq!((world.ends[1].taken, world.ends[1].waits, world.kept(1)), (10, false, 13));
    world.send(&[(1, vec![10])]);
    assert_eq!((world.ends[1].taken, world.ends[1].waits, world.kept(1)), (10, true, 13));
    assert_eq!(world.io.unacknowledged(&world.sockets[1]), 13);
    world.wires.borrow_mut().wires[1].room = 12;
    world.step();
    assert_eq!((world.ends[1].waits, world.kept(1)), (true, 1));
    world.wires.borrow_mut().wires[1].room = 1;
    world.step();
    assert_eq!((world.ends[1].waits, world.kept(1), world.ends[1].read), (false, 0, 10));
    world.settle();
}

/// Of a long entry only a record is kept, and the caller learns how much was taken.
#[test]
fn one_record_is_kept_at_most() {
    let mut world = World::new();
    world.wires.borrow_mut().wires[1].room = 5;
    world.send(&[(1, vec![1_000; 100])]);
    assert_eq!((world.ends[1].taken, world.ends[1].waits), (RECORD_BYTES_MAX, true));
    assert_eq!(world.kept(1), RECORD_BYTES_MAX + 3 - 5);
    world.settle();
}

/// A kernel without memory reports room and takes nothing: the layer does not ask again by itself, turn after turn.
#[test]
fn a_refusal_in_spite_of_room_is_passed_on() {
    let mut world = World::new();
    world.wires.borrow_mut().is_short_of_memory = true;
    world.send(&[(1, vec![10])]);
    world.step();
    assert!(world.ends[1].is_paused && world.wires.borrow().wires[1].awaited.is_none());
    world.retry();
    world.step();
    assert!(world.ends[1].is_paused);
    world.settle();
}

/// The goodbye goes after what is kept, and the FIN after the goodbye.
#[test]
fn the_end_waits_for_what_is_kept() {
    let mut world = World::new();
    world.wires.borrow_mut().wires[1].room = 0;
    world.send(&[(1, vec![10])]);
    world.finish(1);
    world.step();
    assert!(!world.wires.borrow().wires[1].is_finished);
    assert_eq!(world.io.unacknowledged(&world.sockets[1]), 13 + 3 + 1, "the end counts as one");
    world.wires.borrow_mut().wires[1].room = 15;
    world.step();
    assert!(!world.wires.borrow().wires[1].is_finished && !world.ends[1].is_over);
    world.settle();
}

/// In every state a reset drops what is kept, and a failure of the socket does so too; the next send shows the failure.
#[test]
fn nothing_is_kept_of_a_connection_that_is_lost() {
    for (room, finishes) in [(0, false), (7, false), (0, true), (11, true)] {
        for breaks in [false, true] {
            let mut world = World::new();
            world.wires.borrow_mut().wires[1].room = room;
            world.send(&[(1, vec![10])]);
            if finishes {
                world.finish(1);
            }
            if breaks {
                world.wires.borrow_mut().wires[1].is_broken = true;
                let mut ready = Vec::new();
                world.io.reap(&mut ready);
                assert_eq!(world.io.resume(key(1), &world.sockets[1]), Resumed::Nothing);
                assert_eq!(world.wires.borrow().wires[1].is_finished, finishes, "the end is due at once");
                if !finishes {
                    let mut refused = Vec::new();
                    let entry = SendEntry { socket: &world.sockets[1], pieces: &[IoSlice::new(b"more")] };
                    world.io.send(&[entry], &mut refused);
                    assert!(matches!(&refused[..], [Unsent { index: 0, sent: Err(error) }]
                        if error.kind() == io::ErrorKind::BrokenPipe));
                }
            } else {
                world.io.disarm(key(1));
                world.io.reset(&world.sockets[1]);
                assert!(world.wires.borrow().wires[1].is_reset && world.io.sealed.len() == 1);
            }
            assert!(!has_kept(&world.sockets[1]) && !world.io.has_unsent(&world.sockets[1]));
        }
    }
}

fn receive_one(world: &mut World, room: usize) -> (Result<usize, io::ErrorKind>, BytesMut) {
    let mut buffer = BytesMut::with_capacity(room);
    let mut batch = [Receive::new(&world.sockets[1], &mut buffer)];
    world.io.receive(&mut batch);
    let [Receive { result, .. }] = batch;
    (result.map_err(|error| error.kind()), buffer)
}

fn reports(world: &mut World) -> Vec<(bool, bool)> {
    let mut ready = Vec::new();
    world.io.reap(&mut ready);
    ready.into_iter().map(|report| (report.readable, report.hung_up)).collect()
}

/// A receive ends in front of an urgent byte, and there the kernel may even say that there is no input. The layer goes
/// on, or says that there is more.
#[test]
fn an_urgent_byte_in_a_record_leaves_nothing_behind() {
    for before_urgent in 1..60 {
        let mut world = World::new();
        (0..3).for_each(|_| world.write(1, 10));
        world.arrive(1, usize::MAX);
        world.wires.borrow_mut().wires[1].before_urgent = Some(before_urgent);
        let mut received = 0;
        for _ in 0..3 {
            let mut buffer = BytesMut::with_capacity(1_000);
            let mut batch = [Receive::new(&world.sockets[1], &mut buffer)];
            world.io.receive(&mut batch);
            let [Receive { result, has_more, .. }] = batch;
            received += result.unwrap_or_default();
            // The caller itself asks about a socket without input.
            if received > 0 && !has_more {
                break;
            }
        }
        assert_eq!(received, 30, "{before_urgent} bytes in front of the urgent one");
    }
}

/// The end of the input comes after its last byte: the peer's goodbye, which no report of the socket announces; its
/// FIN, also in the middle of a record; a failure, once.
#[test]
fn the_end_of_the_input_stands_after_its_last_byte() {
    let mut world = World::new();
    world.write(1, 10);
    let mut goodbye = Vec::new();
    world.ends[1].records.as_mut().unwrap().say_goodbye(&mut goodbye);
    world.ends[1].on_the_way.extend(goodbye);
    world.arrive(1, usize::MAX);
    assert_eq!(receive_one(&mut world, 100).0, Ok(10));
    assert!(world.io.has_reports());
    assert_eq!(reports(&mut world), [(true, true)]);
    assert_eq!([receive_one(&mut world, 100).0, receive_one(&mut world, 100).0], [Ok(0), Ok(0)]);
    assert_eq!(world.io.discard(&world.sockets[1], 100).map_err(|error| error.kind()), Ok(0));

    let mut world = World::new();
    world.write(1, 10);
    world.write(1, 10);
    world.arrive(1, 20);
    world.wires.borrow_mut().wires[1].has_input_ended = true;
    assert_eq!(receive_one(&mut world, 100).0, Ok(10));
    assert_eq!(receive_one(&mut world, 100).0, Ok(0));

    let mut world = World::new();
    world.write(1, 10);
    world.arrive(1, 5);
    world.wires.borrow_mut().wires[1].is_broken = true;
    assert_eq!(receive_one(&mut world, 100).0, Err(io::ErrorKind::ConnectionReset));
    assert_eq!(receive_one(&mut world, 100).0, Ok(0));
}

/// A receive that could not be tried after bytes that were opened earlier is tried again, since the socket does not
/// report its input once more.
#[test]
fn an_interruption_after_opened_bytes_is_reported() {
    let mut world = World::new();
    world.write(1, 10);
    world.arrive(1, usize::MAX);
    assert_eq!(receive_one(&mut world, 4).0, Ok(4));
    world.write(1, 10);
    world.arrive(1, usize::MAX);
    world.wires.borrow_mut().interrupts = true;
    assert_eq!(receive_one(&mut world, 100).0, Ok(6));
    assert_eq!(reports(&mut world), [(true, false)]);
    world.wires.borrow_mut().interrupts = true;
    assert_eq!(receive_one(&mut world, 100).0, Err(io::ErrorKind::Interrupted));
    assert_eq!(receive_one(&mut world, 100).0, Ok(10));
}

/// Bytes that are no record end the connection's input with an error, after the records before them.
#[test]
fn a_peer_that_breaks_the_records_is_lost() {
    let mut world = World::new();
    world.write(1, 10);
    world.ends[1].on_the_way.extend([0; 3]);
    world.arrive(1, usize::MAX);
    assert_eq!(receive_one(&mut world, 100).0, Ok(10));
    assert_eq!(reports(&mut world), [(true, true)]);
    assert_eq!(receive_one(&mut world, 100).0, Err(io::ErrorKind::InvalidData));
}

/// A peer that asks and does not take the answers is lost before they need memory without a limit.
#[test]
fn answers_that_are_not_taken_are_bounded() {
    let mut world = World::new();
    world.wires.borrow_mut().wires[1].room = 0;
    let mut outcome = Err(io::ErrorKind::WouldBlock);
    for _ in 0..UNSENT_BYTES_MAX {
        world.ask(1);
        world.arrive(1, usize::MAX);
        outcome = receive_one(&mut world, 100).0;
        if outcome != Err(io::ErrorKind::WouldBlock) {
            break;
        }
    }
    assert_eq!(outcome, Err(io::ErrorKind::InvalidData));
    assert!(world.kept(1) <= UNSENT_BYTES_MAX);
}

/// Records without contents are no input: after a bounded number of them the caller has to try again, so that other
/// connections have their turn.
#[test]
fn records_without_contents_are_received_in_bounded_parts() {
    let mut world = World::new();
    for _ in 0..PARTS_MAX * CHUNK_BYTES / 3 {
        world.ask(1);
    }
    world.write(1, 10);
    world.arrive(1, usize::MAX);
    assert_eq!(receive_one(&mut world, 100).0, Err(io::ErrorKind::Interrupted));
    assert_eq!(receive_one(&mut world, 100).0, Ok(10));
}

/// Bytes that a connection brings from a task that had its socket alone are sent or reported once the connection is
/// armed.
#[test]
fn what_came_before_is_sent_and_reported() {
    let mut world = World::new();
    world.wires.borrow_mut().wires.push(Wire::default());
    let socket = sealed(3, Side::Server);
    let mut client = Xor::new(Side::Client);
    let mut record = Vec::new();
    client.seal(b"early", &mut record);
    socket.sealed().unwrap().with(|state| {
        state.open(BytesMut::from(&record[..]));
        let mut unsent = Vec::new();
        state.seal(b"answer", &mut unsent);
        state.keep(&unsent);
    });
    world.io.arm(key(3), &socket);
    assert!(world.io.has_reports() && world.wires.borrow().wires[3].awaited == Some(key(3)));
    assert_eq!(world.io.unread(&socket), 5);
    assert_eq!(reports(&mut world), [(true, false)]);
    // A poll that has ended is armed again, and nothing else is repeated.
    world.io.arm(key(3), &socket);
    assert!(!world.io.has_reports());
    assert_eq!(world.io.discard(&socket, 3).map_err(|error| error.kind()), Ok(3));
    assert_eq!(world.io.discard(&socket, 3).map_err(|error| error.kind()), Ok(2));
    assert_eq!(world.io.discard(&socket, 3).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
}

/// The contents of a record are taken as they stand in memory, or gathered from pieces.
#[test]
fn the_contents_of_a_record() {
    let large = vec![7; RECORD_BYTES_MAX + 1];
    let pieces = [&b"ab"[..], b"cde", &large, b"f"].map(IoSlice::new);
    let mut scratch = Vec::new();
    let mut of = |begin, pieces: &[IoSlice<'_>]| contents(pieces, begin, &mut scratch).to_vec();
    assert_eq!(of(0, &pieces[..2]), b"abcde");
    assert_eq!(of(1, &pieces[..2]), b"bcde");
    assert_eq!(of(2, &pieces[..2]), b"cde");
    assert_eq!(of(4, &pieces[..2]), b"e");
    assert_eq!(of(0, &pieces).len(), RECORD_BYTES_MAX);
    assert_eq!(of(5, &pieces), large[1..]);
    assert_eq!(of(5 + RECORD_BYTES_MAX, &pieces), b"\x07f");
    assert!(of(5, &pieces[..2]).is_empty());
}
