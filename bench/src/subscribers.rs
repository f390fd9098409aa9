//! The subscribers of a load that spins: the kernel drops what they receive, and only their bytes are counted.

use crate::client::{DROP_BYTES, Received, drop_received};
use std::error::Error;
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Subscribers, each with the bytes that it has received.
pub(crate) struct Subscribers {
    connections: Vec<(TcpStream, u64)>,
    /// The subscriber to read from next.
    next: usize,
    /// A buffer for dropped bytes, which the kernel does not fill.
    nothing: Vec<u8>,
}

impl Subscribers {
    /// Takes connections that have received nothing that counts.
    pub(crate) fn new(connections: Vec<TcpStream>) -> Subscribers {
        let connections = connections.into_iter().map(|stream| (stream, 0)).collect();
        Subscribers { connections, next: 0, nothing: vec![0; DROP_BYTES] }
    }

    /// Lets the kernel drop what some of the subscribers have received.
    pub(crate) fn drop_some(&mut self) -> io::Result<()> {
        self.drop_of(PER_ROUND)
    }

    /// Waits until each subscriber has received so many bytes since it subscribed, and checks that no more have come.
    pub(crate) fn await_bytes(&mut self, expected: u64) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + DELIVERY_DEADLINE;
        while self.connections.iter().any(|(_, bytes)| *bytes != expected) {
            if Instant::now() > deadline {
                let counts: Vec<u64> = self.connections.iter().map(|(_, bytes)| *bytes).collect();
                return Err(format!("{expected} bytes must be delivered to each subscriber: {counts:?}").into());
            }
            self.drop_of(self.connections.len())?;
        }
        Ok(())
    }

    fn drop_of(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count.min(self.connections.len()) {
            self.next = (self.next + 1) % self.connections.len();
            let (stream, bytes) = &mut self.connections[self.next];
            match drop_received(stream, &mut self.nothing)? {
                Received::Bytes(count) => *bytes += count,
                Received::Nothing => {}
                Received::End => return Err(io::Error::other("the server has closed a subscriber")),
            }
        }
        Ok(())
    }
}

/// From how many subscribers the load reads between two looks at its publishers.
const PER_ROUND: usize = 32;

/// How long the last deliveries may take.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(10);
