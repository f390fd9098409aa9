//! Honest clients: one publisher at a steady rate, and subscribers that read each message at once.
//!
//! The time of a delivery begins when the publisher has a message ready for its socket. The time ends when the kernel
//! receives the message's last byte for a subscriber (`SO_TIMESTAMPNS`). So the time includes the server and the
//! network. The time does not include the wait of this process for its CPU beside a crowd, before it reads the message.
//! The kernel may merge two messages before the first is read. Then both have the time of the second.

use crate::client::{open, send_some};
use crate::statistics::Summary;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns};
use nix::sys::time::TimeSpec;
use ringhub_loadgen::frame::{FrameReader, opcode, server_frame_length};
use ringhub_loadgen::payload::{Form, Stamp, Template};
use ringhub_loadgen::sequence::{SequenceChecker, Tally};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

/// The plan of the honest clients.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) subscribers: usize,
    /// Messages per second.
    pub(crate) rate: u64,
    /// The time before the measured window.
    pub(crate) warmup_ns: u64,
    /// The length of the measured window.
    pub(crate) window_ns: u64,
    /// How long the last deliveries may take.
    pub(crate) drain_ns: u64,
}

/// The time from the publisher's send to the kernel's receipt, over all deliveries of the window, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) deliveries: usize,
}

/// One publisher and its subscribers, all of them open.
pub(crate) struct Honest {
    plan: Plan,
    publisher: TcpStream,
    template: Template,
    /// The bytes that the publisher's socket has not taken yet.
    unsent: Vec<u8>,
    subscribers: Vec<Subscriber>,
    published: u64,
    /// The time on the kernel's clock when the run began. The stamps in the messages count from this time.
    begin_ns: u64,
    latencies_ns: Vec<u64>,
}

struct Subscriber {
    stream: TcpStream,
    frames: FrameReader,
    checker: SequenceChecker,
    received: u64,
    /// Messages of other publishers.
    foreign: u64,
}

impl Honest {
    /// Connects the publisher and the subscribers.
    pub(crate) fn open(address: SocketAddr, plan: Plan) -> io::Result<Honest> {
        let subscriber = |_| {
            let stream = open(address, &format!("{TOPIC}?mode=sub"))?;
            stream.set_nonblocking(true)?;
            setsockopt(&stream, ReceiveTimestampns, &true)?;
            let (frames, checker) = (FrameReader::default(), SequenceChecker::default());
            Ok(Subscriber { stream, frames, checker, received: 0, foreign: 0 })
        };
        let subscribers = (0..plan.subscribers).map(subscriber).collect::<io::Result<Vec<_>>>()?;
        let publisher = open(address, &format!("{TOPIC}?mode=pub"))?;
        publisher.set_nonblocking(true)?;
        Ok(Honest {
            plan,
            publisher,
            template: Template::new(opcode::TEXT, KEY, SIZE),
            unsent: Vec::new(),
            subscribers,
            published: 0,
            begin_ns: 0,
            latencies_ns: Vec::new(),
        })
    }

    /// Publishes during the warm-up and the window, then waits for the last delivery.
    ///
    /// # Errors
    /// An error is returned if a connection ends, or if a message is lost, repeated, reordered or invented. An error is
    /// also returned if the times of the deliveries cannot be measured.
    pub(crate) fn run(mut self) -> Result<Latency, String> {
        self.begin_ns = clock_ns();
        let end_ns = self.plan.warmup_ns + self.plan.window_ns;
        loop {
            let now_ns = self.now_ns();
            let due_ns = self.published * NANOS / self.plan.rate;
            if due_ns >= end_ns {
                break;
            }
            if now_ns >= due_ns {
                self.publish();
            }
            self.step(due_ns.saturating_sub(now_ns))?;
        }
        let deadline_ns = self.now_ns() + self.plan.drain_ns;
        while self.subscribers.iter().any(|subscriber| subscriber.received < self.published) {
            if self.now_ns() > deadline_ns {
                break;
            }
            self.step(NAP_NS)?;
        }
        let settled_ns = self.now_ns() + SETTLE_NS;
        while self.now_ns() < settled_ns {
            self.step(NAP_NS)?;
        }
        self.verdict()
    }

