//! The sockets of a shard on a simulated network, and the layer of transports over them.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, thread};

use super::{line::Line, network::Network, sealing::Sealing, wires::SimulatedWires};
use crate::sys::{
    Io, Key, Layered, Readiness, Receive, Resumed, SendEntry, SendLimits, Transport, Unsent,
    transport::xor::{self, Side},
};

/// The server's end of a [`Line`].
#[derive(Debug)]
pub(super) struct SimulatedSocket {
    pub(super) line: usize,
    network: Rc<RefCell<Network>>,
}

/// A socket of a shard, and the transport over it.
pub(super) type Socket = Transport<SimulatedSocket>;

/// The sockets of one shard, simulated, as the shard sees them: with the layer that the shard's thread has.
#[derive(Debug)]
pub(super) struct SimulatedIo {
    network: Rc<RefCell<Network>>,
    layered: Layered<SimulatedWires>,
}

impl SimulatedSocket {
    /// Returns the server's end of a new line; see [`Line::new`].
    pub(super) fn connect(network: &Rc<RefCell<Network>>, answer: &[u8], room: usize) -> Socket {
        Transport::Plain(Self::of_line(network, Line::new(answer, room)))
    }

    /// Returns the server's end of a new line whose bytes travel in records.
    pub(super) fn connect_sealed(network: &Rc<RefCell<Network>>, answer: &[u8], room: usize) -> Socket {
        let line = Line { sealing: Some(Sealing::new()), ..Line::new(answer, room) };
        xor::sealed(Self::of_line(network, line), Side::Server)
    }

    fn of_line(network: &Rc<RefCell<Network>>, line: Line) -> Self {
        let mut this = network.borrow_mut();
        this.lines.push(line);
        let line = this.lines.len() - 1;
        this.active.push(line);
        SimulatedSocket { line, network: Rc::clone(network) }
    }
}

impl SimulatedIo {
    pub(super) fn new(network: &Rc<RefCell<Network>>) -> Self {
        SimulatedIo { network: Rc::clone(network), layered: Layered::new(SimulatedWires(Rc::clone(network))) }
    }

    /// Tells the driver whether the layer has reports of its own, which the network does not know.
    fn note_reports(&mut self) {
        let has_reports = self.layered.has_reports();
        self.network.borrow_mut().has_layer_reports = has_reports;
    }
}

impl Io for SimulatedIo {
    type Socket = Socket;

    fn arm(&mut self, key: Key, socket: &Socket) {
        self.layered.arm(key, socket);
        self.note_reports();
    }

    fn await_room(&mut self, key: Key, socket: &Socket) {
        self.layered.await_room(key, socket);
    }

    fn disarm(&mut self, key: Key) {
        self.layered.disarm(key);
    }

    fn submit(&mut self) {
        self.layered.submit();
    }

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        self.layered.reap(ready);
        self.note_reports();
        if self.network.borrow_mut().random.chance(300) {
            ready.reverse();
        }
    }

    fn has_reports(&mut self) -> bool {
        self.layered.has_reports()
    }

    fn resume(&mut self, key: Key, socket: &Socket) -> Resumed {
        let resumed = self.layered.resume(key, socket);
        self.network.borrow_mut().lines[socket.socket().line].compare();
        resumed
    }

    fn retry(&mut self, socket: &Socket) {
        self.layered.retry(socket);
        self.network.borrow_mut().lines[socket.socket().line].compare();
    }

    fn receive(&mut self, batch: &mut [Receive<'_, Socket>]) {
        self.layered.receive(batch);
        let mut network = self.network.borrow_mut();
        for entry in batch {
            network.note_received(entry.socket.socket().line, &entry.result);
        }
        drop(network);
        self.note_reports();
    }

    fn discard(&mut self, socket: &Socket, most: usize) -> io::Result<usize> {
        let result = self.layered.discard(socket, most);
        self.network.borrow_mut().note_received(socket.socket().line, &result);
        result
    }

    fn send(&mut self, batch: &[SendEntry<'_, Socket>], refused: &mut Vec<Unsent>) {
        self.layered.send(batch, refused);
        let mut network = self.network.borrow_mut();
        for (index, entry) in batch.iter().enumerate() {
            let length: usize = entry.pieces.iter().map(|piece| piece.len()).sum();
            network.offered.add(length);
            network.tally.sends += 1;
            let sent = refused.iter().find(|entry| entry.index == index).map(|entry| &entry.sent);
            let is_lost = matches!(sent, Some(Err(error)) if is_failure(error));
            let count = sent.map_or(length, |sent| *sent.as_ref().unwrap_or(&0));
            assert!(sent.is_none() || count < length, "an entry that was sent whole is refused");
            network.tally.bytes_sent += count as u64;
            network.tally.short_sends += u64::from(sent.is_some() && !is_lost);
            let line = &mut network.lines[entry.socket.socket().line];
            line.end_received |= is_lost;
            line.promise(entry.pieces, count);
            let is_kept = !line.promised.is_empty();
            network.tally.kept += u64::from(is_kept);
        }
        if network.random.chance(300) {
            refused.reverse();
        }
    }

    fn addresses(&self, socket: &Socket) -> (Option<SocketAddr>, Option<SocketAddr>) {
        self.layered.addresses(socket)
    }

    fn finish(&mut self, socket: &Socket) {
        let line = socket.socket().line;
        {
            let line = &mut self.network.borrow_mut().lines[line];
            assert!(!line.is_end_asked, "a socket is finished twice");
            line.is_end_asked = true;
            let may_end = line.stream.has_ended() || line.end_received;
            assert!(may_end, "a line is finished before its goodbye is out");
        }
        self.layered.finish(socket);
        let network = &mut *self.network.borrow_mut();
        network.lines[line].compare();
        network.tally.ends_kept += u64::from(network.lines[line].has_kept());
    }

    fn unread(&self, socket: &Socket) -> usize {
        self.layered.unread(socket)
    }

    fn limit_output(&mut self, socket: &Socket, limits: SendLimits) {
        self.layered.limit_output(socket, limits);
    }

    fn unacknowledged(&self, socket: &Socket) -> usize {
        self.layered.unacknowledged(socket)
    }

    fn reset(&mut self, socket: &Socket) {
        self.layered.reset(socket);
    }
}

/// Returns whether an error is the failure of a socket.
pub(super) fn is_failure(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
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
        assert!(line.reset || line.promised.is_empty() || is_over, "line {} is dropped with what it owes", self.line);
        if line.reset {
            line.sent.clear();
        }
        let cut_off = !line.finished && !line.end_received && !is_over;
        network.tally.cut_off += u64::from(cut_off);
    }
}
