//! Publishes the messages of a run by its pace, until the measured window is over and everything has arrived.

use crate::connection::State;
use crate::error::Error;
use crate::generator::Generator;
use crate::options::{Activity, Load, Pace, Span};
use crate::pattern::Values;
use crate::payload::{Form, Stamp, Template};
use crate::progress::Progress;
use crate::protocol::Publishing as Way;
use crate::replay::Recorded;
use crate::sampling::{Edge, Sampler};
use crate::window::{Rate, Window, permits};
use std::collections::VecDeque;
use std::time::Duration;

/// The state while publishers publish.
pub(crate) struct Publishing<'g, 'a> {
    pub(crate) generator: &'g mut Generator<'a>,
    schedule: Schedule<'a>,
    span: Span,
    pub(crate) window: Window,
    /// The message of each stream. Replayed messages have sizes of their own, and are made anew.
    templates: Vec<Template>,
    /// The messages of each publisher that are pushed and not yet written.
    waiting: Vec<VecDeque<Waiting>>,
    /// The publishers that have such messages.
    busy: Vec<usize>,
    /// The messages of each stream that the socket has taken, or that a server has accepted by HTTP.
    pub(crate) written: Vec<u64>,
    /// The subscribers of each topic.
    pub(crate) audiences: Vec<u64>,
    /// The deliveries of all pushed messages.
    expected: u64,
    /// The deliveries before this began.
    delivered_before: u64,
    /// Messages whose turn has come. Those of publishers that have ended are skipped.
    scheduled: u64,
    pub(crate) pushed: u64,
    next_id: u32,
    pub(crate) idle_ns: u64,
}

/// When the next message is due.
enum Schedule<'a> {
    Rate(Rate),
    InFlight(u64),
    Unthrottled,
    /// Each connection has this many under way; `begun` once these were sent.
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
    /// [`Connection::pushed`](crate::connection::Connection::pushed) after this message.
    end: u64,
}

/// The measured window, after publishing has ended.
pub(crate) struct Measured {
    /// The edges of the window; `None` if the run ended before its window began.
    pub(crate) edges: Option<[Edge; 2]>,
    pub(crate) written: Vec<u64>,
    pub(crate) is_interrupted: bool,
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
        generator.judge.clocks.set_window(window);
        let schedule = match (pace.load, &plan.activity) {
            (_, Activity::Replay { messages }) => Schedule::Recorded { messages, start_ns: begin_ns },
            (Load::InFlight(depth), Activity::Echo(_)) => Schedule::Echo { depth, begun: 0 },
            (Load::Rate(per_second), _) => Schedule::Rate(Rate { start_ns: begin_ns, per_second }),
            (Load::InFlight(in_flight), _) => Schedule::InFlight(in_flight),
            (Load::Unthrottled, _) => Schedule::Unthrottled,
        };
        let streams = plan.topics.streams();
        let is_recorded = matches!(schedule, Schedule::Recorded { .. });
        Publishing {
            schedule,
            span: pace.span,
            window,
            templates: (0..if is_recorded { 0 } else { streams })
                .map(|stream| template(generator, stream, plan.size))
                .collect(),
            waiting: (0..plan.publishers).map(|_| VecDeque::new()).collect(),
            busy: Vec::new(),
            written: generator.pushed.clone(),
            audiences: plan.topics.audiences(subscribers),
            expected: 0,
            delivered_before: generator.deliveries(&generator.received()),
            scheduled: 0,
            pushed: 0,
            next_id: FIRST_PUBLISH_ID,
            idle_ns: 0,
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
        let mut last_delivery = (0, self.generator.now_ns());
        let (mut end, is_interrupted) = loop {
            let now_ns = self.generator.now_ns();
            if start.is_none() && now_ns >= self.window.start_ns {
                start = Some(Edge::now(self.generator, self.idle_ns)?);
                sampler.begin(self.generator, self.pushed)?;
            }
            let reads = self.generator.received().reads;
            if reads != last_delivery.0 {
                last_delivery = (reads, now_ns);
            }
            let is_closed = !matches!(self.schedule, Schedule::Rate(_) | Schedule::Recorded { .. });
            let is_stalled = is_closed && now_ns - last_delivery.1 > self.generator.plan.drain_ns;
            let is_interrupted = progress.is_interrupted();
            let is_finished = self.is_finished(now_ns);
            if is_finished || is_stalled || is_interrupted {
                self.window.end_ns = self.window.end_ns.min(now_ns);
                break (Edge::now(self.generator, self.idle_ns)?, is_interrupted && !is_finished);
            }
            if start.is_some() && sampler.is_due(now_ns) {
                sampler.sample(self.generator, self.pushed, progress)?;
            }
            self.step(now_ns)?;
            each(self.generator, now_ns)?;
        };
        if let (Some(_), Span::Time(_)) = (&start, self.span) {
            sampler.sample(self.generator, self.pushed, progress)?;
        }
        self.generator.end_stall()?;
        let drained_ns = self.drain()?;
        if let Span::Messages(_) = self.span {
            end = Edge { time_ns: drained_ns, ..Edge::now(self.generator, self.idle_ns)? };
            if start.is_some() {
                sampler.sample(self.generator, self.pushed, progress)?;
            }
        }
        Ok(Measured { edges: start.map(|start| [start, end]), written: self.written.clone(), is_interrupted })
    }

