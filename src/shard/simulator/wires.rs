//! The sockets of a simulated network below the layer of transports: what the kernel and the hot ring do.

use std::{cell::RefCell, collections::HashSet, io, mem, net::SocketAddr, rc::Rc};

use super::{
    line::End,
    network::{Asked, Network},
    socket::Socket,
};
use crate::sys::{Io, Key, Readiness, Receive, SendEntry, SendLimits, Unsent};

/// The sockets of one shard, simulated, without the layer of transports.
#[derive(Debug)]
pub(super) struct SimulatedWires(pub(super) Rc<RefCell<Network>>);

impl Io for SimulatedWires {
    type Socket = Socket;

    fn arm(&mut self, key: Key, socket: &Socket) {
        let mut network = self.0.borrow_mut();
        let line = network.line(socket.socket().line);
        assert!(line.key.is_none_or(|earlier| earlier == key), "a socket is armed under a second key");
        line.key = Some(key);
        network.owners.insert(key.slot, key.generation);
        network.asked.push(Asked::Input(key, socket.socket().line));
    }

    fn await_room(&mut self, key: Key, socket: &Socket) {
        let mut network = self.0.borrow_mut();
        assert_eq!(network.line(socket.socket().line).key, Some(key), "room is awaited under another key");
        network.asked.push(Asked::Room(key, socket.socket().line));
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
        for report in mem::take(&mut network.reports) {
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
    }

    fn has_reports(&mut self) -> bool {
        !self.0.borrow().reports.is_empty()
    }

    fn receive(&mut self, batch: &mut [Receive<'_, Socket>]) {
        let mut network = self.0.borrow_mut();
        network.submit();
        let mut named = HashSet::new();
        for entry in batch {
            network.happen();
            let room = entry.buffer.capacity() - entry.buffer.len();
            assert!(room > 0, "a receive entry needs room");
            let room = room.min(Receive::<Socket>::BYTES_MAX);
            assert!(named.insert(entry.socket.socket().line), "a receive batch names a socket twice");
            network.line(entry.socket.socket().line);
            entry.result = network.receive_one(entry.socket.socket().line, room).map(|(received, has_more)| {
                entry.buffer.extend_from_slice(&received);
                entry.has_more = has_more;
                received.len()
            });
        }
    }

    fn discard(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        let mut network = self.0.borrow_mut();
        network.submit();
        network.happen();
        network.line(socket.socket().line);
        network.receive_one(socket.socket().line, most).map(|(dropped, _)| dropped.len())
    }

    fn send(&mut self, batch: &[SendEntry<'_, Socket>], refused: &mut Vec<Unsent>) {
        let mut network = self.0.borrow_mut();
        network.submit();
        let mut named = HashSet::new();
        for (index, entry) in batch.iter().enumerate() {
            network.happen();
            let number = entry.socket.socket().line;
            assert!(named.insert(number), "a send batch names line {number} twice");
            let pieces = entry.pieces.len();
            assert!((1..=SendEntry::<Socket>::PIECES_MAX).contains(&pieces), "a send of {pieces} pieces");
            assert!(entry.pieces.iter().all(|piece| !piece.is_empty()), "an empty piece");
            network.line(number).offers += 1;
            let length: usize = entry.pieces.iter().map(|piece| piece.len()).sum();
            let sent = network.send_one(number, entry.pieces);
            if *sent.as_ref().unwrap_or(&0) < length {
                refused.push(Unsent { index, sent });
            }
        }
        if network.random.chance(300) {
            refused.reverse();
        }
    }

    fn addresses(&self, _socket: &Socket) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (None, None)
    }

    fn finish(&mut self, socket: &Socket) {
        let mut network = self.0.borrow_mut();
        let line = network.line(socket.socket().line);
        assert!(!line.finished, "a socket is finished twice");
        line.finished = true;
        let is_over = line.sealing.as_ref().is_none_or(|sealing| sealing.is_over);
        assert!(is_over || line.arrived_end == Some(End::Reset), "a line is finished before its goodbye is out");
    }

    fn unread(&self, socket: &Socket) -> usize {
        self.0.borrow_mut().line(socket.socket().line).arrived.len()
    }

    fn limit_output(&mut self, socket: &Socket, limits: SendLimits) {
        self.0.borrow_mut().line(socket.socket().line).limits = limits;
    }

    fn unacknowledged(&self, socket: &Socket) -> usize {
        self.0.borrow_mut().line(socket.socket().line).sent.len()
    }

    fn reset(&mut self, socket: &Socket) {
        self.0.borrow_mut().line(socket.socket().line).reset = true;
    }
}
