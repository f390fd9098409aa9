//! The control thread's end of the mesh: it publishes, sends commands, and takes the answers.

use std::collections::{HashMap, VecDeque};

use super::{
    answering::CLOSED_BY_COMMAND,
    driver::Woken,
    names::{CONTROL, Name, Stream, name, prepare},
};
use crate::{
    hub::{Command, ConnectionId, ExternalEnd, Place, Receipt, Reply, TopicName, home, testing::UnderWay},
    proto::{KeepAlive, PreparedMessage},
};

/// The control thread's end, driven as `control::publisher` drives it.
pub(super) struct Control {
    end: ExternalEnd,
    woken: Woken,
    is_asleep: bool,
    /// Messages are refused from now on.
    is_leaving: bool,
    /// The requests that wait for room.
    queue: VecDeque<Submission>,
    /// The requests that wait for an answer, by ticket.
    waiting: HashMap<u64, Waiting>,
    ticket: u64,
    /// The messages that were submitted.
    pub(super) posts: Vec<Post>,
    /// The number of the next message of each topic.
    numbers: Vec<u32>,
    pub(super) commands: u64,
}

/// A message that was submitted.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) topic: usize,
    pub(super) name: Name,
    /// The client that is the message's source: it gets the message only with an echo.
    pub(super) source: Option<usize>,
    /// Whether the publisher wants a receipt.
    asks: bool,
    /// The place that the topic's home has answered.
    pub(super) place: Option<Place>,
    /// The receipt that the topic's home has answered, if it has not been given up.
    pub(super) receipt: Option<Receipt>,
}

/// A request that is not submitted yet.
#[derive(Debug)]
enum Submission {
    Publish {
        topic: (usize, TopicName),
        source: Option<(usize, ConnectionId)>,
        name: Name,
        size: usize,
        /// Whether the publisher wants a receipt.
        asks: bool,
    },
    Command {
        shard: u16,
        command: Command,
    },
    /// A list of the ids of a shard's open connections. So many clients have joined by now.
    List {
        shard: u16,
        clients: usize,
    },
    Send {
        client: usize,
        id: ConnectionId,
    },
}

/// A request that waits for its answer.
#[derive(Debug)]
enum Waiting {
    /// A place for the message of this number.
    Place(usize),
    /// The outcome of a message for this client.
    Sent(usize),
    /// The ids of this shard's open connections. So many clients had joined when the list was asked for.
    Connections(u16, usize),
    /// Any other answer.
    Done,
}

/// The answers of a step that concern clients.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The numbers of the messages that have got a place.
    pub(super) places: Vec<usize>,
    /// Clients whose connection has taken a message, and the message's ticket.
    pub(super) accepted: Vec<(usize, u64)>,
    /// The ids of a shard's open connections, after the number of clients that had joined when the list was asked for.
    pub(super) connections: Vec<(u16, usize, Box<[ConnectionId]>)>,
}

impl Control {
    pub(super) fn new(end: ExternalEnd, woken: Woken) -> Self {
        Control {
            end,
            woken,
            is_asleep: false,
            is_leaving: false,
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            ticket: 0,
            posts: Vec::new(),
            numbers: Vec::new(),
            commands: 0,
        }
    }

    /// Returns whether a step is due.
    pub(super) fn is_due(&self) -> bool {
        !self.is_asleep || self.woken.is_set() || self.next().is_some()
    }

    /// Returns the index of the first request whose shard has room.
    fn next(&self) -> Option<usize> {
        self.queue.iter().position(|submission| !self.end.is_behind(submission.shard(self.end.shards())))
    }

    /// Returns whether every request was answered.
    pub(super) fn is_at_rest(&self) -> bool {
        self.queue.is_empty() && self.waiting.is_empty() && UnderWay::of_external(&self.end) == UnderWay::default()
    }

    pub(super) fn overflowed(&self) -> u64 {
        self.end.overflowed()
    }

    /// Submits a message when there is room, and asks for a receipt. A client may be the message's source.
    pub(super) fn publish(
        &mut self,
        (topic, topic_name): (usize, TopicName),
        source: Option<(usize, ConnectionId)>,
        size: usize,
        asks: bool,
    ) -> Name {
        if self.numbers.len() <= topic {
            self.numbers.resize(topic + 1, 0);
        }
        let name = name(CONTROL, topic, Stream::Forwarded, self.numbers[topic]);
        self.numbers[topic] += 1;
        self.queue.push_back(Submission::Publish { topic: (topic, topic_name), source, name, size, asks });
        name
    }

    /// Sends a message to a client's connection.
    pub(super) fn send(&mut self, client: usize, id: ConnectionId) {
        self.enqueue(Submission::Send { client, id });
    }

