//! Random conversations of a caller, a book and a server, compared with a plain model: who is subscribed, who is
//! answered, and what is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// Random numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn is_one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// A command on its way to the server.
#[derive(Debug, Clone)]
enum Sent {
    Subscribe(u64, String),
    Unsubscribe(u64, String),
    Ping(u64),
}

/// What the reader of the events finds, in this order.
#[derive(Debug)]
enum Event {
    Frame(String),
    /// A connection was lost, or another one was opened.
    Moved,
}

/// A call of the caller that waits for its answer.
#[derive(Debug)]
struct Call {
    /// The topic of a call of `subscribe`, and the number of the call among those about this topic.
    subscribes: Option<(String, u32)>,
    is_unsubscribe: bool,
    /// Whether the caller waits no more.
    has_gone: bool,
}

/// A subscription as the server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtServer {
    /// It has yet to be live; the command has this id.
    Pending(u64),
    Live,
}

/// The server's part of the open connection.
#[derive(Debug, Default)]
struct Server {
    commands: VecDeque<Sent>,
    topics: BTreeMap<String, AtServer>,
}

/// A caller, its book, and a server.
struct World {
    random: Random,
    book: TopicBook<u32>,
    /// The number of the open connection.
    open: Option<u64>,
    connections: u64,
    server: Server,
    events: VecDeque<Event>,
    calls: BTreeMap<u32, Call>,
    next_call: u32,
    /// The topics that the caller takes itself to be subscribed to, or to become so.
    wanted: BTreeSet<String>,
    /// How many calls there were about each topic.
    turns: BTreeMap<String, u32>,
    /// The offset of each topic's last message.
    offsets: BTreeMap<String, u64>,
    /// The offset that the caller knows of each topic: of a subscription, of a message, of a notice.
    known: BTreeMap<String, u64>,
    now: Instant,
    /// Whether everything goes well from now on.
    is_calm: bool,
}

