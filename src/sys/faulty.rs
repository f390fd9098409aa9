//! A backend for tests: a real backend with faults, which a seed draws.
//!
//! A kernel may do everything that this backend does. A report of readiness comes one [`Io::reap`] late, or without a
//! cause. A receive finds less input than there is, or none. A send takes fewer bytes than there is room for, or none.
//! After such a receive or send, this backend reports the rest of the input or of the room, as a kernel does.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
};

use bytes::BytesMut;
use tokio::io::unix::AsyncFd;

use super::{
    backend::Backend,
    io::{Io, Key, Readiness, Receive, SendEntry, SendLimits, Unsent},
    net,
    transport::Transport,
};

/// A real backend with faults.
#[derive(Debug)]
pub struct Faulty {
    real: Backend,
    random: Random,
    /// The key of each socket that is armed, by its descriptor.
    armed: HashMap<RawFd, Key>,
    /// Reports for the next [`Io::reap`].
    late: Vec<Readiness>,
    /// Sockets that have refused output although the kernel would have taken more. If the caller awaits their room, the
    /// next [`Io::reap`] reports it.
    with_room: Vec<RawFd>,
}

impl Faulty {
    pub(super) fn new(real: Backend, seed: u64) -> Faulty {
        let (armed, late, with_room) = (HashMap::new(), Vec::new(), Vec::new());
        Faulty { real, random: Random(seed.wrapping_mul(2).wrapping_add(1)), armed, late, with_room }
    }

    pub(super) fn real(&self) -> &Backend {
        &self.real
    }

    pub(super) fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        self.real.watch()
    }

    pub(super) fn armed(&self) -> u64 {
        self.real.armed()
    }

    /// Reports, by the next [`Io::reap`], that the socket is readable.
    fn report_input(&mut self, socket: &Transport) {
        if let Some(&key) = self.armed.get(&socket.as_fd().as_raw_fd()) {
            self.late.push(Readiness { key, readable: true, hung_up: false, writable: false, disarmed: false });
        }
    }

    /// Receives up to `most` bytes, or nothing although there may be some.
    fn receive_less(&mut self, entry: &mut Receive<'_, Transport>, most: usize) {
        // Once the peer has ended its side, or the socket has failed, no kernel answers a receive with `WouldBlock`.
        if most == 0 && net::has_left(entry.socket) {
            return self.real.receive(std::slice::from_mut(entry));
        }
        self.report_input(entry.socket);
        entry.result = Err(io::ErrorKind::WouldBlock.into());
        if most > 0 {
            let room = (entry.buffer.capacity() - entry.buffer.len()).min(most);
            let mut part = BytesMut::with_capacity(room);
            let mut less = [Receive::new(entry.socket, &mut part)];
            self.real.receive(&mut less);
            let [Receive { result, has_more, .. }] = less;
            // An allocation may be larger than was asked for.
            assert!(part.len() <= entry.buffer.capacity() - entry.buffer.len(), "a part fits");
            entry.buffer.extend_from_slice(&part);
            (entry.result, entry.has_more) = (result, has_more);
        }
    }

    /// Sends up to `most` bytes of an entry, and reports the rest as refused.
    fn send_less(&mut self, entry: &SendEntry<'_, Transport>, index: usize, most: usize, refused: &mut Vec<Unsent>) {
        let mut left = most;
        let cut = |piece: &IoSlice<'_>| {
            let count = piece.len().min(left);
            left -= count;
            count
        };
        let lengths: Vec<usize> = entry.pieces.iter().map(cut).collect();
        let parts = entry.pieces.iter().zip(lengths).filter(|&(_, length)| length > 0);
        let pieces: Vec<IoSlice<'_>> = parts.map(|(piece, length)| IoSlice::new(&piece[..length])).collect();
        let mut kernels = Vec::new();
        if !pieces.is_empty() {
            self.real.send(&[SendEntry { socket: entry.socket, pieces: &pieces }], &mut kernels);
        }
        let sent = match kernels.pop() {
            Some(Unsent { sent, .. }) => sent,
            None => {
                self.with_room.push(entry.socket.as_fd().as_raw_fd());
                if most == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(most) }
            }
        };
        refused.push(Unsent { index, sent });
    }
}

impl Io for Faulty {
    type Socket = Transport;

    fn arm(&mut self, key: Key, socket: &Transport) {
        self.armed.insert(socket.as_fd().as_raw_fd(), key);
        self.real.arm(key, socket);
    }

    fn await_room(&mut self, key: Key, socket: &Transport) {
        if self.with_room.contains(&socket.as_fd().as_raw_fd()) {
            self.late.push(Readiness { key, readable: false, hung_up: false, writable: true, disarmed: false });
        } else {
            self.real.await_room(key, socket);
        }
    }

    fn disarm(&mut self, key: Key) {
        self.armed.retain(|_, armed| *armed != key);
        self.real.disarm(key);
    }

    fn submit(&mut self) {
        self.real.submit();
    }

    fn reap(&mut self, ready: &mut Vec<Readiness>) {
        self.with_room.clear();
        ready.append(&mut self.late);
        let mut reported = Vec::new();
        self.real.reap(&mut reported);
        for report in reported {
            let is_late = self.random.chance(30);
            if is_late { &mut self.late } else { &mut *ready }.push(report);
        }
        if self.random.chance(20)
            && let Some(&key) = self.armed.values().nth(self.random.below(self.armed.len().max(1)))
        {
            ready.push(Readiness { key, readable: true, hung_up: false, writable: false, disarmed: false });
        }
    }

    fn has_reports(&mut self) -> bool {
        !self.late.is_empty() || self.real.has_reports()
    }

    fn receive(&mut self, batch: &mut [Receive<'_, Transport>]) {
        for entry in batch {
            match self.random.below(10) {
                0 => self.receive_less(entry, 0),
                1 | 2 => {
                    let most = 1 + self.random.below(40);
                    self.receive_less(entry, most);
                }
                _ => self.real.receive(std::slice::from_mut(entry)),
            }
        }
    }

    fn discard(&mut self, socket: &Transport, most: usize) -> io::Result<usize> {
        self.real.discard(socket, most)
    }

    fn send(&mut self, batch: &[SendEntry<'_, Transport>], refused: &mut Vec<Unsent>) {
        for (index, entry) in batch.iter().enumerate() {
            let length: usize = entry.pieces.iter().map(|piece| piece.len()).sum();
            match self.random.below(10) {
                0 => self.send_less(entry, index, 0, refused),
                1 | 2 if length > 1 => {
                    let most = 1 + self.random.below(length - 1);
                    self.send_less(entry, index, most, refused);
                }
                _ => {
                    let before = refused.len();
                    self.real.send(std::slice::from_ref(entry), refused);
                    refused[before..].iter_mut().for_each(|unsent| unsent.index = index);
                }
            }
        }
    }

    fn addresses(&self, socket: &Transport) -> (Option<SocketAddr>, Option<SocketAddr>) {
        self.real.addresses(socket)
    }

    fn finish(&mut self, socket: &Transport) {
        self.real.finish(socket);
    }

    fn unread(&self, socket: &Transport) -> usize {
        self.real.unread(socket)
    }

    fn limit_output(&mut self, socket: &Transport, limits: SendLimits) {
        self.real.limit_output(socket, limits);
    }

    fn unacknowledged(&self, socket: &Transport) -> usize {
        self.real.unacknowledged(socket)
    }

    fn reset(&mut self, socket: &Transport) {
        self.real.reset(socket);
    }
}

/// Random numbers from one seed (xorshift64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// Returns `true` in `percent` of a hundred cases.
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
