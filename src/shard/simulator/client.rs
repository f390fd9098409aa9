//! A client of the simulated network: its actions, and the messages that it has seen.

use std::{collections::VecDeque, mem};

use bytes::BytesMut;

use super::{
    line::End,
    names::{EMPTY, Name, Stream, message_type, name, payload, read_name},
    network::Network,
    random::Random,
};
use crate::{
    config::Limits,
    hub::{
        Backlog, ConnectionId, Format,
        testing::{REVERSED, reversed},
    },
    proto::{CloseCode, Fin, OpCode, Tick},
    shard::session::client_end::{ClientEnd, Heard, Protocol},
};

/// The subscription of a client to a topic, for a part of its life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    pub(super) topic: usize,
    pub(super) echo: bool,
    /// The place of the connection's shard in the topic's order when the connection subscribed: the connection gets no
    /// earlier message.
    pub(super) asked_at: u64,
    /// The offset of the topic's last message when the connection learned that the subscription is live: the connection
    /// gets every later message.
    pub(super) live_at: Option<u64>,
    /// The places of the shard before and after the turn in which the subscription ended, if it ended before the
    /// connection did.
    pub(super) until: Option<Span>,
}

impl Subscription {
    /// Returns a subscription that is not live yet, asked for at this place.
    pub(super) fn new(topic: usize, echo: bool, asked_at: u64) -> Self {
        Subscription { topic, echo, asked_at, live_at: None, until: None }
    }
}

/// A place in a topic's order that is known to lie between two bounds. A place is the number of messages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Span {
    /// Returns a place that is known exactly.
    pub(super) fn exactly(place: u64) -> Self {
        Span { low: place, high: place }
    }
}

/// The way in which a client ends its connection, if it does so before the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The client sends the goodbye of its protocol.
    Goodbye,
    /// The client ends its side or resets the connection, perhaps in the middle of a frame.
    Cut(End),
    /// The client sends a message though it only receives.
    Trespass,
    /// The client asks its handler to close the connection.
    Asking,
    /// The client breaks its protocol.
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

/// Bytes that pongs may add to a backlog before its limit is checked: their own, and the doubling of the buffer that
/// little pieces are copied into.
const OUTBOX_MOST: usize = 1_024 + 32 * 1_024;

/// A client, and its connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    /// The shard of the client's connection, and the connection's line in that shard's network.
    pub(super) shard: usize,
    pub(super) line: usize,
    /// The client reads everything at once and never leaves.
    pub(super) observes: bool,
    /// The form in which the client gets what is published to its topics.
    pub(super) format: Format,
    /// The topic of the messages that the client sends.
    pub(super) topic: usize,
    pub(super) publishes: bool,
    /// Whether the client receives its own messages too if it subscribes to that topic.
    pub(super) echo: bool,
    /// All subscriptions that there have been.
    pub(super) subscriptions: Vec<Subscription>,
    /// How many messages calls have published for the client, by topic.
    pub(super) called: Vec<u32>,
    /// How many messages the client's handler was asked to publish, by topic.
    pub(super) asked_to_publish: Vec<u32>,
    /// How many messages its handler publishes when a subscription goes live.
    pub(super) live_messages: u32,
    /// How many messages its handler was asked to publish at the connection's end. The handler publishes only the last.
    pub(super) farewells: u32,
    /// The client neither reads nor writes.
    pub(super) mute: bool,
    /// The client answers neither pings nor goodbyes, but reads.
    pub(super) deaf: bool,
    pub(super) leaving: Option<Leaving>,
    /// The connection on the server's side.
    pub(super) id: Option<ConnectionId>,
    /// The shard's places in the topics when the connection was last seen open, and when it was first seen not to be.
    pub(super) open_until: Vec<u64>,
    pub(super) closed_at: Option<Vec<u64>>,
    /// Until when the server's goodbye to the client waits for marks.
    pub(super) marks_until: Option<Tick>,
    /// The marks have taken too long.
    pub(super) has_late_marks: bool,
    /// The connection's backlog after the last turn.
    pub(super) backlog: Option<BacklogSeen>,
    /// The connection has ended.
    pub(super) gone: bool,
    /// An act of the handler or of a call closes the connection.
    pub(super) asks_for_close: bool,
    /// The control thread was asked to close the connection.
    pub(super) is_closed_by_command: bool,
    /// The client has ended the connection, and the shard had no other reason to end it.
    pub(super) has_ended_it: bool,
    /// The control thread has sent a message to this connection.
    pub(super) is_sent_to: bool,
    /// Some bytes of the client were lost before they arrived.
    pub(super) is_truncated: bool,
    /// The tickets of the messages of the control thread that the connection has accepted.
    pub(super) accepted: Vec<u64>,
    /// The tickets of the messages of the control thread that have arrived.
    pub(super) direct: Vec<u64>,
    /// Messages that have been sent whole.
    pub(super) sent: u32,
    pub(super) sent_empty: u32,
    pub(super) received: Vec<Name>,
    /// The server's goodbye.
    pub(super) close: Option<(CloseCode, String)>,
    /// Bytes of the answer that the client has not seen yet.
    answer_missing: usize,
    pub(super) end: ClientEnd,
    rest: BytesMut,
    /// Frames to be sent. The last frame of each message has the message's name.
    frames: VecDeque<(Vec<u8>, Option<Name>)>,
    begun: u32,
    /// The number of pings and of questions to the handler, together; the answers come in the same order.
    pings: u32,
    pongs: u32,
    pub(super) asked: u32,
}

