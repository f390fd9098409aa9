//! The bare loops of plain system calls: K1 sends to all, K3 sends back.
//!
//! The loops wait in epoll, and receive from each ready connection until a receive has not filled its buffer. K1 then
//! sends all received messages to every subscriber, with one `send` for each subscriber. K3 sends what a connection has
//! sent back to this connection, with one `send` for each `recv`. The frames are unmasked on the way, since a client
//! takes no masked frames. The difference between K1 and K2 is what batches save.

use crate::bare::{self, Accepted, READ_MAX, insist, unmask_frames};
use bytes::BytesMut;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receivers {
    /// Every connection, except those that only publish.
    All,
    /// The connection that has sent the message.
    Sender,
}

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr, cpu: Option<usize>, receivers: Receivers) -> io::Result<bool> {
    let listener = bare::listen(listen, cpu)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let (connections, subscribers, run) = (Vec::new(), Vec::new(), Vec::new());
    let mut plain = Plain { poll, receivers, connections, subscribers, run, buffer: vec![0; READ_MAX] };
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        match epoll::wait(&plain.poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match { event.data }.u64() {
                LISTENER => plain.accept(&listener)?,
                slot => plain.receive(slot as usize),
            }
        }
        plain.send_to_all();
    }
}

struct Plain {
    poll: OwnedFd,
    receivers: Receivers,
    /// The connections by slot; a slot is used only once.
    connections: Vec<Option<Connection>>,
    /// The slots of the connections that receive.
    subscribers: Vec<usize>,
    /// The frames that the receivers are owed.
    run: Vec<u8>,
    /// The room for a receive.
    buffer: Vec<u8>,
}

struct Connection {
    socket: TcpStream,
    /// The begin of a frame that is not whole yet.
    input: BytesMut,
}

impl Plain {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let (socket, receives) = match bare::accept(listener)? {
                Accepted::Client(socket, receives) => (socket, receives),
                Accepted::Stranger => continue,
                Accepted::NoMore => return Ok(()),
            };
            let slot = self.connections.len();
            epoll::add(&self.poll, &socket, EventData::new_u64(slot as u64), EventFlags::IN)?;
            self.connections.push(Some(Connection { socket, input: BytesMut::new() }));
            if receives {
                self.subscribers.push(slot);
            }
        }
    }

    fn receive(&mut self, slot: usize) {
        loop {
            let Some(connection) = &mut self.connections[slot] else { return };
            let (count, goes_on) = match recv(&connection.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => (0, false),
                Ok((count, _)) => {
                    connection.input.extend_from_slice(&self.buffer[..count]);
                    (count, unmask_frames(&mut connection.input, &mut self.run))
                }
                Err(Errno::AGAIN | Errno::INTR) => (0, true),
                Err(_) => (0, false),
            };
            if connection.input.is_empty() {
                connection.input = BytesMut::new();
            }
            if self.receivers == Receivers::Sender {
                send_all(&connection.socket, &self.run);
                self.run.clear();
            }
            if !goes_on {
                self.connections[slot] = None;
                self.subscribers.retain(|&subscriber| subscriber != slot);
            }
            if count < READ_MAX {
                return;
            }
        }
    }

    /// Sends the run to every subscriber.
    fn send_to_all(&mut self) {
        if self.run.is_empty() {
            return;
        }
        for connection in self.subscribers.iter().filter_map(|&slot| self.connections[slot].as_ref()) {
            send_all(&connection.socket, &self.run);
        }
        self.run.clear();
    }
}

/// Sends the bytes with one system call, if the socket has room for all of them.
fn send_all(socket: &TcpStream, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) => insist(socket, &bytes[sent..]),
        Err(Errno::AGAIN | Errno::INTR) => insist(socket, bytes),
        // The next receive reports that the connection has ended.
        Err(_) => {}
    }
}

/// The data of the listener's events. It is no slot.
const LISTENER: u64 = u64::MAX;
const EVENTS_MAX: usize = 1_024;
