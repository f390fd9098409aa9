//! A client of the simulated network: its actions, and the messages that it has seen.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{line::End, network::Network, random::Random};
use crate::{
    config::Limits,
    hub::{Backlog, ConnectionId},
    proto::{
        CloseCode, Event, Fin, Input, MessageLimits, MessageType, OpCode, PreparedMessage, Role, State, Tick,
        WebSocket, encode_masked,
    },
};

/// Names a message by its sender, its topic, and its sequence number among that sender's messages there; or [`EMPTY`].
pub(super) type Name = u64;

/// A message without payload has no name of its own. It is always of the first topic, and only sent by clients that
/// receive their own there.
pub(super) const EMPTY: Name = u64::MAX;

fn name(sender: usize, topic: usize, number: u32) -> Name {
    (sender as u64) << 40 | (topic as u64) << 32 | u64::from(number)
}

/// Returns the sender of the message of that name.
pub(super) fn sender(name: Name) -> Option<usize> {
    (name != EMPTY).then_some((name >> 40) as usize)
}

/// Returns the topic of the message of that name.
pub(super) fn topic_of(name: Name) -> usize {
    if name == EMPTY { 0 } else { (name >> 32) as usize & 0xff }
}

/// The subscription of a client to a topic, for a part of its life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    pub(super) topic: usize,
    pub(super) echo: bool,
    /// The topic's messages before the subscription began, and before it ended, if it did before the connection.
    pub(super) from: u64,
    pub(super) until: Option<u64>,
}

/// The way in which a client ends its connection, if it does before the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// With a close frame.
    Handshake,
    /// By the end of its input, or a reset, perhaps in the middle of a frame.
    Cut(End),
    /// The client sends a message though it only receives.
    Trespass,
    /// The client asks its handler to close the connection.
    Asking,
    /// The client sends bytes that are no frame.
    Breach,
}

/// A backlog as it was between two turns.
#[derive(Debug, Clone, Copy)]
pub(super) struct BacklogSeen {
    pub(super) bytes: usize,
    pub(super) messages: u64,
    pub(super) unsent: u64,
    pub(super) was_refused: bool,
    /// The bytes that the socket had taken then.
    pub(super) taken: u64,
}

impl BacklogSeen {
    /// Returns whether all of the backlog has been sent, as it is seen `now`.
    pub(super) fn is_sent(&self, now: &BacklogSeen) -> bool {
        now.taken - self.taken >= self.unsent
    }

    /// Returns whether the backlog is within the limits, or no larger than it was before.
    pub(super) fn is_within(&self, limits: &Limits, before: Option<&BacklogSeen>) -> bool {
        let (bytes, messages) = before.map_or((0, 0), |before| (before.bytes, before.messages));
        let bytes_max = limits.backlog_bytes_max.saturating_add(Backlog::BESIDES).max(bytes);
        bytes_max.saturating_add(OUTBOX_MOST) >= self.bytes
            && limits.backlog_messages_max.max(messages) >= self.messages
    }
}

/// Bytes that pongs may add to a backlog before its limit is looked at: their own, and the doubling of the buffer that
/// little pieces are copied into.
const OUTBOX_MOST: usize = 1_024 + 32 * 1_024;

/// A client, and its connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    /// The topic of the messages that the client sends.
    pub(super) topic: usize,
    pub(super) publishes: bool,
    /// Whether the client receives its own messages too if it subscribes there.
    pub(super) echo: bool,
    /// All subscriptions that there have been.
    pub(super) subscriptions: Vec<Subscription>,
    /// How many messages its handler has published, by topic: none to the client's own.
    pub(super) spoken: Vec<u32>,
    /// The client neither reads nor writes.
    pub(super) mute: bool,
    /// The client answers neither pings nor close frames, but reads.
    pub(super) deaf: bool,
    pub(super) leaving: Option<Leaving>,
    /// The connection on the server's side.
    pub(super) id: Option<ConnectionId>,
    /// Messages of each topic when the connection was last seen open, and when it was first seen not to be.
    pub(super) open_until: Vec<u64>,
    pub(super) closed_at: Option<Vec<u64>>,
    /// The connection's backlog after the last turn.
    pub(super) backlog: Option<BacklogSeen>,
    /// The connection has ended.
    pub(super) gone: bool,
    /// Messages that have been sent whole.
    pub(super) sent: u32,
    pub(super) sent_empty: u32,
    pub(super) received: Vec<Name>,
    /// The server's close frame.
    pub(super) close: Option<(CloseCode, String)>,
    /// Bytes of the answer that the client has not seen yet.
    answer_missing: usize,
    websocket: WebSocket,
    rest: BytesMut,
    /// Frames to be sent, the last one of each message with its name.
    frames: VecDeque<(Vec<u8>, Option<Name>)>,
    begun: u32,
    /// Pings, and questions to the handler, one number for both; the answers come in the same order.
    pings: u32,
    pongs: u32,
    pub(super) asked: u32,
}

