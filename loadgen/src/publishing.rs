//! Publishes the messages of a run by its pace, until the measured window is over and everything has arrived.

use crate::connection::{Connection, State};
use crate::crew::Order;
use crate::error::Error;
use crate::generator::Generator;
use crate::options::{Activity, Load, Pace, Span};
use crate::pattern::Values;
use crate::payload::{Form, Stamp, Template};
use crate::process::{Memory, memory_of};
use crate::progress::Progress;
use crate::protocol::Publishing as Way;
use crate::replay::Recorded;
use crate::sampling::{Edge, Sampler};
use crate::sequence::SequenceChecker;
use crate::window::{Rate, Window, permits};
use std::collections::VecDeque;
use std::time::Duration;

/// The state while publishers publish.
pub(crate) struct Publishing<'g, 'a> {
    pub(crate) generator: &'g mut Generator<'a>,
    pub(crate) schedule: Schedule<'a>,
    span: Span,
    pub(crate) window: Window,
    /// The end of the window, if nothing ends it early.
    due_end_ns: u64,
    /// The message of each stream of this thread. Replayed messages have sizes of their own, and are made anew.
    templates: Vec<Template>,
    /// The messages of each publisher of this thread that are pushed and not yet written.
    waiting: Vec<VecDeque<Waiting>>,
    /// The places among these of the publishers that have such messages.
    pub(crate) busy: Vec<usize>,
    /// The threads that publish: each `of`th publisher is one of this thread.
    of: usize,
    /// The messages of each stream that the socket has taken, or that a server has accepted by HTTP.
    pub(crate) written: Vec<u64>,
    /// The subscribers of each topic.
    pub(crate) audiences: Vec<u64>,
    /// The deliveries of all pushed messages.
    pub(crate) expected: u64,
    /// The deliveries before this began.
    delivered_before: u64,
    /// Messages whose turn has come. Those of publishers that have ended are skipped.
    scheduled: u64,
    pub(crate) pushed: u64,
    next_id: u32,
}

/// When the next message is due.
pub(crate) enum Schedule<'a> {
    Rate(Rate),
    InFlight(u64),
    Unthrottled,
    /// Each connection has this many messages in flight. The connections before `begun` have sent their first ones.
    Echo {
        depth: u64,
        begun: usize,
    },
    Recorded {
        messages: &'a [Recorded],
        start_ns: u64,
    },
}

/// A message that is pushed and not yet written.
struct Waiting {
    stream: usize,
    sequence: u64,
    /// The time that is noted as that of its write, so far.
    pushed_ns: u64,
    /// [`Connection::pushed`](crate::connection::Connection::pushed) after this message.
    end: u64,
}

/// The measured window, after publishing has ended.
pub(crate) struct Measured {
    /// The edges of the window; `None` if the run ended before its window began.
    pub(crate) edges: Option<[Edge; 2]>,
    pub(crate) written: Vec<u64>,
    /// Messages that were due and that no publisher could take.
    pub(crate) unpublished: u64,
    pub(crate) is_interrupted: bool,
    /// Why the window ended early, if nobody ended it.
    pub(crate) early_end: Option<String>,
    /// In a stall, the server's memory before the stalled subscribers read again.
    pub(crate) memory_in_stall: Option<Memory>,
}

impl<'g, 'a> Publishing<'g, 'a> {
    /// Begins to publish now. The streams go on after the messages that were pushed already.
    pub(crate) fn new(generator: &'g mut Generator<'a>, pace: Pace, subscribers: usize) -> Self {
        let plan = generator.plan;
        let begin_ns = generator.now_ns();
        let duration_ns = match pace.span {
            Span::Time(duration_ns) => duration_ns,
            Span::Messages(_) => u64::MAX,
        };
        let window = Window::after(begin_ns, pace.warmup_ns, duration_ns);
        if generator.share.index == 0 {
            generator.judge.clock.set_window(window);
        }
        let schedule = match (pace.load, &plan.activity) {
            (_, Activity::Replay { messages }) => Schedule::Recorded { messages, start_ns: begin_ns },
            (Load::InFlight(depth), Activity::Echo(_)) => Schedule::Echo { depth, begun: 0 },
            (Load::Rate(per_second), _) => Schedule::Rate(Rate { start_ns: begin_ns, per_second }),
            (Load::InFlight(in_flight), _) => Schedule::InFlight(in_flight),
            (Load::Unthrottled, _) => Schedule::Unthrottled,
        };
        let share = generator.share;
        let (of, publishers, streams) = match schedule {
            Schedule::Echo { .. } => (share.of, generator.first_subscribers, generator.first_subscribers),
            Schedule::Recorded { .. } => (1, plan.publishers, 0),
            _ => (1, plan.publishers, plan.topics.streams()),
        };
        let stream_at = |place| if of > 1 { share.global(place) } else { place };
        Publishing {
            schedule,
            span: pace.span,
            window,
            due_end_ns: window.end_ns,
            templates: (0..streams).map(|place| template(generator, stream_at(place), plan.size)).collect(),
            waiting: (0..publishers).map(|_| VecDeque::new()).collect(),
            busy: Vec::new(),
            of,
            written: (0..plan.topics.streams()).map(|stream| generator.crew.pushed(stream)).collect(),
            audiences: plan.topics.audiences(subscribers),
            expected: 0,
            delivered_before: generator.deliveries(&generator.received()),
            scheduled: 0,
            pushed: 0,
            next_id: FIRST_PUBLISH_ID,
            generator,
        }
    }