    /// Commands a shard to close a connection.
    pub(super) fn close(&mut self, id: ConnectionId) {
        let command = Command::Close { id, code: CLOSED_BY_COMMAND, reason: "by command".into() };
        self.enqueue(Submission::Command { shard: id.shard(), command });
    }

    /// Commands a shard to set the keep-alive of one connection or all.
    pub(super) fn set_keep_alive(&mut self, shard: usize, id: Option<ConnectionId>, keep_alive: KeepAlive) {
        let command = Command::KeepAlive { id, keep_alive };
        self.enqueue(Submission::Command { shard: shard as u16, command });
    }

    /// Commands a shard to list its open connections; so many clients have joined.
    pub(super) fn list(&mut self, shard: usize, clients: usize) {
        self.enqueue(Submission::List { shard: shard as u16, clients });
    }

    fn enqueue(&mut self, submission: Submission) {
        self.commands += 1;
        self.queue.push_back(submission);
    }

    /// Refuses messages from now on, and sends the shards a barrier after the earlier messages.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
        self.is_asleep = false;
        self.end.awake();
        self.end.send_barrier();
    }

    /// Returns how many messages have asked for receipts and got none, some of which were given up.
    pub(super) fn receipts_missing(&self) -> usize {
        self.posts.iter().filter(|post| post.asks && post.receipt.is_none()).count()
    }

    /// Returns whether many requests wait for room.
    pub(super) fn is_busy(&self) -> bool {
        self.queue.len() >= QUEUE_MAX
    }

    /// Sends the requests for which there is room, and takes the answers.
    pub(super) fn step(&mut self) -> Answers {
        if self.is_asleep {
            self.woken.take();
            self.is_asleep = false;
            self.end.awake();
        }
        while let Some(submission) = self.next().and_then(|index| self.queue.remove(index)) {
            self.submit(submission);
        }
        self.end.send_out();
        let answers = self.take_answers();
        self.is_asleep = self.end.may_sleep();
        answers
    }

    fn submit(&mut self, submission: Submission) {
        self.ticket += 1;
        let waiting = match submission {
            Submission::Publish { .. } if self.is_leaving => return,
            Submission::Publish { topic: (topic, topic_name), source, name, size, asks } => {
                let (source, id) = source.unzip();
                let message = prepare(name, size);
                let message = if asks { message.ask_receipt() } else { message };
                self.end.submit(topic_name, id, message, self.ticket);
                self.posts.push(Post { topic, name, source, asks, place: None, receipt: None });
                Waiting::Place(self.posts.len() - 1)
            }
            Submission::Command { shard, command } => {
                self.end.command(shard, command, self.ticket);
                Waiting::Done
            }
            Submission::List { shard, clients } => {
                self.end.command(shard, Command::List, self.ticket);
                Waiting::Connections(shard, clients)
            }
            Submission::Send { client, id } => {
                let message = PreparedMessage::text(&format!("~{}", self.ticket));
                self.end.command(id.shard(), Command::Send { id, message }, self.ticket);
                Waiting::Sent(client)
            }
        };
        self.waiting.insert(self.ticket, waiting);
    }

    fn take_answers(&mut self) -> Answers {
        let mut answers = Answers::default();
        while let Some((ticket, reply)) = self.end.next_answer() {
            match (self.waiting.remove(&ticket), reply) {
                (Some(Waiting::Place(number)), reply) => {
                    let published = reply.published().expect("an answer to a message").expect("the message has no id");
                    let post = &mut self.posts[number];
                    assert_eq!(published.receipt.is_some(), post.asks, "{post:?}");
                    post.place = Some(published.place);
                    post.receipt = published.receipt.and_then(Result::ok);
                    answers.places.push(number);
                }
                (Some(Waiting::Sent(client)), Reply::Sent(sent)) if sent.is_accepted() => {
                    answers.accepted.push((client, ticket));
                }
                (Some(Waiting::Sent(_)), Reply::Sent(_)) | (Some(Waiting::Done), Reply::Done(_)) => {}
                (Some(Waiting::Connections(shard, clients)), Reply::Connections(ids)) => {
                    answers.connections.push((shard, clients, ids));
                }
                (waiting, reply) => panic!("ticket {ticket}: {reply:?} is no answer for {waiting:?}"),
            }
        }
        answers
    }
}

/// The most requests that may wait for room.
const QUEUE_MAX: usize = 30;

impl Submission {
    /// Returns which of `shards` shards the request goes to.
    fn shard(&self, shards: u16) -> u16 {
        match self {
            Submission::Publish { topic: (_, name), .. } => home(name, shards),
            Submission::Send { id, .. } => id.shard(),
            Submission::Command { shard, .. } | Submission::List { shard, .. } => *shard,
        }
    }
}
