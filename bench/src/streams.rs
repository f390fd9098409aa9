//! The load of event streams, and of raw subscribers whose frames have the length of a stream's events. The generator
//! has no client of event streams, so both get the same load from here.

use crate::client::{open, open_stream};
use crate::metric::{Metric, Values};
use crate::peers::{Peer, Running, on_the_loads_cpu};
use crate::post::{Threads, is_whole};
use crate::subscribers::Subscribers;
use ringhub_loadgen::machine_busy_ns;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The plan of a load.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) subscribers: usize,
    /// Bytes of each message of an event stream.
    pub(crate) size: usize,
    /// Messages per second.
    pub(crate) rate: u64,
    /// Length of the measured window.
    pub(crate) seconds: u64,
}

/// Publishes to a server from a thread on the load's CPU.
///
/// # Errors
/// An error is returned if a message is not accepted, or if a subscriber receives fewer or more bytes than were
/// published.
pub(crate) fn drive(server: &Running, plan: Plan) -> Result<Values, String> {
    on_the_loads_cpu(|| publish(server, plan).map_err(|error| error.to_string()))
}

fn publish(server: &Running, plan: Plan) -> Result<Values, Box<dyn Error>> {
    let mut load = Load::open(server, plan)?;
    load.run(plan.rate, plan.rate)?;
    let (begin, cpu, busy) = (Instant::now(), Threads::of(server.pid())?.sum(), machine_busy_ns()?);
    let messages = plan.rate * plan.seconds;
    load.run(messages, plan.rate)?;
    let (elapsed, deliveries) = (begin.elapsed(), (messages * plan.subscribers as u64) as f64);
    let cpu_ns = Threads::of(server.pid())?.sum().saturating_sub(cpu) as f64;
    let busy_ns = machine_busy_ns()?.saturating_sub(busy) as f64;
    Ok(Values::from([
        (Metric::CpuPerDelivery, cpu_ns / deliveries),
        (Metric::DeliveriesPerSecond, deliveries / elapsed.as_secs_f64() / 1e3),
        // The load spins, so it used one CPU all the time.
        (Metric::Others, ((busy_ns - cpu_ns) / elapsed.as_nanos() as f64 - 1.0).max(0.0)),
    ]))
}

/// The clients of one server.
struct Load {
    publisher: TcpStream,
    request: Vec<u8>,
    subscribers: Subscribers,
    /// The bytes that each subscriber must have received.
    expected: u64,
    kind: Kind,
}

/// What a message is on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Frame { size: usize },
    Event { size: usize, epoch: String, offset: u64 },
}

impl Kind {
    /// Returns the bytes of the next message.
    fn next_bytes(&mut self) -> u64 {
        match self {
            // RFC 6455 5.2: two bytes, and a length of 16 bits.
            Kind::Frame { size } => (4 + *size) as u64,
            Kind::Event { size, epoch, offset } => {
                *offset += 1;
                let block = format!("id: {epoch}.{offset}\ndata: \n\n").len() + *size;
                (format!("{block:x}\r\n\r\n").len() + block) as u64
            }
        }
    }
}

impl Load {
    fn open(server: &Running, plan: Plan) -> Result<Load, Box<dyn Error>> {
        let (address, is_raw) = (server.address, server.peer != Peer::HubSse);
        let (mut subscribers, mut kind) = (Vec::new(), Kind::Frame { size: plan.size + EVENT_BYTES });
        for _ in 0..plan.subscribers {
            if is_raw {
                subscribers.push(open(address, "/t/bench?mode=sub")?);
                continue;
            }
            let (stream, greeting) = open_stream(address, "/t/bench")?;
            kind = event_after(&greeting, plan.size).ok_or_else(|| format!("no position in {greeting:?}"))?;
            subscribers.push(stream);
        }
        let size = if is_raw { plan.size + EVENT_BYTES } else { plan.size };
        let head = format!("POST /t/bench HTTP/1.1\r\nHost: {address}\r\nContent-Type: text/plain\r\nContent-Length: ");
        let mut request = format!("{head}{size}\r\n\r\n").into_bytes();
        request.resize(request.len() + size, b'x');
        let publisher = TcpStream::connect(address)?;
        publisher.set_nodelay(true)?;
        publisher.set_nonblocking(true)?;
        Ok(Load { publisher, request, subscribers: Subscribers::new(subscribers), expected: 0, kind })
    }

    /// Publishes so many messages at this rate, each when the one before is accepted, and waits until each subscriber
    /// has received exactly what was published.
    fn run(&mut self, messages: u64, rate: u64) -> Result<(), Box<dyn Error>> {
        let begin = Instant::now();
        for number in 0..messages {
            let due = begin + Duration::from_nanos(number * 1_000_000_000 / rate);
            while Instant::now() < due {
                self.subscribers.drop_some()?;
            }
            self.publisher.write_all(&self.request)?;
            self.expected += self.kind.next_bytes();
            self.take_answer()?;
        }
        self.subscribers.await_bytes(self.expected)
    }

    /// Waits until the last message is accepted.
    fn take_answer(&mut self) -> Result<(), Box<dyn Error>> {
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let mut chunk = [0; 1_024];
            match self.publisher.read(&mut chunk) {
                Ok(0) => return Err("the server has closed the publisher".into()),
                Ok(count) => answer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.subscribers.drop_some()?,
                Err(error) => return Err(error.into()),
            }
        }
        if answer.starts_with(b"HTTP/1.1 202 ") {
            return Ok(());
        }
        Err(format!("not accepted: {}", String::from_utf8_lossy(&answer)).into())
    }
}

/// Returns the events of messages of this size after the greeting of a stream, which has the position of its topic.
fn event_after(greeting: &str, size: usize) -> Option<Kind> {
    let (epoch, offset) = greeting.lines().find_map(|line| line.strip_prefix("id: "))?.split_once('.')?;
    Some(Kind::Event { size, epoch: epoch.to_owned(), offset: offset.parse().ok()? })
}

/// The bytes around a payload in an event with an epoch of 16 digits and an offset of 3, without those of the header of
/// a frame of the same length.
const EVENT_BYTES: usize = "a1\r\nid: 1330597713264823.100\ndata: \n\n\r\n".len() - 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_frames_have_the_length_of_events() {
        let mut event = event_after("3c\r\n:\nid: 1330597713264823.99\nevent: ready\n", 128).unwrap();
        let expected = Kind::Event { size: 128, epoch: "1330597713264823".to_owned(), offset: 99 };
        assert_eq!(event, expected);
        assert_eq!(event.next_bytes(), Kind::Frame { size: 128 + EVENT_BYTES }.next_bytes());
        assert_eq!(event_after("event: ready\n", 128), None);
    }
}