    /// Publishes until the window is over, and waits for the last deliveries. Calls `each` in every turn.
    pub(crate) fn run(
        &mut self,
        sampler: &mut Sampler,
        progress: &mut dyn Progress,
        each: &mut dyn FnMut(&mut Generator<'a>, u64) -> Result<(), Error>,
    ) -> Result<Measured, Error> {
        let mut start = None;
        let warmup_ns = self.window.start_ns.saturating_sub(self.generator.now_ns());
        if warmup_ns > 0 {
            progress.warming_up(warmup_ns);
        }
        let crew = self.generator.crew;
        let mut last_step = ((0, 0), self.generator.now_ns());
        let patience_ns = self.generator.plan.drain_ns.max(PATIENCE_MIN_NS);
        let (mut end, mut is_interrupted) = loop {
            let now_ns = self.generator.now_ns();
            if start.is_none() && now_ns >= self.window.start_ns {
                start = Some(Edge::now(self.generator)?);
                sampler.begin(self.generator, self.pushed);
            }
            let steps = (self.pushed, self.generator.deliveries(&self.generator.received()));
            if steps != last_step.0 {
                last_step = (steps, now_ns);
            }
            let is_stalled = now_ns - last_step.1 > patience_ns && self.is_waiting(now_ns);
            let is_interrupted = progress.is_interrupted();
            let is_finished = self.is_finished(now_ns);
            if is_finished || is_stalled || is_interrupted {
                self.window.end_ns = self.window.end_ns.min(now_ns);
                break (Edge::now(self.generator)?, is_interrupted && !is_finished);
            }
            if start.is_some() && sampler.is_due(now_ns) {
                sampler.sample(self.generator, self.pushed, progress);
            }
            self.step(now_ns)?;
            each(self.generator, now_ns)?;
            if let Some(failure) = crew.failure() {
                return Err(failure);
            }
        };
        let early_end = self.early_end().filter(|_| !is_interrupted);
        if let (Some(_), Span::Time(_)) = (&start, self.span) {
            sampler.sample(self.generator, self.pushed, progress);
        }
        let mut memory_in_stall = None;
        if self.generator.stalled.is_some() {
            memory_in_stall = self.generator.plan.server_pid.map(memory_of);
            crew.give(Order::Read);
            self.generator.read_again()?;
            self.generator.await_followers(&mut |_| Ok(()))?;
        }
        let (drained_ns, is_ended) = self.drain(progress)?;
        is_interrupted |= is_ended;
        if let Span::Messages(_) = self.span {
            end = Edge { time_ns: drained_ns, ..Edge::now(self.generator)? };
            if start.is_some() {
                sampler.sample(self.generator, self.pushed, progress);
            }
        }
        let unpublished = match (&self.schedule, self.span) {
            _ if !self.has_publisher() => 0,
            (Schedule::Rate(_), Span::Time(_)) => self.allowed(self.window.end_ns),
            (_, Span::Messages(messages)) if !is_interrupted => messages.saturating_sub(self.scheduled),
            _ => 0,
        };
        let edges = start.map(|start| [start, end]);
        let written = self.written.clone();
        Ok(Measured { edges, written, unpublished, is_interrupted, early_end, memory_in_stall })
    }

    /// Returns why the window is over although its time or its messages are not, if so.
    fn early_end(&self) -> Option<String> {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let now_ns = self.generator.now_ns();
        if self.is_over(now_ns) {
            return None;
        }
        if self.has_publisher() {
            let patience = seconds(self.generator.plan.drain_ns);
            return Some(format!("nothing arrived and nothing could be published for {patience} s"));
        }
        let done = match self.span {
            Span::Messages(messages) => format!("{} of {messages} messages", self.scheduled),
            Span::Time(duration_ns) => {
                let done_ns = self.window.end_ns.saturating_sub(self.window.start_ns);
                format!("{:.2} of {} s", seconds(done_ns), seconds(duration_ns))
            }
        };
        let gone = if self.is_echo() { "no connection is open" } else { "no publisher is connected" };
        Some(format!("{gone} any more, after {done}"))
    }

    /// Returns the deliveries of the messages that were published since this began; in an echo, those of this thread.
    pub(crate) fn delivered(&self) -> u64 {
        let received = if self.is_echo() { self.generator.received } else { self.generator.received() };
        self.generator.deliveries(&received) - self.delivered_before
    }

    pub(crate) fn is_echo(&self) -> bool {
        matches!(self.schedule, Schedule::Echo { .. })
    }

    /// Returns the messages that were pushed, and that open connections have not written.
    pub(crate) fn unwritten(&self) -> u64 {
        let open = self.busy.iter().filter(|&&place| self.connection_at(place).socket.is_some());
        open.map(|&place| self.waiting[place].len() as u64).sum()
    }

    /// Returns whether the run cannot go on before something arrives or is taken. A schedule that has an end in time
    /// always goes on.
    fn is_waiting(&self, now_ns: u64) -> bool {
        match (&self.schedule, self.span) {
            (Schedule::Rate(_), Span::Time(_)) => false,
            (Schedule::Rate(_) | Schedule::Recorded { .. }, _) => self.allowed(now_ns) > 0 || !self.busy.is_empty(),
            (Schedule::InFlight(_) | Schedule::Unthrottled | Schedule::Echo { .. }, _) => true,
        }
    }

    fn has_publisher(&self) -> bool {
        let (opened, ended) = self.generator.crew.connections();
        (0..self.waiting.len()).any(|place| self.connection_at(place).socket.is_some())
            || (self.is_echo() && opened as u64 > ended)
    }

    /// Returns the connection of the publisher at a place among those of this thread.
    fn connection_at(&self, place: usize) -> &Connection {
        &self.generator.connections[self.generator.publisher_place(place)]
    }

    /// Returns the deliveries that have not arrived.
    pub(crate) fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.delivered())
    }

    fn is_finished(&self, now_ns: u64) -> bool {
        !self.has_publisher() || self.is_over(now_ns)
    }

    /// Returns whether the time or the messages of the run are over.
    fn is_over(&self, now_ns: u64) -> bool {
        match self.span {
            Span::Time(_) => now_ns >= self.due_end_ns,
            Span::Messages(messages) => self.scheduled >= messages,
        }
    }

    /// Publishes due messages and reads arrived ones. A spinning thread has time to spare in a step that publishes
    /// nothing and finds nothing; a thread that sleeps has it while it sleeps.
    fn step(&mut self, now_ns: u64) -> Result<(), Error> {
        let published = self.publish(now_ns)?;
        let patience = if self.generator.plan.sleep { self.nap(now_ns) } else { Duration::ZERO };
        let ready = self.generator.poll(patience)?;
        self.note_what_is_written();
        if published == 0 && ready == 0 {
            self.generator.note_spare(patience, now_ns);
        }
        Ok(())
    }

    /// Returns the time until the next due message or the next edge of the window, at most [`NAP_MAX`].
    fn nap(&self, now_ns: u64) -> Duration {
        let edge_ns = if now_ns < self.window.start_ns { self.window.start_ns } else { self.window.end_ns };
        let next_ns = match &self.schedule {
            Schedule::Rate(rate) => rate.due_ns(self.scheduled),
            Schedule::Recorded { messages, start_ns } => {
                messages.get(self.scheduled as usize).map_or(edge_ns, |message| start_ns + message.at_ns)
            }
            Schedule::InFlight(_) | Schedule::Unthrottled | Schedule::Echo { .. } => edge_ns,
        };
        Duration::from_nanos(next_ns.min(edge_ns).saturating_sub(now_ns)).min(NAP_MAX)
    }

    /// Returns how many messages may be published now.
    pub(crate) fn allowed(&self, now_ns: u64) -> u64 {
        let allowed = match &self.schedule {
            &Schedule::InFlight(in_flight) => permits(in_flight, self.pushed, self.expected, self.delivered()),
            Schedule::Rate(rate) => {
                // What is due inside the window is published even if its publisher could not take it there.
                let due = rate.due_count(now_ns.min(self.window.end_ns.saturating_sub(1)));
                due.saturating_sub(self.scheduled)
            }
            Schedule::Unthrottled | Schedule::Echo { .. } => u64::MAX,
            Schedule::Recorded { messages, start_ns } => {
                let due = messages.partition_point(|message| start_ns + message.at_ns <= now_ns);
                due as u64 - self.scheduled
            }
        };
        match self.span {
            Span::Messages(messages) => allowed.min(messages - self.scheduled),
            Span::Time(_) => allowed,
        }
    }

    /// Begins a turn of a thread that follows: publishes what may be published. Returns the number of messages.
    pub(crate) fn publish_now(&mut self) -> Result<u64, Error> {
        self.publish(self.generator.now_ns())
    }

    pub(crate) fn publish(&mut self, now_ns: u64) -> Result<u64, Error> {
        let before = self.pushed;
        if let Schedule::Echo { .. } = self.schedule {
            self.send_back(now_ns);
        } else {
            let allowed = self.allowed(now_ns).min(PUBLISH_MAX);
            for _ in 0..allowed {
                let place = self.scheduled;
                let (stream, due_ns, size) = match &self.schedule {
                    Schedule::Rate(rate) => (None, rate.due_ns(place), None),
                    Schedule::Recorded { messages, start_ns } => {
                        let message = messages[place as usize];
                        (
                            message.stream(&self.generator.plan.topics, place),
                            start_ns + message.at_ns,
                            Some(message.size),
                        )
                    }
                    Schedule::InFlight(_) | Schedule::Unthrottled | Schedule::Echo { .. } => (None, now_ns, None),
                };
                let stream = stream.unwrap_or_else(|| self.generator.plan.topics.stream_at(place));
                match self.send(stream, due_ns, now_ns, size) {
                    Sent::Later => break,
                    Sent::Pushed | Sent::Never => self.scheduled += 1,
                }
            }
        }
        if !self.busy.is_empty() {
            for at in 0..self.busy.len() {
                self.generator.flush(self.generator.publisher_place(self.busy[at]))?;
            }
            self.note_what_is_written();
        }
        Ok(self.pushed - before)
    }

    /// In an echo, sends as many messages on each connection as have come back.
    fn send_back(&mut self, now_ns: u64) {
        let Schedule::Echo { depth, begun } = &mut self.schedule else { return };
        let depth = *depth;
        let connections = self.generator.first_subscribers;
        let first = std::mem::replace(begun, connections)..connections;
        let mut due: Vec<(usize, u64)> = first.map(|index| (index, depth)).collect();
        if let Some(echoed) = &mut self.generator.echoed {
            due.append(echoed);
        }
        for (index, count) in due {
            // A server that sends a message twice gets no more for it.
            let share = self.generator.share;
            let pushed = self.generator.crew.pushed(share.global(index));
            let seen = match &self.generator.connections[index].state {
                State::Reading(reading) => reading.checkers.first().map_or(0, SequenceChecker::next),
                _ => 0,
            };
            for _ in 0..count.min(depth.saturating_sub(pushed.saturating_sub(seen))) {
                self.send(self.generator.share.global(index), now_ns, now_ns, None);
                self.scheduled += 1;
            }
        }
    }

    /// Pushes the next message of a stream, if its publisher can take one.
    fn send(&mut self, stream: usize, due_ns: u64, now_ns: u64, size: Option<usize>) -> Sent {
        let plan = self.generator.plan;
        let publisher = plan.topics.publisher_of(stream);
        let at = self.generator.publisher_at(publisher);
        let connection = &self.generator.connections[at];
        if connection.socket.is_none() {
            return Sent::Never;
        }
        let is_answer_due = match &connection.state {
            State::Posting(posting) => posting.under_way > 0,
            state => matches!(state, State::Connecting),
        };
        if is_answer_due || (connection.unsent() > UNSENT_MAX && !matches!(self.schedule, Schedule::Echo { .. })) {
            return Sent::Later;
        }
        let crew = self.generator.crew;
        let sequence = crew.pushed(stream);
        let stamp = Stamp { run: self.generator.judge.run, publisher: stream as u16, sequence, due_ns: Some(due_ns) };
        let mut own = size.map(|size| template(self.generator, stream, size));
        let template = own.as_mut().unwrap_or_else(|| &mut self.templates[stream / self.of]);
        template.set_id(self.next_id);
        self.next_id = self.next_id.wrapping_add(1) % ID_MAX;
        let bytes = template.stamped(&stamp);
        let signed = match &plan.publishing {
            Way::Post(post) => post.signed(bytes),
            Way::Message { .. } => None,
        };
        let connection = &mut self.generator.connections[at];
        connection.push(signed.as_deref().unwrap_or(bytes));
        if let State::Posting(posting) = &mut connection.state {
            posting.under_way = 1;
        }
        let place = publisher / self.of;
        let waiting = &mut self.waiting[place];
        if waiting.is_empty() {
            self.busy.push(place);
        }
        waiting.push_back(Waiting { stream, sequence, pushed_ns: now_ns, end: connection.pushed() });
        self.generator.judge.writes.note(stream, sequence, now_ns);
        // A subscriber that joins must know of each message that the server may have.
        crew.note_pushed(stream, sequence + 1);
        if !self.is_echo() {
            crew.note_published();
        }
        self.pushed += 1;
        self.expected += self.audiences[plan.topics.topic_of(stream)];
        Sent::Pushed
    }

    /// Notes which messages the sockets have taken. A message that had to wait for its socket was written when the last
    /// write began, and not when it was pushed.
    pub(crate) fn note_what_is_written(&mut self) {
        let mut busy = std::mem::take(&mut self.busy);
        busy.retain(|&place| {
            let at = self.generator.publisher_place(place);
            let connection = &mut self.generator.connections[at];
            let accepted = match &mut connection.state {
                State::Posting(posting) => Some(std::mem::take(&mut posting.accepted)),
                _ => None,
            };
            let (is_open, flushed) = (connection.socket.is_some(), connection.flushed());
            let waiting = &mut self.waiting[place];
            let mut is_late = false;
            while let Some(first) = waiting.front() {
                let is_written = match accepted {
                    Some(accepted) => accepted > 0,
                    None => first.end <= flushed,
                };
                if !is_written {
                    is_late = is_open;
                    break;
                }
                let began_ns = self.generator.write_began_ns.get(place).copied().unwrap_or_default();
                if accepted.is_none() && began_ns.saturating_sub(first.pushed_ns) > WRITE_DELAY_NS {
                    self.generator.judge.writes.note(first.stream, first.sequence, began_ns);
                }
                self.written[first.stream] = first.sequence + 1;
                waiting.pop_front();
            }
            is_late
        });
        self.busy = busy;
    }
}

