//! The bare loop of batched sends: it shows the cost of the hub's system calls alone.
//!
//! The loop uses only the hub's ring. The loop waits for readiness, and receives from each ready connection. If the
//! socket still has input after a receive, the loop receives from the connection again. Then the loop sends all
//! received messages to every subscriber in synchronous batches. The loop has no topics, timers, shards or backlogs.
//! The difference between the hub and this loop is the cost of the hub's own code.

use crate::bare::{self, Accepted, READ_MAX, insist, unmask_frames};
use bytes::BytesMut;
use ringhub::sys::{HotRing, Io, Key, Readiness, Receive, SendEntry, Transport, Unsent};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr, cpu: Option<usize>) -> io::Result<bool> {
    let listener = bare::listen(listen, cpu)?;
    let mut bare = Bare { ring: HotRing::new()?, connections: Vec::new(), subscribers: Vec::new(), run: Vec::new() };
    let watched = descriptor(&bare.ring)?;
    let mut ready = Vec::new();
    loop {
        bare.ring.submit();
        if !bare.ring.has_completions() {
            let waiting = [PollFd::new(&watched, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
            if wait(waiting)? {
                bare.accept(&listener)?;
            }
        }
        bare.ring.reap(&mut ready);
        bare.receive(&mut ready);
        bare.flush();
    }
}

struct Bare {
    ring: HotRing,
    /// The connections by slot; a slot is used only once.
    connections: Vec<Option<Connection>>,
    /// The slots of the connections that receive.
    subscribers: Vec<usize>,
    /// The frames that every subscriber is owed.
    run: Vec<u8>,
}

struct Connection {
    socket: Transport,
    input: BytesMut,
}

impl Bare {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let (stream, receives) = match bare::accept(listener)? {
                Accepted::Client(stream, receives) => (stream, receives),
                Accepted::Stranger => continue,
                Accepted::NoMore => return Ok(()),
            };
            let slot = self.connections.len();
            let socket = Transport::from(OwnedFd::from(stream));
            self.ring.arm(Key { slot: slot as u32, generation: 0 }, &socket);
            self.connections.push(Some(Connection { socket, input: BytesMut::new() }));
            if receives {
                self.subscribers.push(slot);
            }
        }
    }

    fn receive(&mut self, ready: &mut Vec<Readiness>) {
        let mut slots: Vec<usize> = ready.drain(..).map(|readiness| readiness.key.slot as usize).collect();
        slots.sort_unstable();
        slots.dedup();
        while !slots.is_empty() {
            slots.retain(|&slot| self.connections[slot].is_some());
            let mut inputs: Vec<BytesMut> = Vec::with_capacity(slots.len());
            for &slot in &slots {
                let connection = self.connections[slot].as_mut().expect("retained above");
                connection.input.reserve(READ_MAX);
                inputs.push(std::mem::take(&mut connection.input));
            }
            let sockets = slots.iter().map(|&slot| &self.connections[slot].as_ref().expect("retained above").socket);
            let mut batch: Vec<_> =
                sockets.zip(&mut inputs).map(|(socket, input)| Receive::new(socket, input)).collect();
            self.ring.receive(&mut batch);
            let results: Vec<_> = batch.into_iter().map(|entry| (entry.result, entry.has_more)).collect();
            let mut again = Vec::new();
            for ((slot, mut input), (result, has_more)) in slots.drain(..).zip(inputs).zip(results) {
                let goes_on = match result {
                    Ok(0) => false,
                    Ok(_) => {
                        if has_more {
                            again.push(slot);
                        }
                        unmask_frames(&mut input, &mut self.run)
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {
                        again.push(slot);
                        true
                    }
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
                if goes_on {
                    if input.is_empty() {
                        input = BytesMut::new();
                    }
                    self.connections[slot].as_mut().expect("still there").input = input;
                } else {
                    self.close(slot);
                }
            }
            slots = again;
        }
    }

    fn close(&mut self, slot: usize) {
        self.ring.disarm(Key { slot: slot as u32, generation: 0 });
        self.connections[slot] = None;
        self.subscribers.retain(|&subscriber| subscriber != slot);
    }

    /// Sends the run to every subscriber.
    fn flush(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let pieces = [IoSlice::new(&self.run)];
        let sockets = self.subscribers.iter().filter_map(|&slot| Some(&self.connections[slot].as_ref()?.socket));
        let batch: Vec<_> = sockets.map(|socket| SendEntry { socket, pieces: &pieces }).collect();
        let mut refused = Vec::new();
        self.ring.send(&batch, &mut refused);
        for Unsent { index, sent } in refused {
            let sent = match sent {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                // The next receive reports that the connection has ended.
                Err(_) => continue,
            };
            insist(batch[index].socket, &self.run[sent..]);
        }
        self.run.clear();
    }
}

/// Returns a descriptor that is readable when the ring has completions. The ring gives such a descriptor only to a
/// runtime, so this call makes a runtime, and ends it. The loop itself uses no runtime.
fn descriptor(ring: &HotRing) -> io::Result<OwnedFd> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    Ok(ring.watch()?.into_inner())
}

/// Waits until one of the two descriptors is readable, or a signal comes. Returns whether the second one is readable.
fn wait(mut waiting: [PollFd<'_>; 2]) -> io::Result<bool> {
    match poll(&mut waiting, None) {
        Ok(_) => Ok(!waiting[1].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