    fn publish(&mut self) {
        let stamp = Stamp { run: 1, publisher: 0, sequence: self.published, due_ns: Some(self.now_ns()) };
        self.unsent.extend_from_slice(self.template.stamped(&stamp));
        self.published += 1;
    }

    /// Sends the unsent bytes, waits for input or room for at most `patience_ns`, and reads the input.
    fn step(&mut self, patience_ns: u64) -> Result<(), String> {
        let closed = |error: io::Error| format!("the honest publisher's connection: {error}");
        if !self.unsent.is_empty() {
            let sent = send_some(&self.publisher, &self.unsent).map_err(closed)?;
            self.unsent.drain(..sent);
        }
        let writes = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut ready = vec![PollFd::new(&self.publisher, PollFlags::IN | writes)];
        ready.extend(self.subscribers.iter().map(|subscriber| PollFd::new(&subscriber.stream, PollFlags::IN)));
        let patience_ns = patience_ns.min(NAP_NS);
        let patience = Timespec { tv_sec: 0, tv_nsec: patience_ns as i64 };
        match poll(&mut ready, Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        if ready[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Err("the server closed the honest publisher, or sent it something".to_owned());
        }
        let readable: Vec<bool> = ready[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        for (index, _) in readable.iter().enumerate().filter(|(_, readable)| **readable) {
            self.receive(index).map_err(|why| format!("honest subscriber {index}: {why}"))?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) -> Result<(), String> {
        let Honest { subscribers, latencies_ns, begin_ns, plan, .. } = self;
        let Subscriber { stream, frames, checker, received, foreign } = &mut subscribers[index];
        // A read has only one time of receipt. So a read takes at most the bytes of one message.
        let mut buffer = [0; server_frame_length(SIZE)];
        let mut control = cmsg_space!(TimeSpec);
        loop {
            let (count, arrived_ns) = {
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let message =
                    match recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT) {
                        Ok(message) => message,
                        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(()),
                        Err(error) => return Err(error.to_string()),
                    };
                let times = message.cmsgs().map_err(|error| error.to_string())?;
                let time = times.into_iter().find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(time) => Some(time),
                    _ => None,
                });
                (message.bytes, time.map(|time| time.tv_sec() as u64 * NANOS + time.tv_nsec() as u64))
            };
            if count == 0 {
                return Err("closed by the server".to_owned());
            }
            let mut problem = None;
            let read = frames.read(&buffer[..count], |frame| {
                let stamp = Stamp::decode(Form::Timed, frame.payload).filter(|_| frame.opcode == opcode::TEXT);
                let Some(Stamp { sequence, due_ns: Some(sent_ns), .. }) = stamp else {
                    *foreign += 1;
                    return;
                };
                *received += 1;
                checker.see(sequence);
                if sent_ns < plan.warmup_ns {
                    return;
                }
                match arrived_ns {
                    Some(arrived_ns) => latencies_ns.push(arrived_ns.saturating_sub(*begin_ns + sent_ns)),
                    None => problem = Some("the kernel gives no time of receipt"),
                }
            });
            read.map_err(|error| error.to_string())?;
            if let Some(problem) = problem {
                return Err(problem.to_owned());
            }
        }
    }

