//! One connection: its opening, the messages that it reads, and the bytes that it has yet to write.

use crate::error::Error;
use crate::frame::{self, FrameReader, opcode};
use crate::http::{self, Answer, Input};
use crate::judge::{Examined, Judge};
use crate::options::{Activity, Plan};
use crate::pattern::{Pattern, Values};
use crate::preset::Publishers;
use crate::protocol::Step;
use crate::sequence::SequenceChecker;
use crate::tls::{Settings, Tls};
use crate::units::{self, Unit};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::OwnedFd;

/// A connection and its state. Its socket is `None` when the connection has ended.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) state: State,
    tls: Option<Box<Tls>>,
    outgoing: Vec<u8>,
    written: usize,
    /// The bytes that the socket has taken so far, without those that still wait.
    flushed: u64,
}

#[derive(Debug)]
pub(crate) enum State {
    /// TCP is connecting.
    Connecting,
    /// The opening handshake is in progress; the bytes are the part of the answer that has arrived.
    Opening(Vec<u8>),
    /// The connection reads every frame.
    Reading(Box<Reading>),
    /// The kernel drops arriving bytes; only their number is known.
    Dropping { bytes: u64 },
    /// The connection publishes by HTTP.
    Posting(Box<Posting>),
}

/// The state of a connection that publishes by HTTP.
#[derive(Debug, Default)]
pub(crate) struct Posting {
    answer: Vec<u8>,
    /// Requests without an answer, at most one.
    pub(crate) under_way: usize,
    /// Requests that the server has accepted.
    pub(crate) accepted: usize,
    /// Whether the server has accepted a request on this connection, and refused none.
    pub(crate) is_answered: bool,
    /// Whether the server takes no more requests on this connection.
    pub(crate) is_last: bool,
}

/// Who a connection is in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Subscriber(usize),
    Publisher(usize),
}

/// The state of a connection that reads every frame.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    frames: FrameReader,
    /// A part of a unit.
    rest: Vec<u8>,
    /// The steps before the connection is open; `None` once it is.
    joining: Option<Box<Joining>>,
    /// One checker for each stream of the subscriber's topics. Empty on a publisher's connection, whose received
    /// messages are not checked.
    pub(crate) checkers: Box<[SequenceChecker]>,
    /// The subscriber's first topic.
    pub(crate) first_topic: u32,
    /// The `{id}` of the next text.
    next_id: u32,
    /// Messages that are not of this run, or of a stream that is not for this connection.
    pub(crate) foreign: u64,
    /// Messages of this run that are not for this connection.
    pub(crate) misrouted: u64,
    /// Messages whose padding, size or opcode (text or binary) changed on the way.
    pub(crate) corrupt: u64,
    /// Whether the connection belongs to those that stalled.
    pub(crate) is_late: bool,
    /// A digest of the order in which messages arrived.
    pub(crate) order: u64,
}

#[derive(Debug, Default)]
struct Joining {
    /// The next step of the protocol's hello.
    step: usize,
    /// The next topic to subscribe to.
    topic: usize,
    awaited: Option<Pattern>,
}