/// What became of a message whose turn has come.
enum Sent {
    Pushed,
    /// The publisher cannot take a message now.
    Later,
    /// The publisher has ended.
    Never,
}

/// Makes the message of a stream, with a payload of this size.
fn template(generator: &Generator<'_>, stream: usize, size: usize) -> Template {
    let plan = generator.plan;
    let publisher = plan.topics.publisher_of(stream);
    let name = plan.topics.name(plan.topics.topic_of(stream));
    let values = Values { topic: &name, size, connection: publisher, id: 0 };
    match &plan.publishing {
        Way::Post(post) => post.template(&values),
        Way::Message { text, .. } => {
            // Each publisher has a different key, which is not zero.
            let key = (publisher as u32).wrapping_mul(0x9e37_79b9) ^ 0x6b8b_4567;
            let filled = text.fill(&values);
            debug_assert!(size >= Form::of(size).length());
            Template::of_frame(plan.opcode, key.to_be_bytes(), &filled, size)
        }
    }
}

/// The longest sleep of a generator with `--sleep` or `--hold`.
pub(crate) const NAP_MAX: Duration = Duration::from_millis(100);

/// The shortest time without a delivery after which a closed loop is given up.
const PATIENCE_MIN_NS: u64 = 100_000_000;

/// The largest number of messages that are published before the sockets are read again.
const PUBLISH_MAX: u64 = 1_024;

/// If more bytes than this wait for the socket of the publisher whose turn it is, nothing is published until the socket
/// has taken some of them. With --rate the latency of the waiting messages grows, since they are due already.
const UNSENT_MAX: usize = 1 << 20;

/// A message whose write begins later than this after its push is noted with the later time.
const WRITE_DELAY_NS: u64 = 100_000;

/// The first `{id}` of a published message, above those of subscriptions.
const FIRST_PUBLISH_ID: u32 = 1 << 20;

/// Every `{id}` stays below this, so that it has ten digits and fits into 32 bits.
const ID_MAX: u32 = 3_000_000_000;
