//! The sockets of a shard on a simulated network.

use std::{cell::RefCell, collections::HashSet, io, mem, net::SocketAddr, rc::Rc, thread};

use super::{
    line::{End, Line},
    network::{Asked, Network},
};
use crate::sys::{Io, Key, Readiness, Receive, SendEntry, Unsent};

/// The server's end of a [`Line`].
#[derive(Debug)]
pub(super) struct SimulatedSocket {
    line: usize,
    network: Rc<RefCell<Network>>,
}

/// The sockets of one shard, simulated.
#[derive(Debug)]
pub(super) struct SimulatedIo(pub(super) Rc<RefCell<Network>>);

impl SimulatedSocket {
    /// Returns the server's end of a new line; see [`Line::new`].
    pub(super) fn connect(network: &Rc<RefCell<Network>>, answer: &[u8], room: usize) -> Self {
        let mut this = network.borrow_mut();
        this.lines.push(Line::new(answer, room));
        let line = this.lines.len() - 1;
        this.active.push(line);
        SimulatedSocket { line, network: Rc::clone(network) }
    }
}

impl Io for SimulatedIo {
    type Socket = SimulatedSocket;

    fn arm(&mut self, key: Key, socket: &SimulatedSocket) {
        let mut network = self.0.borrow_mut();
        let line = network.line(socket.line);
        assert!(line.key.is_none_or(|earlier| earlier == key), "a socket is armed under a second key");
        line.key = Some(key);
        network.owners.insert(key.slot, key.generation);
        network.asked.push(Asked::Input(key, socket.line));
    }

    fn await_room(&mut self, key: Key, socket: &SimulatedSocket) {
        let mut network = self.0.borrow_mut();
        assert_eq!(network.line(socket.line).key, Some(key), "room is awaited under another key");
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
            network.line(entry.socket.line);
            entry.result = network.receive_one(entry.socket.line, room).map(|received| {
                entry.buffer.extend_from_slice(&received);
                network.tally.bytes_received += received.len() as u64;
                received.len()
            });
        }
    }

    fn discard(&mut self, socket: &SimulatedSocket, most: usize) -> io::Result<usize> {
        let mut network = self.0.borrow_mut();
        network.submit();
        network.happen();
        network.line(socket.line);
        let dropped = network.receive_one(socket.line, most)?.len();
        network.tally.bytes_received += dropped as u64;
        Ok(dropped)
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
            network.line(entry.socket.line).offers += 1;
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
        let line = network.line(socket.line);
        assert!(!line.finished, "a socket is finished twice");
        line.finished = true;
        let may_end = line.stream.has_ended() || line.end_received;
        assert!(may_end, "line {} is finished before its close frame is out", socket.line);
    }

    fn unread(&self, socket: &SimulatedSocket) -> usize {
        self.0.borrow_mut().line(socket.line).arrived.len()
    }

    fn unacknowledged(&self, socket: &SimulatedSocket) -> usize {
        self.0.borrow_mut().line(socket.line).sent.len()
    }

    fn reset(&mut self, socket: &SimulatedSocket) {
        self.0.borrow_mut().line(socket.line).reset = true;
    }
}

impl Drop for SimulatedSocket {
    fn drop(&mut self) {
        if thread::panicking() {
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