/// What some bytes have brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Messages that are deliveries of the run, correct or corrupt.
    pub(crate) messages: u64,
    /// The connection has become open.
    pub(crate) is_joined: bool,
    /// The reason for which the connection has ended.
    pub(crate) ended: Option<String>,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Connection {
        let state = State::Connecting;
        Connection { socket: Some(socket), state, tls: None, outgoing: Vec::new(), written: 0, flushed: 0 }
    }

    /// Begins TLS, before any other byte is pushed.
    pub(crate) fn begin_tls(&mut self, settings: &Settings) -> Result<(), Error> {
        let mut tls = Tls::begin(settings)?;
        tls.take_records(&mut self.outgoing);
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Returns whether the handshake and all steps after it are done.
    pub(crate) fn is_open(&self) -> bool {
        match &self.state {
            State::Connecting | State::Opening(_) => false,
            State::Reading(reading) => reading.is_open(),
            State::Dropping { .. } | State::Posting(_) => true,
        }
    }

    /// Returns the number of bytes that wait for the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.len() - self.written
    }

    /// Returns the number of bytes that were pushed so far. When [`Self::flushed`] reaches it, all of them are written.
    pub(crate) fn pushed(&self) -> u64 {
        self.flushed + self.unsent() as u64
    }

    /// Returns the number of bytes that the socket has taken so far.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Appends bytes to be written by [`Self::flush`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            None => self.outgoing.extend_from_slice(bytes),
            Some(tls) => {
                tls.seal(bytes);
                tls.take_records(&mut self.outgoing);
            }
        }
    }

    /// Returns whether arriving bytes are TLS records.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Appends the plain bytes of records to `plain`.
    pub(crate) fn open_records(&mut self, records: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let opened = tls.open(records, plain);
        tls.take_records(&mut self.outgoing);
        opened
    }

    /// Writes as many bytes as the socket takes now.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        let Some(socket) = &self.socket else { return Ok(()) };
        while self.written < self.outgoing.len() {
            match rustix::net::send(socket, &self.outgoing[self.written..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.written += count;
                    self.flushed += count as u64;
                }
                Err(Errno::AGAIN) => {
                    // A backlog that is never empty would keep all that was ever written.
                    if self.written > WRITTEN_KEPT_MAX && self.written > self.outgoing.len() / 2 {
                        self.outgoing.drain(..self.written);
                        self.written = 0;
                    }
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.written = 0;
        Ok(())
    }

    /// Frees the memory of the output, which an idle connection does not need.
    pub(crate) fn shrink(&mut self) {
        if self.outgoing.is_empty() {
            self.outgoing = Vec::new();
        }
    }

    /// Takes bytes of a connection whose opening handshake is done.
    pub(crate) fn take(&mut self, bytes: &[u8], now_ns: u64, plan: &Plan, role: Role, judge: &mut Judge) -> Taken {
        match &mut self.state {
            State::Reading(reading) => {
                let mut output = Vec::new();
                let is_echo = matches!(plan.activity, Activity::Echo(_));
                let mut taken = reading.take(bytes, now_ns, plan, role, judge, &mut output);
                if !output.is_empty() {
                    self.push(&output);
                    // Messages that publish have a limit of their own, except in an echo.
                    if matches!(role, Role::Subscriber(_)) && !is_echo && self.unsent() > REPLIES_MAX {
                        taken.ended.get_or_insert_with(|| "the server does not read the answers to it".to_owned());
                    }
                }
                taken
            }
            State::Posting(posting) => Taken { ended: posting.take(bytes, Input::Open).err(), ..Taken::default() },
            State::Dropping { bytes: total } => {
                *total += bytes.len() as u64;
                Taken::default()
            }
            State::Connecting | State::Opening(_) => unreachable!("bytes are taken only after the handshake"),
        }
    }
}

impl Posting {
    /// Makes the state of a new connection, with requests that were accepted on the one before.
    pub(crate) fn accepting(accepted: usize) -> Posting {
        Posting { accepted, ..Posting::default() }
    }

    /// Returns whether the server has ended the connection as HTTP allows: after an answer, and with no request under
    /// way.
    pub(crate) fn may_reopen(&self) -> bool {
        self.is_answered && self.under_way == 0
    }

    /// Takes bytes of answers.
    pub(crate) fn take(&mut self, bytes: &[u8], input: Input) -> Result<(), String> {
        self.answer.extend_from_slice(bytes);
        while !self.answer.is_empty() {
            let answer = http::read(&self.answer, input).map_err(|why| format!("the server answered {why}"))?;
            let Some(answer) = answer else { return Ok(()) };
            self.answer.drain(..answer.length);
            if answer.status < 200 {
                continue;
            }
            if self.under_way == 0 {
                return Err(format!("the server answered without a request: {}", answer.summary()));
            }
            self.under_way = 0;
            if !(200..300).contains(&answer.status) {
                self.is_answered = false;
                return Err(format!("the server answered a publish with {}", answer.summary()));
            }
            self.accepted += 1;
            self.is_answered = true;
            self.is_last |= answer.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        }
        Ok(())
    }
}

impl Reading {
    /// Makes the state of a connection in this role.
    pub(crate) fn new(plan: &Plan, role: Role) -> Reading {
        let (slots, first_topic) = match role {
            Role::Subscriber(index) if plan.publishers > 0 => (plan.topics.slots(), plan.topics.first_of(index)),
            Role::Subscriber(index) => (0, plan.topics.first_of(index)),
            Role::Publisher(_) => (0, 0),
        };
        let checkers = vec![SequenceChecker::default(); slots].into_boxed_slice();
        Reading { checkers, first_topic: first_topic as u32, ..Reading::default() }
    }

    /// Returns whether all steps before the connection is open are done.
    pub(crate) fn is_open(&self) -> bool {
        self.joining.is_none()
    }

    /// Returns what the connection waits for before it is open, for people.
    pub(crate) fn awaited(&self) -> Option<String> {
        let Joining { topic, awaited, .. } = &**self.joining.as_ref()?;
        let flag = if *topic > 0 { "--acknowledgement" } else { "--hello await" };
        awaited.as_ref().map(|pattern| format!("{pattern} ({flag})"))
    }

    /// Begins the steps before the connection is open. Returns whether there are none.
    pub(crate) fn join(&mut self, plan: &Plan, role: Role, output: &mut Vec<u8>) -> Result<bool, Error> {
        self.joining = Some(Box::default());
        self.advance(plan, role, output)
    }

    /// Takes the next steps until one has to wait. Returns whether all steps are done.
    fn advance(&mut self, plan: &Plan, role: Role, output: &mut Vec<u8>) -> Result<bool, Error> {
        let Some(joining) = &mut self.joining else { return Ok(false) };
        let protocol = &plan.protocol;
        let index = match role {
            Role::Subscriber(index) => index,
            Role::Publisher(index) => plan.subscribers + index,
        };
        let mut send = |text: &crate::pattern::Text, topic: &str| {
            let values = Values { topic, size: plan.size, connection: index, id: self.next_id };
            self.next_id += 1;
            frame::write_masked(plan.opcode, REPLY_KEY, &text.fill(&values).bytes, output);
        };
        while joining.awaited.is_none() {
            if let Some(step) = protocol.hello.get(joining.step) {
                joining.step += 1;
                match step {
                    Step::Send(text) => send(text, ""),
                    Step::Await(pattern) => joining.awaited = Some(pattern.clone()),
                }
                continue;
            }
            let topic = match (&protocol.subscribe, role) {
                (Some(_), Role::Subscriber(index)) => plan.topics.of_subscriber(index).nth(joining.topic),
                _ => None,
            };
            let (Some(topic), Some(text)) = (topic, &protocol.subscribe) else {
                self.joining = None;
                return Ok(true);
            };
            joining.topic += 1;
            let name = plan.topics.name(topic);
            send(text, &name);
            let pattern = protocol.acknowledgement.as_deref().map(|text| Pattern::parse(text, Some(&name)));
            joining.awaited = pattern.transpose()?;
        }
        Ok(false)
    }

    fn take(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        plan: &Plan,
        role: Role,
        judge: &mut Judge,
        output: &mut Vec<u8>,
    ) -> Taken {
        let mut taken = Taken::default();
        judge.is_late = self.is_late;
        let mut frames = std::mem::take(&mut self.frames);
        let mut rest = std::mem::take(&mut self.rest);
        let read = frames.read(bytes, |frame| match frame.opcode {
            opcode::TEXT | opcode::BINARY => {
                let split = units::split(plan.protocol.packing, &mut rest, frame.payload, |unit| {
                    self.unit(frame.opcode, unit, now_ns, plan, role, judge, output, &mut taken);
                });
                if let Err(why) = split {
                    taken.ended.get_or_insert_with(|| why.to_owned());
                }
            }
            opcode::PING => {
                frame::write_masked(opcode::PONG, REPLY_KEY, frame.payload, output);
            }
            opcode::CLOSE => {
                let code = frame.payload.first_chunk().map(|&code| u16::from_be_bytes(code));
                let code = code.map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
                let reason = frame.payload.get(2..).map(http::shown).filter(|reason| !reason.is_empty());
                let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
                taken.ended.get_or_insert_with(|| format!("the server closed it with {code}{reason}"));
            }
            _ => {}
        });
        if let Err(error) = read {
            taken.ended.get_or_insert_with(|| error.to_string());
        }
        (self.frames, self.rest) = (frames, rest);
        taken
    }

    #[expect(clippy::too_many_arguments, reason = "one call, on the hot path")]
    fn unit(
        &mut self,
        opcode: u8,
        unit: Unit<'_>,
        now_ns: u64,
        plan: &Plan,
        role: Role,
        judge: &mut Judge,
        output: &mut Vec<u8>,
        taken: &mut Taken,
    ) {
        if self.joining.is_some() && self.step(unit, plan, role, output, taken) {
            return;
        }
        let payload = match (unit, &plan.protocol.delivery) {
            (Unit::Delivery(payload), _) => Some(payload),
            (Unit::Any(unit), None) => Some(unit),
            (Unit::Any(unit), Some(pattern)) => pattern.find(unit),
        };
        if let Some(payload) = payload
            && !self.checkers.is_empty()
        {
            match judge.examine(opcode, payload, now_ns) {
                Examined::Correct(stamp) => {
                    let stream = usize::from(stamp.publisher);
                    if let Some(slot) = plan.topics.slot(self.first_topic as usize, stream) {
                        taken.messages += 1;
                        let missing = self.checkers[slot].see(stamp.sequence);
                        // The checkers of a connection that is not open begin anew when it is.
                        if self.joining.is_none() {
                            judge.missing += missing;
                        }
                        let identity = (stream as u64) << 40 | stamp.sequence;
                        self.order = (self.order.rotate_left(7) ^ identity).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        return;
                    }
                    self.misrouted += 1;
                    judge.note_misrouted(payload);
                    return;
                }
                Examined::Corrupt => {
                    taken.messages += 1;
                    self.corrupt += 1;
                    return;
                }
                Examined::Foreign => {}
            }
        }
        let (Unit::Any(bytes) | Unit::Delivery(bytes)) = unit;
        self.other(bytes, plan, role, judge, output, taken);
    }

    /// Takes a unit while the connection is not open. Returns whether the unit was awaited.
    fn step(&mut self, unit: Unit<'_>, plan: &Plan, role: Role, output: &mut Vec<u8>, taken: &mut Taken) -> bool {
        let (Some(joining), Unit::Any(unit)) = (&mut self.joining, unit) else { return false };
        if joining.awaited.as_ref().and_then(|pattern| pattern.find(unit)).is_none() {
            return false;
        }
        joining.awaited = None;
        match self.advance(plan, role, output) {
            Ok(is_joined) => taken.is_joined |= is_joined,
            Err(error) => taken.ended = Some(error.to_string()),
        }
        true
    }

    /// Takes a unit that is no delivery of the run.
    fn other(
        &mut self,
        unit: &[u8],
        plan: &Plan,
        role: Role,
        judge: &mut Judge,
        output: &mut Vec<u8>,
        taken: &mut Taken,
    ) {
        let protocol = &plan.protocol;
        if let Some((_, text)) = protocol.replies.iter().find(|(pattern, _)| pattern.find(unit).is_some()) {
            let values = Values { topic: "", size: plan.size, connection: 0, id: self.next_id };
            self.next_id += 1;
            frame::write_masked(plan.opcode, REPLY_KEY, &text.fill(&values).bytes, output);
            return;
        }
        let fits = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.find(unit).is_some());
        if fits(&protocol.refusals) {
            taken.ended.get_or_insert_with(|| format!("refused by the server: {}", http::shown(unit)));
        } else if fits(&protocol.ignored) {
        } else if self.joining.is_some() {
            judge.note_stray(unit);
        } else if matches!(role, Role::Subscriber(_)) || protocol.publishers == Publishers::ReceiveNothing {
            self.foreign += 1;
            judge.note_foreign(unit);
        }
    }
}

/// Checks the server's answer to the opening request. Returns the place of the first frame; `None` if the answer is not
/// whole yet.
///
/// # Errors
/// The error says what is wrong, with the body of a refusal, as the end of the sentence "the server answered".
pub(crate) fn opening_answer(bytes: &[u8], input: Input) -> Result<Option<usize>, String> {
    let Some(answer) = http::read(bytes, input)? else { return Ok(None) };
    if answer.status != 101 {
        return Err(answer.summary());
    }
    let Answer { length, .. } = answer;
    if answer.header("Sec-WebSocket-Accept") != Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
        return Err("101 with a Sec-WebSocket-Accept that does not fit the key".to_owned());
    }
    if !answer.header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err("101 without `Upgrade: websocket`".to_owned());
    }
    Ok(Some(length))
}

/// The bytes that are kept after they were written, while others wait.
const WRITTEN_KEPT_MAX: usize = 64 << 10;

/// The bytes of answers that may wait for a server that does not read.
const REPLIES_MAX: usize = 1 << 20;

/// RFC 6455 demands an unpredictable key to protect proxies. There is no proxy in front of a server under test.
const REPLY_KEY: [u8; 4] = [0x5a, 0xc3, 0x96, 0x0f];

#[cfg(test)]
mod tests;