impl Client {
    pub(super) fn new(number: usize, topic: usize, answer: &[u8], random: &mut Random) -> Self {
        Client {
            number,
            topic,
            publishes: true,
            echo: false,
            subscriptions: Vec::new(),
            spoken: Vec::new(),
            mute: false,
            deaf: false,
            leaving: None,
            id: None,
            open_until: Vec::new(),
            closed_at: None,
            backlog: None,
            gone: false,
            sent: 0,
            sent_empty: 0,
            received: Vec::new(),
            close: None,
            answer_missing: answer.len(),
            websocket: WebSocket::new(Role::Client { masking_seed: random.seed() }, Tick(0)),
            rest: BytesMut::new(),
            frames: VecDeque::new(),
            begun: 0,
            pings: 0,
            pongs: 0,
            asked: 0,
        }
    }

    /// Returns the client's present subscription to that topic.
    pub(super) fn subscription(&mut self, topic: usize) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.topic == topic && subscription.until.is_none())
    }

    /// Returns a message that the client's handler publishes to a topic that is not the client's own.
    pub(super) fn prepare(&mut self, topic: usize, size: usize) -> (Name, PreparedMessage) {
        assert_ne!(topic, self.topic, "what it sends itself arrives later, and would be out of order");
        let name = name(self.number, topic, self.spoken[topic]);
        self.spoken[topic] += 1;
        let payload = payload(name, size);
        let message = match message_type(name) {
            MessageType::Text => PreparedMessage::text(std::str::from_utf8(&payload).expect("a payload is UTF-8")),
            MessageType::Binary => PreparedMessage::binary(&payload),
        };
        (name, message)
    }

    /// Returns whether the client may still send frames.
    pub(super) fn can_send(&self) -> bool {
        !self.mute && self.leaving.is_none() && self.websocket.state() == State::Open
    }

    /// Returns whether every message that the client began has been sent.
    pub(super) fn has_sent_all(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns whether every ping and question of the client was answered.
    pub(super) fn has_all_pongs(&self) -> bool {
        self.pings == self.pongs
    }

    /// Returns whether the client was closed as a slow consumer.
    pub(super) fn is_slow(&self) -> bool {
        let is_slow = |(code, reason): &(_, String)| *code == CloseCode::POLICY_VIOLATION && reason == "slow consumer";
        self.close.as_ref().is_some_and(is_slow)
    }

    /// Makes a message of about `size` bytes, in one frame or several, and returns its name.
    pub(super) fn compose(&mut self, size: usize, random: &mut Random) -> Name {
        let may_be_empty = self.echo && self.topic == 0;
        let (name, opcode, payload) = if size == 0 && may_be_empty {
            (EMPTY, OpCode::Text, Vec::new())
        } else {
            let name = name(self.number, self.topic, self.begun);
            self.begun += 1;
            let message_type = message_type(name);
            (name, message_type.opcode(), payload(name, size))
        };
        let fragments = if random.chance(250) { random.within(2..=5) } else { 1 };
        let mut rest = payload.as_slice();
        for fragment in 1..=fragments {
            let is_last = fragment == fragments;
            let length = if is_last { rest.len() } else { random.within(0..=rest.len()) };
            let opcode = if fragment == 1 { opcode } else { OpCode::Continuation };
            let mut frame = Vec::new();
            self.websocket.send(opcode, is_last.into(), &rest[..length], &mut frame);
            self.frames.push_back((frame, is_last.then_some(name)));
            rest = &rest[length..];
        }
        name
    }

    /// Puts up to `most` frames on their way.
    pub(super) fn put(&mut self, most: usize, network: &mut Network) {
        for _ in 0..most {
            if !self.can_send() {
                return;
            }
            let Some((frame, name)) = self.frames.pop_front() else { return };
            network.lines[self.number].on_the_way.extend(frame);
            match name {
                Some(EMPTY) => self.sent_empty += 1,
                Some(_) => self.sent += 1,
                None => {}
            }
        }
    }

    /// Sends a ping.
    pub(super) fn ping(&mut self, network: &mut Network) {
        let mut frame = Vec::new();
        if self.can_send() && self.websocket.send(OpCode::Ping, Fin::Set, self.pings.to_string().as_bytes(), &mut frame)
        {
            self.pings += 1;
            network.lines[self.number].on_the_way.extend(frame);
        }
    }

    /// Sends a question to the handler, which answers.
    pub(super) fn ask(&mut self, network: &mut Network) {
        let mut frame = Vec::new();
        let question = format!("?{}", self.pings);
        if self.can_send() && self.websocket.send(OpCode::Text, Fin::Set, question.as_bytes(), &mut frame) {
            self.pings += 1;
            self.asked += 1;
            network.lines[self.number].on_the_way.extend(frame);
        }
    }

    /// Begins to leave.
    pub(super) fn leave(&mut self, how: Leaving, random: &mut Random, network: &mut Network) {
        let line = &mut network.lines[self.number];
        let mut out = Vec::new();
        match how {
            // Past `proto`, whose closing clients drop the messages before the peer's close frame, which are checked.
            Leaving::Handshake => encode_masked(OpCode::Close, Fin::Set, b"\x03\xe8done", [1, 2, 3, 4], &mut out),
            Leaving::Cut(end) => {
                if random.chance(500) {
                    let left = random.within(0..=line.on_the_way.len());
                    line.on_the_way.truncate(left);
                }
                line.end = Some(end);
            }
            Leaving::Trespass => drop(self.websocket.send(OpCode::Text, Fin::Set, b"trespass", &mut out)),
            Leaving::Asking => drop(self.websocket.send(OpCode::Text, Fin::Set, b"close", &mut out)),
            Leaving::Breach => out.extend([0x83, 0x80, 0, 0, 0, 0]),
        }
        line.on_the_way.extend(out);
        self.leaving = Some(how);
    }

    /// Returns whether the client reads no more.
    pub(super) fn has_no_reader(&self) -> bool {
        matches!(self.leaving, Some(Leaving::Cut(End::Closed | End::Reset)))
    }

    /// Looks at the bytes that were fetched, and answers.
    pub(super) fn look(&mut self, now: Tick, network: &mut Network) {
        let line = &mut network.lines[self.number];
        if line.fetched.is_empty() {
            return;
        }
        let skipped = self.answer_missing.min(line.fetched.len());
        self.answer_missing -= skipped;
        self.rest.extend_from_slice(&line.fetched[skipped..]);
        line.fetched.clear();
        let mut input = Input::new(std::mem::take(&mut self.rest));
        let mut replies = Vec::new();
        let limits = MessageLimits::default();
        loop {
            match self.websocket.receive(now, &mut input, &limits, &mut replies) {
                Ok(None) => break,
                Ok(Some(Event::Message(message))) if message.payload().first() == Some(&b'!') => {
                    let expected = format!("!{}", self.pongs);
                    assert_eq!(message.payload(), expected.as_bytes(), "questions are answered in order");
                    self.pongs += 1;
                }
                Ok(Some(Event::Message(message))) => {
                    let name = read_name(message.payload());
                    assert!(name == EMPTY || message.payload() == payload(name, message.payload().len()), "{name:x}");
                    let expected = if name == EMPTY { MessageType::Text } else { message_type(name) };
                    assert_eq!(message.message_type(), expected, "the type of {name:x}");
                    self.received.push(name);
                }
                Ok(Some(Event::Fragment(_))) => unreachable!("whole messages were asked for"),
                Ok(Some(Event::Ping(_))) => {}
                Ok(Some(Event::Pong(payload))) => {
                    assert_eq!(payload, self.pongs.to_string().as_bytes(), "pings are answered in order");
                    self.pongs += 1;
                }
                Ok(Some(Event::Close(frame))) => {
                    self.close = Some((frame.code.unwrap_or(CloseCode::NO_STATUS), frame.reason.to_owned()));
                }
                Err(error) => panic!("client {} sees the server break the protocol: {error}", self.number),
            }
        }
        self.rest = input.into_rest();
        let may_answer = !self.deaf && self.leaving != Some(Leaving::Handshake);
        if may_answer && line.end.is_none() {
            line.on_the_way.extend(replies);
        }
    }

    /// Closes its side once the server has finished and everything was read.
    pub(super) fn follow_the_end(&self, network: &mut Network) {
        let line = &mut network.lines[self.number];
        let server_ended = (line.finished || line.dropped) && line.sent.is_empty() && line.fetched.is_empty();
        if server_ended && line.end.is_none() && !self.deaf {
            line.end = Some(End::Finished);
        }
    }
}

fn message_type(name: Name) -> MessageType {
    if (name ^ name >> 32) & 1 == 0 { MessageType::Text } else { MessageType::Binary }
}

/// Returns a payload of about `size` bytes that begins with the name. Every third one has characters of two bytes.
fn payload(name: Name, size: usize) -> Vec<u8> {
    let mut payload = format!("{:x}.", name).into_bytes();
    let missing = size.saturating_sub(payload.len());
    let filling = b'a' + (name % 26) as u8;
    if name.is_multiple_of(3) {
        payload.extend("é".as_bytes().iter().cycle().take(missing / 2 * 2));
        payload.extend(std::iter::repeat_n(filling, missing % 2));
    } else {
        payload.extend(std::iter::repeat_n(filling, missing));
    }
    payload
}

fn read_name(payload: &[u8]) -> Name {
    if payload.is_empty() {
        return EMPTY;
    }
    let end = payload.iter().position(|&byte| byte == b'.').expect("a name ends with a point");
    let digits = std::str::from_utf8(&payload[..end]).expect("a name is hexadecimal");
    Name::from_str_radix(digits, 16).expect("a name is hexadecimal")
}
