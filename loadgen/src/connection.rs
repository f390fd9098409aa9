//! One connection: its opening, the messages that it reads, and the bytes that it has yet to write.

use crate::frame::{self, Frame, FrameReader, opcode};
use crate::moment::LatencyBuckets;
use crate::options::Request;
use crate::payload::{Form, Stamp};
use crate::sequence::SequenceChecker;
use crate::window::Window;
use hdrhistogram::Histogram;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::OwnedFd;

/// A connection and its state. Its socket is `None` when the connection has ended.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) state: State,
    outgoing: Vec<u8>,
    written: usize,
}

#[derive(Debug)]
pub(crate) enum State {
    /// The opening handshake is under way; `answer` has the part of the answer that has arrived.
    Opening { requested: bool, answer: Vec<u8> },
    /// The connection reads every frame.
    Reading(Box<Reading>),
    /// The kernel drops arriving bytes; only their number is known.
    Dropping { bytes: u64 },
}

/// The state of a connection that reads every frame.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    frames: FrameReader,
    /// One checker for each publisher. Empty on a publisher's connection, whose received messages are not checked.
    pub(crate) checkers: Vec<SequenceChecker>,
    /// Messages that are not of this run, or of a publisher that the run does not have.
    pub(crate) foreign: u64,
    /// Messages whose padding, size or opcode changed on the way.
    pub(crate) corrupt: u64,
    /// A digest of the order in which messages arrived.
    pub(crate) order: u64,
    /// The code of a close frame; 1005 if the frame had none (RFC 6455 7.1.5).
    pub(crate) close_code: Option<u16>,
}

/// Decides whether a message is correct, and records the message's latency.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) run: u16,
    pub(crate) opcode: u8,
    /// The form of the stamps in the run's messages.
    pub(crate) form: Form,
    pub(crate) padding: Vec<u8>,
    /// Publishers may receive messages. Such messages are not checked, and are not foreign.
    pub(crate) publishers_receive: bool,
    /// The latency of messages that are due inside this window is recorded, whenever they arrive.
    pub(crate) window: Option<Window>,
    pub(crate) latency: Histogram<u64>,
    /// The latencies since the last moment of the series.
    pub(crate) buckets: LatencyBuckets,
}

impl Reading {
    /// Makes the state for a connection on which messages of `count` publishers may arrive.
    pub(crate) fn of_publishers(count: usize) -> Reading {
        Reading { checkers: vec![SequenceChecker::default(); count], ..Reading::default() }
    }
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Connection {
        let state = State::Opening { requested: false, answer: Vec::new() };
        Connection { socket: Some(socket), state, outgoing: Vec::new(), written: 0 }
    }

    /// Returns the number of bytes that wait for the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.len() - self.written
    }

    /// Appends bytes to be written by [`Self::flush`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Writes as many bytes as the socket takes now.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        let Some(socket) = &self.socket else { return Ok(()) };
        while self.written < self.outgoing.len() {
            match rustix::net::send(socket, &self.outgoing[self.written..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.written = 0;
        Ok(())
    }

    /// Takes bytes of an open connection. Returns the number of messages that the bytes have completed and that have a
    /// checker, and an error with the reason if the connection has ended.
    pub(crate) fn take(&mut self, bytes: &[u8], now_ns: u64, judge: &mut Judge) -> (u64, Result<(), String>) {
        let reading = match &mut self.state {
            State::Reading(reading) => reading,
            State::Dropping { bytes: total } => {
                *total += bytes.len() as u64;
                return (0, Ok(()));
            }
            State::Opening { .. } => unreachable!("bytes are taken only after the handshake"),
        };
        let Reading { frames, checkers, foreign, corrupt, order, close_code } = &mut **reading;
        let outgoing = &mut self.outgoing;
        let mut messages = 0;
        let result = frames.read(bytes, |frame| match frame.opcode {
            opcode::TEXT | opcode::BINARY if checkers.is_empty() => {
                *foreign += u64::from(!judge.publishers_receive);
            }
            opcode::TEXT | opcode::BINARY => {
                messages += 1;
                match judge.examine(&frame, now_ns) {
                    Examined::Right(stamp) if usize::from(stamp.publisher) < checkers.len() => {
                        checkers[usize::from(stamp.publisher)].see(stamp.sequence);
                        let identity = u64::from(stamp.publisher) << 40 | stamp.sequence;
                        *order = (order.rotate_left(7) ^ identity).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    }
                    Examined::Corrupt => *corrupt += 1,
                    Examined::Right(_) | Examined::Foreign => *foreign += 1,
                }
            }
            opcode::PING => {
                frame::write_masked(opcode::PONG, PONG_KEY, frame.payload, outgoing);
            }
            opcode::CLOSE => {
                *close_code = Some(frame.payload.first_chunk().map_or(1005, |&code| u16::from_be_bytes(code)));
            }
            _ => {}
        });
        let ended = match (result, *close_code) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(()), Some(code)) => Err(format!("closed by the server with {code}")),
            (Ok(()), None) => Ok(()),
        };
        (messages, ended)
    }
}

enum Examined {
    Right(Stamp),
    Foreign,
    Corrupt,
}

impl Judge {
    fn examine(&mut self, frame: &Frame<'_>, now_ns: u64) -> Examined {
        match Stamp::decode(self.form, frame.payload) {
            Some(stamp) if stamp.run == self.run => {
                if frame.opcode != self.opcode || frame.payload[self.form.length()..] != self.padding {
                    return Examined::Corrupt;
                }
                if let (Some(window), Some(due_ns)) = (self.window, stamp.due_ns)
                    && window.contains(due_ns)
                {
                    let latency_ns = now_ns.saturating_sub(due_ns);
                    self.latency.saturating_record(latency_ns);
                    self.buckets.record(latency_ns);
                }
                Examined::Right(stamp)
            }
            _ => Examined::Foreign,
        }
    }
}