/// The prefix of the topics at the server's route.
const PREFIX: &str = "in/";

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            random: Random(seed),
            book: TopicBook::default(),
            open: None,
            connections: 0,
            server: Server::default(),
            events: VecDeque::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            wanted: BTreeSet::new(),
            turns: BTreeMap::new(),
            offsets: BTreeMap::new(),
            known: BTreeMap::new(),
            now: Instant::now(),
            is_calm: false,
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.connections += 1;
        self.open = Some(self.connections);
        self.server = Server::default();
        self.events.push_back(Event::Moved);
    }

    fn lose(&mut self) {
        self.open = None;
        self.server = Server::default();
        self.events.push_back(Event::Moved);
    }

    fn call(&mut self, subscribes: Option<&str>, is_unsubscribe: bool) -> u32 {
        let number = self.next_call;
        self.next_call += 1;
        let turn = subscribes.map(|topic| (topic.to_owned(), self.turns[topic]));
        let has_gone = self.random.is_one_in(8);
        self.calls.insert(number, Call { subscribes: turn, is_unsubscribe, has_gone });
        number
    }

    /// Begins a call about a topic: whatever earlier calls lead to, this one counts.
    fn turn(&mut self, topic: &str) {
        *self.turns.entry(topic.into()).or_default() += 1;
    }

    fn subscribe(&mut self, topic: &str) {
        let Some(open) = self.open else { return };
        let is_wanted = self.wanted.contains(topic);
        if !is_wanted {
            self.turn(topic);
        }
        self.turns.entry(topic.into()).or_default();
        let number = self.call(Some(topic), false);
        match self.book.subscribe(open, topic, false, number) {
            Ok(id) => {
                assert!(!is_wanted, "{topic} is subscribed to twice");
                self.wanted.insert(topic.into());
                self.known.remove(topic);
                self.send(id, Sent::Subscribe(id, topic.into()));
            }
            Err(TopicError::Refused(error)) => {
                assert!(is_wanted && error.code == ALREADY_SUBSCRIBED, "{error}");
                self.calls.remove(&number);
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn unsubscribe(&mut self, topic: &str) {
        self.turn(topic);
        let was_wanted = self.wanted.remove(topic);
        let number = self.call(None, true);
        match self.book.unsubscribe(self.open, topic, number) {
            Unsubscribing::Send(id) => self.send(id, Sent::Unsubscribe(id, topic.into())),
            Unsubscribing::Done(waiter) => {
                assert!(was_wanted && waiter == number);
                self.calls.remove(&number);
            }
            Unsubscribing::NotOpen => {
                assert!(!was_wanted && self.open.is_none());
                self.calls.remove(&number);
            }
        }
    }

    /// Sends a command of the caller, unless the queue refuses it.
    fn send(&mut self, id: u64, command: Sent) {
        if self.is_calm || !self.random.is_one_in(20) {
            return self.server.commands.push_back(command);
        }
        self.book.unsent(id);
        // The caller is told that its call has failed.
        let number = self.next_call - 1;
        let call = self.calls.remove(&number).expect("the call that was made last");
        if let Some((topic, _)) = call.subscribes {
            self.wanted.remove(&topic);
        } else if let Sent::Unsubscribe(_, topic) = command {
            // The server may still have the subscription, so the caller asks again.
            self.unsubscribe(&topic);
        }
    }

    /// Subscribes again, as the reader of events does.
    fn again(&mut self) {
        let Some(open) = self.open else { return };
        while let Some(Again { id, topic, .. }) = self.book.due(open, self.now) {
            if !self.is_calm && self.random.is_one_in(20) {
                return self.book.unsent(id);
            }
            self.server.commands.push_back(Sent::Subscribe(id, topic));
        }
    }

    /// Lets the server carry out its next command.
    fn serve(&mut self) {
        let Some(command) = self.server.commands.pop_front() else { return };
        match command {
            Sent::Ping(id) => self.say(format!(r#"{{"pong":{{"id":{id}}}}}"#)),
            Sent::Unsubscribe(id, topic) => match self.server.topics.remove(&topic) {
                Some(stage) => {
                    if let AtServer::Pending(id) = stage {
                        self.fail(id, 114, false);
                    }
                    self.say(format!(r#"{{"unsubscribed":{{"id":{id},"topic":"{PREFIX}{topic}"}}}}"#));
                }
                None => self.fail(id, NOT_SUBSCRIBED, false),
            },
            Sent::Subscribe(id, topic) => {
                if self.server.topics.contains_key(&topic) {
                    return self.fail(id, ALREADY_SUBSCRIBED, false);
                }
                match self.random.below(10) {
                    0 if !self.is_calm => self.fail(id, 121, false),
                    1 if !self.is_calm => self.fail(id, 132, true),
                    _ => _ = self.server.topics.insert(topic, AtServer::Pending(id)),
                }
            }
        }
    }

    /// Lets a subscription go live.
    fn go_live(&mut self, topic: &str) {
        if let Some(&AtServer::Pending(id)) = self.server.topics.get(topic) {
            self.server.topics.insert(topic.into(), AtServer::Live);
            let offset = self.offsets.get(topic).copied().unwrap_or(0);
            self.say(format!(
                r#"{{"subscribed":{{"id":{id},"topic":"{PREFIX}{topic}","epoch":"7","offset":{offset}}}}}"#
            ));
        }
    }

    /// Ends a subscription on the server's side.
    fn end(&mut self, topic: &str) {
        match self.server.topics.remove(topic) {
            Some(AtServer::Pending(id)) => self.fail(id, 117, false),
            Some(AtServer::Live) => {
                let error = r#""code":117,"name":"ended","reason":"x","temporary":false"#;
                self.say(format!(r#"{{"unsubscribed":{{"topic":"{PREFIX}{topic}",{error}}}}}"#));
            }
            None => {}
        }
    }

    /// Publishes a message, of which a subscriber gets a notice instead now and then.
    fn publish(&mut self, topic: &str) {
        let offset = self.offsets.entry(topic.into()).or_default();
        *offset += 1;
        let offset = *offset;
        if self.server.topics.get(topic) != Some(&AtServer::Live) {
            return;
        }
        let place = format!(r#""topic":"{PREFIX}{topic}","epoch":"7""#);
        let frame = if self.random.is_one_in(3) {
            format!(r#"{{"lagged":{{{place},"from":{offset},"to":{offset},"count":1,"policy":"latest"}}}}"#)
        } else {
            format!(r#"{{"message":{{{place},"offset":{offset},"data":1}}}}"#)
        };
        self.say(frame);
    }

    fn say(&mut self, frame: String) {
        self.events.push_back(Event::Frame(frame));
    }

    fn fail(&mut self, id: u64, code: u16, is_temporary: bool) {
        self.say(format!(
            r#"{{"error":{{"id":{id},"code":{code},"name":"x","reason":"x","temporary":{is_temporary}}}}}"#
        ));
    }

    /// Lets the reader take the next event.
    fn read(&mut self) {
        self.again();
        match self.events.pop_front() {
            None => {}
            Some(Event::Moved) => {
                for (number, answer) in self.book.moved(self.open) {
                    self.answer(number, &answer);
                }
            }
            Some(Event::Frame(text)) => {
                let frame = serde_json::from_str(&text).expect("a frame");
                let again = self.now + Duration::from_secs(1);
                match self.book.take(frame, text, || again) {
                    Outcome::Nothing => {}
                    Outcome::Event(event) => self.told(event),
                    Outcome::Answer { waiter, answer, event } => {
                        if self.answer(waiter, &answer)
                            && let Some(event) = event
                        {
                            self.told(event);
                        }
                    }
                }
            }
        }
    }

    /// Answers a call. Returns whether the caller had gone.
    fn answer(&mut self, number: u32, answer: &Answer) -> bool {
        let call = self.calls.remove(&number).expect("each call is answered once");
        assert!(!call.is_unsubscribe || answer.is_ok() || matches!(answer, Err(TopicError::Refused(_))));
        if let Some((topic, turn)) = call.subscribes {
            match answer {
                Ok(placed) => _ = self.known.insert(topic, placed.as_ref().expect("a place").place.unwrap().offset),
                Err(_) if self.turns[&topic] == turn => _ = self.wanted.remove(&topic),
                Err(_) => {}
            }
        }
        call.has_gone
    }

    /// Takes an event as the caller does.
    fn told(&mut self, event: TopicEvent) {
        let short = |topic: &str| topic.strip_prefix(PREFIX).expect("a prefix").to_owned();
        match event {
            TopicEvent::Subscribed { topic, place, last, .. } => {
                let (topic, offset) = (short(&topic), place.expect("a place").offset);
                if let Some(last) = last {
                    assert_eq!(Some(&last.offset), self.known.get(&topic), "{topic}");
                }
                self.known.insert(topic, offset);
            }
            TopicEvent::Unsubscribed { topic, because } => {
                assert!(because.is_some());
                let topic = topic.strip_prefix(PREFIX).unwrap_or(&topic).to_owned();
                // Frames about an earlier subscription of the topic may come behind a later call.
                if !self.book.topics.contains_key(&topic) {
                    self.wanted.remove(&topic);
                }
            }
            TopicEvent::Message(message) => self.saw(&short(&message.topic), message.place.expect("a place").offset),
            TopicEvent::Lagged(lagged) => self.saw(&short(&lagged.topic), lagged.to.expect("an offset")),
            TopicEvent::Error(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Notes the offset of a message, or of a notice.
    fn saw(&mut self, topic: &str, offset: u64) {
        if let Some(known) = self.known.get_mut(topic) {
            assert!(*known < offset, "{topic}: {offset} after {known}");
            *known = offset;
        }
    }

    fn step(&mut self) {
        let topic = TOPICS[self.random.below(TOPICS.len())];
        match self.random.below(20) {
            0..3 => self.subscribe(topic),
            3 | 4 => self.unsubscribe(topic),
            5 => {
                if let Some(open) = self.open {
                    let number = self.call(None, false);
                    let id = self.book.command(open, number);
                    self.send(id, Sent::Ping(id));
                }
            }
            6 if self.random.is_one_in(3) => self.lose(),
            6 | 7 if self.open.is_none() => self.connect(),
            8..11 => self.serve(),
            11 | 12 => self.go_live(topic),
            13 if self.random.is_one_in(2) => self.end(topic),
            14 | 15 => self.publish(topic),
            16 => self.now += Duration::from_millis(500),
            _ => self.read(),
        }
    }

    /// Lets everything come to rest on an open connection.
    fn rest(&mut self) {
        self.is_calm = true;
        if self.open.is_none() {
            self.connect();
        }
        for _ in 0..200 {
            self.now += Duration::from_secs(1);
            while !self.server.commands.is_empty() {
                self.serve();
            }
            TOPICS.iter().for_each(|topic| self.go_live(topic));
            self.read();
        }
        assert!(self.events.is_empty());
    }

    fn check(&self) {
        let at_server: BTreeSet<String> = self.server.topics.keys().cloned().collect();
        let in_book: BTreeSet<String> = self.book.topics.keys().cloned().collect();
        assert_eq!((&in_book, &self.wanted), (&at_server, &at_server), "the book, the caller and the server differ");
        assert!(self.calls.is_empty(), "nobody answers {:?}", self.calls);
        assert!(self.book.commands.is_empty() && self.book.idle == 0 && self.book.again == 0, "{:?}", self.book);
        assert!(self.book.names.len() == in_book.len(), "{:?}", self.book);
        for topic in &in_book {
            let Topic { stage, last, .. } = &self.book.topics[topic];
            assert!(matches!(stage, Stage::Live { connection } if Some(*connection) == self.open), "{stage:?}");
            assert_eq!(last.map(|last| last.offset), self.offsets.get(topic).copied().or(Some(0)), "{topic}");
        }
    }
}

/// Whatever happens, the book, the caller and the server agree in the end, and each call is answered once.
#[test]
fn random_conversations_end_in_agreement() {
    for seed in 0..10_000 {
        let mut world = World::new(seed);
        let steps = 20 + world.random.below(100);
        (0..steps).for_each(|_| world.step());
        world.rest();
        world.check();
    }
}

/// No more than [`AGAIN_MAX`] commands subscribe again at the same time.
#[test]
fn few_topics_are_subscribed_to_at_once() {
    let (mut book, now) = (TopicBook::default(), Instant::now());
    let take = |book: &mut TopicBook<u32>, frame: String| {
        let frame_read = serde_json::from_str(&frame).unwrap();
        book.take(frame_read, frame, || now)
    };
    for topic in 0..1_000 {
        let id = book.subscribe(1, &topic.to_string(), false, topic).unwrap();
        let answered = take(&mut book, format!(r#"{{"subscribed":{{"id":{id},"topic":"{topic}"}}}}"#));
        let Outcome::Answer { waiter, answer: Ok(Some(placed)), .. } = answered else { panic!("{answered:?}") };
        assert_eq!((waiter, placed), (topic, Placed::default()));
    }
    assert!(book.moved(None).is_empty() && book.due(1, now).is_some());
    let mut sent: Vec<(u64, String)> = vec![];
    book.unsent(book.next - 1);
    let mut subscribed = 0;
    loop {
        while let Some(Again { id, topic, .. }) = book.due(2, now) {
            sent.push((id, topic));
        }
        assert!(sent.len() <= AGAIN_MAX);
        let Some((id, topic)) = sent.pop() else { break };
        let told = take(&mut book, format!(r#"{{"subscribed":{{"id":{id},"topic":"{topic}"}}}}"#));
        assert!(matches!(told, Outcome::Event(TopicEvent::Subscribed { .. })));
        subscribed += 1;
    }
    assert_eq!((subscribed, book.idle, book.again), (1_000, 0, 0));
}

/// A topic that the server cannot decide about is tried again later, and not before.
#[test]
fn a_topic_without_a_decision_waits() {
    let mut book = TopicBook::default();
    let now = Instant::now();
    let take = |book: &mut TopicBook<()>, frame: &str, again: Instant| {
        book.take(serde_json::from_str(frame).unwrap(), frame.into(), || again)
    };
    let due = |book: &mut TopicBook<()>, now| book.due(2, now).map(|again| (again.id, again.topic, again.has_echo));
    book.subscribe(1, "x", true, ()).unwrap();
    take(&mut book, r#"{"subscribed":{"id":0,"topic":"x"}}"#, now);
    book.moved(Some(2));
    assert_eq!(due(&mut book, now), Some((1, "x".into(), true)));
    assert_eq!(due(&mut book, now), None);
    let later = now + Duration::from_secs(5);
    let told =
        take(&mut book, r#"{"error":{"id":1,"code":132,"name":"unavailable","reason":"x","temporary":true}}"#, later);
    assert!(matches!(told, Outcome::Event(TopicEvent::Error(error)) if error.is_temporary));
    assert_eq!((due(&mut book, now), book.next_due()), (None, Some(later)));
    assert_eq!(due(&mut book, later), Some((2, "x".into(), true)));
    let told =
        take(&mut book, r#"{"error":{"id":2,"code":121,"name":"forbidden","reason":"x","temporary":false}}"#, later);
    assert!(matches!(told, Outcome::Event(TopicEvent::Unsubscribed { topic, because: Some(_) }) if topic == "x"));
    assert!(book.topics.is_empty() && book.names.is_empty());
}

/// Another connection goes on after the last message, and what comes twice is told once.
#[test]
fn a_topic_goes_on_after_its_last_message() {
    let mut book = TopicBook::default();
    let now = Instant::now();
    let take = |book: &mut TopicBook<()>, frame: &str| match book.take(
        serde_json::from_str(frame).unwrap(),
        frame.into(),
        || now,
    ) {
        Outcome::Event(TopicEvent::Message(message)) => message.place.map(|place| place.offset),
        _ => None,
    };
    let message = |offset: u64| format!(r#"{{"message":{{"topic":"x","epoch":"9","offset":{offset},"data":1}}}}"#);
    let subscribed = |id: u64, offset: u64, recovered: &str| {
        format!(r#"{{"subscribed":{{"id":{id},"topic":"x","epoch":"9","offset":{offset}{recovered}}}}}"#)
    };
    let since = |book: &mut TopicBook<()>, connection| {
        book.moved(Some(connection));
        book.due(connection, now).expect("the topic is idle").since.map(|place| (place.epoch, place.offset))
    };
    book.subscribe(1, "x", false, ()).unwrap();
    take(&mut book, &subscribed(0, 3, ""));
    assert_eq!(since(&mut book, 2), Some((9, 3)), "no message has come");
    take(&mut book, &subscribed(1, 3, r#","recovered":true"#));
    assert_eq!([4, 5, 5].map(|offset| take(&mut book, &message(offset))), [Some(4), Some(5), None]);
    // Messages behind a notice may still be on their way.
    let lagged = r#"{"lagged":{"topic":"x","epoch":"9","from":6,"to":9,"count":2,"policy":"drop_oldest"}}"#;
    take(&mut book, lagged);
    assert_eq!(since(&mut book, 3), Some((9, 5)));
    // The caller reads a message of the last connection only now.
    assert_eq!(take(&mut book, &message(7)), Some(7));
    take(&mut book, &subscribed(2, 5, r#","recovered":true"#));
    assert_eq!([6, 7, 8].map(|offset| take(&mut book, &message(offset))), [None, None, Some(8)]);
    // What is not recovered begins where the server says.
    assert_eq!(since(&mut book, 4), Some((9, 8)));
    take(&mut book, &subscribed(3, 6, r#","recovered":false"#));
    assert_eq!([7, 8].map(|offset| take(&mut book, &message(offset))), [Some(7), Some(8)]);
}