    fn verdict(mut self) -> Result<Latency, String> {
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            let tally = subscriber.checker.finish(self.published);
            if tally != Tally::default() || subscriber.foreign > 0 {
                let foreign = subscriber.foreign;
                return Err(format!("honest subscriber {index}: {tally:?}, {foreign} foreign, of {}", self.published));
            }
        }
        self.latencies_ns.sort_unstable();
        let count = self.latencies_ns.len();
        let at = |quantile: f64| {
            Some(*self.latencies_ns.get((count.checked_sub(1)? as f64 * quantile) as usize)? as f64 / 1e6)
        };
        match (at(0.5), at(0.99), at(1.0)) {
            (Some(p50_ms), Some(p99_ms), Some(max_ms)) => Ok(Latency { p50_ms, p99_ms, max_ms, deliveries: count }),
            _ => Err("nothing was delivered inside the window".to_owned()),
        }
    }

    fn now_ns(&self) -> u64 {
        clock_ns() - self.begin_ns
    }
}

/// Returns the medians of the times of several runs, and the sum of their deliveries.
pub(crate) fn medians(runs: &[Latency]) -> Option<Latency> {
    let median = |figure: fn(&Latency) -> f64| Some(Summary::of(runs.iter().map(figure))?.median);
    Some(Latency {
        p50_ms: median(|latency| latency.p50_ms)?,
        p99_ms: median(|latency| latency.p99_ms)?,
        max_ms: median(|latency| latency.max_ms)?,
        deliveries: runs.iter().map(|latency| latency.deliveries).sum(),
    })
}

/// Returns the time of the clock by which the kernel gives times of receipt.
fn clock_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as u64 * NANOS + now.tv_nsec as u64
}

const TOPIC: &str = "/t/honest";

/// Payload bytes of a message.
const SIZE: usize = 128;
const KEY: [u8; 4] = [0x6b, 0x8b, 0x45, 0x67];
const NANOS: u64 = 1_000_000_000;

/// The longest sleep.
const NAP_NS: u64 = 10_000_000;

/// How long to wait at the end, to notice messages that must not come.
const SETTLE_NS: u64 = 200_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use ringhub_loadgen::frame::mask;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// What the server does wrong with the message of index [`AT`].
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        Lose,
        Repeat,
        Invent,
        Close,
    }

    const AT: usize = 5;

    fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
        stream
    }

    /// Passes messages from the publisher to one subscriber.
    fn serve(listener: &TcpListener, fault: Fault) {
        let mut subscriber = accept(listener);
        let mut publisher = accept(listener);
        let mut frame = [0; 8 + SIZE];
        for index in 0.. {
            if publisher.read_exact(&mut frame).is_err() {
                return;
            }
            let mut message = [&[0x81, 126, 0, SIZE as u8], &frame[8..]].concat();
            mask(KEY, &mut message[4..]);
            let bytes = match fault {
                _ if index != AT => message,
                Fault::None => message,
                Fault::Lose => Vec::new(),
                Fault::Repeat => message.repeat(2),
                Fault::Invent => [b"\x81\x02hi", &message[..]].concat(),
                Fault::Close => return,
            };
            // The subscriber may have ended its connection with an error.
            subscriber.write_all(&bytes).unwrap_or_default();
        }
    }

    fn run(fault: Fault) -> Result<Latency, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(&listener, fault));
        let plan = Plan { subscribers: 1, rate: 100, warmup_ns: NANOS, window_ns: NANOS / 5, drain_ns: NANOS / 5 };
        let result = Honest::open(address, plan).unwrap().run();
        server.join().unwrap();
        result
    }

    #[test]
    fn an_exact_server_is_measured_by_the_kernel() {
        let latency = run(Fault::None).unwrap();
        assert_eq!(latency.deliveries, 20);
        assert!(latency.p50_ms > 0.0 && latency.p50_ms <= latency.p99_ms && latency.p99_ms <= latency.max_ms);
    }

    #[test]
    fn every_mistake_is_named() {
        for (fault, named) in [
            (Fault::Lose, "lost: 1,"),
            (Fault::Repeat, "duplicated: 1,"),
            (Fault::Invent, "1 foreign"),
            (Fault::Close, "closed"),
        ] {
            let why = run(fault).unwrap_err();
            assert!(why.contains(named), "{why}");
        }
    }
}