/// Returns an opening request (RFC 6455 4.1) with the key of the RFC's example, whose answer is known.
pub(crate) fn opening_request(request: &Request) -> Vec<u8> {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        request.target, request.host
    )
    .into_bytes()
}

/// Checks the server's answer to the opening request. Returns where the first frame begins; `None` if the answer is not
/// whole yet.
pub(crate) fn opening_answer(answer: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if answer.len() > ANSWER_MAX { Err("an endless answer".to_owned()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(status.to_owned());
    }
    let header = |name: &str| {
        lines.clone().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if header("Sec-WebSocket-Accept").as_deref() != Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
        return Err("a wrong Sec-WebSocket-Accept".to_owned());
    }
    if !header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err("a wrong Upgrade".to_owned());
    }
    Ok(Some(end + 4))
}

/// RFC 6455 demands an unpredictable key to protect proxies. There is no proxy in front of a server under test.
const PONG_KEY: [u8; 4] = [0x5a, 0xc3, 0x96, 0x0f];
const ANSWER_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\
                            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn answer_is_checked_and_its_end_found() {
        let mut answer = ACCEPTED.as_bytes().to_vec();
        answer.extend(b"\x81\x00");
        assert_eq!(opening_answer(&answer), Ok(Some(ACCEPTED.len())));
        assert_eq!(opening_answer(&answer[..ACCEPTED.len() - 1]), Ok(None));
        assert!(opening_answer(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err_and(|why| why.contains("404")));
        assert!(opening_answer(ACCEPTED.replace("s3p", "xxx").as_bytes()).is_err());
        assert!(opening_answer(ACCEPTED.replace("WebSocket", "h2c").as_bytes()).is_err());
    }

    fn judge() -> Judge {
        let latency = Histogram::new(3).unwrap();
        let window = Some(Window { start_ns: 0, end_ns: 1_000 });
        let padding = crate::payload::padding(40);
        Judge {
            run: 1,
            opcode: opcode::TEXT,
            form: Form::Timed,
            padding,
            publishers_receive: false,
            window,
            latency,
            buckets: LatencyBuckets::default(),
        }
    }

    fn subscriber() -> Connection {
        let state = State::Reading(Box::new(Reading::of_publishers(1)));
        Connection { socket: None, state, outgoing: Vec::new(), written: 0 }
    }

    fn message(opcode: u8, run: u16, publisher: u16, padding: &[u8]) -> Vec<u8> {
        let stamp = Stamp { run, publisher, sequence: 0, due_ns: Some(100) };
        let length = Form::Timed.length();
        let mut bytes = vec![0x80 | opcode, (length + padding.len()) as u8];
        bytes.resize(2 + length, 0);
        stamp.encode(Form::Timed, &mut bytes[2..]);
        bytes.extend(padding);
        bytes
    }

    #[test]
    fn right_foreign_and_corrupt_messages() {
        let padding = crate::payload::padding(40);
        for (bytes, foreign, corrupt) in [
            (message(opcode::TEXT, 1, 0, &padding), 0, 0),
            (message(opcode::TEXT, 2, 0, &padding), 1, 0),
            (message(opcode::TEXT, 1, 1, &padding), 1, 0),
            (message(opcode::BINARY, 1, 0, &padding), 0, 1),
            (message(opcode::TEXT, 1, 0, b"abcdefgX"), 0, 1),
            (message(opcode::TEXT, 1, 0, b"abc"), 0, 1),
            (b"\x81\x02hi".to_vec(), 1, 0),
        ] {
            let mut connection = subscriber();
            let mut judge = judge();
            assert_eq!(connection.take(&bytes, 250, &mut judge), (1, Ok(())));
            let State::Reading(reading) = connection.state else { unreachable!() };
            assert_eq!((reading.foreign, reading.corrupt), (foreign, corrupt));
            assert_eq!(reading.checkers[0].finish(1).lost, u64::from(foreign + corrupt > 0));
            assert!(judge.latency.is_empty() || judge.latency.max() == 150);
        }
    }

    #[test]
    fn the_order_among_publishers_leaves_a_trace() {
        let padding = crate::payload::padding(40);
        let order_of = |publishers: [u16; 2]| {
            let mut connection = subscriber();
            connection.state = State::Reading(Box::new(Reading::of_publishers(2)));
            for publisher in publishers {
                let message = message(opcode::TEXT, 1, publisher, &padding);
                assert_eq!(connection.take(&message, 250, &mut judge()), (1, Ok(())));
            }
            let State::Reading(reading) = connection.state else { unreachable!() };
            reading.order
        };
        assert_eq!(order_of([0, 1]), order_of([0, 1]));
        assert_ne!(order_of([0, 1]), order_of([1, 0]));
    }

    #[test]
    fn pings_are_answered_and_a_close_ends_it() {
        let mut connection = subscriber();
        let mut judge = judge();
        assert_eq!(connection.take(b"\x89\x01x", 0, &mut judge), (0, Ok(())));
        let mut pong = vec![0x8a, 0x81];
        pong.extend(PONG_KEY);
        pong.push(b'x' ^ PONG_KEY[0]);
        assert_eq!(connection.outgoing, pong);
        let (_, ended) = connection.take(b"\x88\x02\x03\xf0", 0, &mut judge);
        assert!(ended.is_err_and(|why| why.contains("1008")));
    }
}