impl Client {
    /// Returns a client whose connection is line `line` of that shard's network.
    pub(super) fn new(
        number: usize,
        (shard, line): (usize, usize),
        topic: usize,
        protocol: Protocol,
        answer: &[u8],
        random: &mut Random,
    ) -> Self {
        Client {
            number,
            shard,
            line,
            observes: false,
            format: if random.chance(300) { REVERSED } else { Format::RAW },
            topic,
            publishes: true,
            echo: false,
            subscriptions: Vec::new(),
            called: Vec::new(),
            asked_to_publish: Vec::new(),
            live_messages: 0,
            farewells: 0,
            mute: false,
            deaf: false,
            leaving: None,
            id: None,
            open_until: Vec::new(),
            closed_at: None,
            marks_until: None,
            has_late_marks: false,
            backlog: None,
            gone: false,
            asks_for_close: false,
            is_closed_by_command: false,
            has_ended_it: false,
            is_sent_to: false,
            is_truncated: false,
            accepted: Vec::new(),
            direct: Vec::new(),
            sent: 0,
            sent_empty: 0,
            received: Vec::new(),
            close: None,
            answer_missing: answer.len(),
            end: ClientEnd::new(protocol, random.seed()),
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

    /// Returns whether the client may still send frames.
    pub(super) fn can_send(&self) -> bool {
        !self.mute && self.leaving.is_none() && self.end.is_open()
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
            let name = name(self.number, self.topic, Stream::Forwarded, self.begun);
            self.begun += 1;
            (name, message_type(name).opcode(), payload(name, size))
        };
        let has_fragments = self.end.protocol() == Protocol::WebSocket && random.chance(250);
        let fragments = if has_fragments { random.within(2..=5) } else { 1 };
        let mut rest = payload.as_slice();
        for fragment in 1..=fragments {
            let is_last = fragment == fragments;
            let length = if is_last { rest.len() } else { random.within(0..=rest.len()) };
            let opcode = if fragment == 1 { opcode } else { OpCode::Continuation };
            let mut frame = Vec::new();
            self.end.send(opcode, is_last.into(), &rest[..length], &mut frame);
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
            network.lines[self.line].on_the_way.extend(frame);
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
        if self.can_send() && self.end.send(OpCode::Ping, Fin::Set, self.pings.to_string().as_bytes(), &mut frame) {
            self.pings += 1;
            network.lines[self.line].on_the_way.extend(frame);
        }
    }

    /// Sends a question to the handler, which answers.
    pub(super) fn ask(&mut self, network: &mut Network) {
        let mut frame = Vec::new();
        let question = format!("?{}", self.pings);
        if self.can_send() && self.end.send(OpCode::Text, Fin::Set, question.as_bytes(), &mut frame) {
            self.pings += 1;
            self.asked += 1;
            network.lines[self.line].on_the_way.extend(frame);
        }
    }

    /// Sends an order to the handler, which acts.
    pub(super) fn order(&mut self, act: usize, network: &mut Network) {
        let mut frame = Vec::new();
        let order = format!("act {act}");
        if self.can_send() && self.end.send(OpCode::Text, Fin::Set, order.as_bytes(), &mut frame) {
            network.lines[self.line].on_the_way.extend(frame);
        }
    }

    /// Begins to leave.
    pub(super) fn leave(&mut self, how: Leaving, random: &mut Random, network: &mut Network) {
        let line = &mut network.lines[self.line];
        let mut out = Vec::new();
        match how {
            Leaving::Goodbye => self.end.say_goodbye(&mut out),
            Leaving::Cut(end) => {
                if random.chance(500) {
                    let left = random.within(0..=line.on_the_way.len());
                    self.is_truncated |= left < line.on_the_way.len();
                    line.on_the_way.truncate(left);
                }
                line.end = Some(end);
            }
            Leaving::Trespass => drop(self.end.send(OpCode::Text, Fin::Set, b"trespass", &mut out)),
            Leaving::Asking => drop(self.end.send(OpCode::Text, Fin::Set, b"close", &mut out)),
            Leaving::Breach => out.extend(self.end.breach()),
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
        let line = &mut network.lines[self.line];
        if line.fetched.is_empty() {
            return;
        }
        let skipped = self.answer_missing.min(line.fetched.len());
        self.answer_missing -= skipped;
        self.rest.extend_from_slice(&line.fetched[skipped..]);
        line.fetched.clear();
        let mut replies = Vec::new();
        let (heard, rest) = self.end.hear(now, mem::take(&mut self.rest), &mut replies);
        self.rest = rest;
        heard.into_iter().for_each(|heard| self.note(heard));
        let line = &mut network.lines[self.line];
        let may_answer = !self.deaf && self.leaving != Some(Leaving::Goodbye);
        if may_answer && line.end.is_none() {
            line.on_the_way.extend(replies);
        }
    }

    /// Notes a part of the server's output.
    fn note(&mut self, heard: Heard) {
        match heard {
            Heard::Message(_, payload) if payload.first() == Some(&b'!') => {
                let expected = format!("!{}", self.pongs);
                assert_eq!(payload, expected.as_bytes(), "questions are answered in order");
                self.pongs += 1;
            }
            Heard::Message(_, payload) if payload.first() == Some(&b'~') => {
                let ticket = std::str::from_utf8(&payload[1..]).ok().and_then(|text| text.parse().ok());
                self.direct.push(ticket.expect("a message of the control thread has a ticket"));
            }
            Heard::Message(kind, found) => {
                let found = if self.format == REVERSED { reversed(kind, &found) } else { found };
                let name = read_name(&found);
                assert!(name == EMPTY || found == payload(name, found.len()), "{name:x}");
                assert_eq!(kind, message_type(name), "the type of {name:x}");
                self.received.push(name);
            }
            Heard::Pong(payload) => {
                assert_eq!(payload, self.pongs.to_string().as_bytes(), "pings are answered in order");
                self.pongs += 1;
            }
            Heard::Goodbye(code, reason) => self.close = Some((code, reason)),
        }
    }

    /// Ends the client's side once the server has ended its side and everything was read.
    pub(super) fn follow_the_end(&self, network: &mut Network) {
        let line = &mut network.lines[self.line];
        let server_ended = (line.finished || line.dropped) && line.sent.is_empty() && line.fetched.is_empty();
        if server_ended && line.end.is_none() && !self.deaf {
            line.end = Some(End::Finished);
        }
    }
}