    /// Returns the deliveries of the messages that were published since this began.
    fn delivered(&self) -> u64 {
        self.generator.deliveries(&self.generator.received()) - self.delivered_before
    }

    /// Returns the deliveries that have not arrived.
    pub(crate) fn missing(&self) -> u64 {
        self.expected.saturating_sub(self.delivered())
    }

    fn is_finished(&self, now_ns: u64) -> bool {
        let has_publisher = (0..self.waiting.len())
            .any(|publisher| self.generator.connections[self.generator.publisher_at(publisher)].socket.is_some());
        !has_publisher
            || match self.span {
                Span::Time(_) => now_ns >= self.window.end_ns,
                Span::Messages(messages) => self.scheduled >= messages,
            }
    }

    /// Publishes due messages and reads arrived ones. The time of the step counts as time to spare if the step
    /// published nothing, and either nothing arrived or the generator could sleep (`--sleep`).
    fn step(&mut self, now_ns: u64) -> Result<(), Error> {
        let published = self.publish(now_ns);
        let patience = if self.generator.plan.sleep { self.nap(now_ns) } else { Duration::ZERO };
        let ready = self.generator.poll(patience)?;
        self.note_written(now_ns);
        if published == 0 && (ready == 0 || !patience.is_zero()) {
            self.idle_ns += self.generator.now_ns() - now_ns;
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
    fn allowed(&self, now_ns: u64) -> u64 {
        let allowed = match &self.schedule {
            &Schedule::InFlight(in_flight) => {
                let mean_audience = self.expected.checked_div(self.pushed).unwrap_or(1);
                let delivered = self.delivered();
                permits(in_flight, self.pushed, delivered, mean_audience)
            }
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

    fn publish(&mut self, now_ns: u64) -> u64 {
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
                self.generator.flush(self.generator.publisher_at(self.busy[at]));
            }
            self.note_written(now_ns);
        }
        self.pushed - before
    }

    /// In an echo, sends as many messages on each connection as have come back.
    fn send_back(&mut self, now_ns: u64) {
        let Schedule::Echo { depth, begun } = &mut self.schedule else { return };
        let depth = *depth;
        let connections = self.generator.plan.subscribers;
        let first = std::mem::replace(begun, connections)..connections;
        let mut due: Vec<(usize, u64)> = first.map(|index| (index, depth)).collect();
        if let Some(echoed) = &mut self.generator.echoed {
            due.append(echoed);
        }
        for (index, count) in due {
            for _ in 0..count {
                self.send(index, now_ns, now_ns, None);
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
        let is_answer_due = matches!(&connection.state, State::Posting(posting) if posting.under_way > 0);
        if is_answer_due || (connection.unsent() > UNSENT_MAX && !matches!(self.schedule, Schedule::Echo { .. })) {
            return Sent::Later;
        }
        let sequence = self.generator.pushed[stream];
        let stamp = Stamp { run: self.generator.judge.run, publisher: stream as u16, sequence, due_ns: Some(due_ns) };
        let mut own = size.map(|size| template(self.generator, stream, size));
        let template = own.as_mut().unwrap_or_else(|| &mut self.templates[stream]);
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
        let waiting = &mut self.waiting[publisher];
        if waiting.is_empty() {
            self.busy.push(publisher);
        }
        waiting.push_back(Waiting { stream, sequence, end: connection.pushed() });
        self.generator.judge.clocks.note_written(stream, sequence, now_ns);
        self.generator.pushed[stream] += 1;
        self.pushed += 1;
        self.expected += self.audiences[plan.topics.topic_of(stream)];
        Sent::Pushed
    }

    /// Notes which messages the sockets have taken. A message that had to wait for its socket was written now, and not
    /// when it was pushed.
    fn note_written(&mut self, turn_ns: u64) {
        let now_ns = if self.busy.is_empty() { turn_ns } else { self.generator.now_ns() };
        let mut busy = std::mem::take(&mut self.busy);
        busy.retain(|&publisher| {
            let at = self.generator.publisher_at(publisher);
            let connection = &mut self.generator.connections[at];
            let accepted = match &mut connection.state {
                State::Posting(posting) => Some(std::mem::take(&mut posting.accepted)),
                _ => None,
            };
            let (is_open, flushed) = (connection.socket.is_some(), connection.flushed());
            let waiting = &mut self.waiting[publisher];
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
                if accepted.is_none() && now_ns - turn_ns > WRITE_DELAY_NS {
                    self.generator.judge.clocks.note_written(first.stream, first.sequence, now_ns);
                }
                self.written[first.stream] = first.sequence + 1;
                waiting.pop_front();
            }
            is_late
        });
        self.busy = busy;
    }

    /// Publishes what was due inside the window and is not published yet, and waits until everything is delivered, at
    /// most for the plan's drain time. Returns the time of the end.
    fn drain(&mut self) -> Result<u64, Error> {
        let plan = self.generator.plan;
        let begin_ns = self.generator.now_ns();
        let mut checked_ns = begin_ns;
        loop {
            let now_ns = self.generator.now_ns();
            let is_overdue = matches!(self.schedule, Schedule::Rate(_)) && self.allowed(now_ns) > 0;
            if is_overdue {
                self.publish(now_ns);
            }
            let mut is_delivered = !is_overdue && self.busy.is_empty() && self.delivered() >= self.expected;
            if !is_delivered && now_ns - checked_ns > CHECK_EVERY_NS {
                checked_ns = now_ns;
                is_delivered =
                    !is_overdue && plan.threads == 1 && self.busy.is_empty() && self.generator.owes_nothing();
            }
            if is_delivered || now_ns - begin_ns > plan.drain_ns {
                return Ok(now_ns);
            }
            let patience = if plan.sleep { NAP_MAX.min(Duration::from_millis(5)) } else { Duration::ZERO };
            if self.generator.poll(patience)? == 0 {
                self.idle_ns += self.generator.now_ns() - now_ns;
            }
            self.note_written(now_ns);
        }
    }
}

impl Generator<'_> {
    /// Reads a little longer, for messages that must not come.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        let end_ns = self.now_ns() + SETTLE_NS;
        while self.now_ns() < end_ns {
            self.poll(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Returns whether every open subscriber of this thread has seen the last message of each of its streams.
    fn owes_nothing(&self) -> bool {
        self.connections.iter().filter(|connection| connection.socket.is_some()).all(|connection| {
            match &connection.state {
                State::Reading(reading) => reading.checkers.iter().enumerate().all(|(slot, checker)| {
                    let stream = self.plan.topics.stream_of_slot(reading.first_topic as usize, slot);
                    self.pushed.get(stream).is_none_or(|&pushed| checker.next() >= pushed)
                }),
                State::Dropping { .. } => false,
                State::Connecting | State::Opening(_) | State::Posting(_) => true,
            }
        })
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

/// The most messages that are published between two looks at the sockets.
const PUBLISH_MAX: u64 = 1_024;

/// If more bytes than this wait for the socket of the publisher whose turn it is, nothing is published until the socket
/// has taken some of them. With --rate the latency of the waiting messages grows, since they are due already.
const UNSENT_MAX: usize = 1 << 20;

/// A message that is written later than this after its turn began is noted with the later time.
const WRITE_DELAY_NS: u64 = 100_000;

/// How long the generator waits for duplicates and foreign messages after it has waited for the last deliveries.
const SETTLE_NS: u64 = 100_000_000;

/// The time between two looks at what each subscriber has yet to see.
const CHECK_EVERY_NS: u64 = 20_000_000;

/// The first number of a published message, above those of subscriptions.
const FIRST_PUBLISH_ID: u32 = 1 << 20;

/// Numbers stay below this, so that they have ten digits and fit into 32 bits.
const ID_MAX: u32 = 3_000_000_000;
