//! Limits in bytes are limits of memory: runs, backlogs and waiting entries weigh as much as the allocator counts for
//! them.
//!
//! These tests are a separate binary, since the allocator counts for all threads of the process.

use std::{
    alloc::System,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::BytesMut;
use cap::Cap;
use ringhub::{
    Publication, Scope, TopicName,
    hub::{
        AudienceId, Backlog, ConnectionId, Delivery, HubConnection, HubLimits, LARGE_PIECE_PINS, MeshEnd, MeshLimits,
        Posted, Request, Run, ShardHub, SubscribeOptions, Subscribed, Tag, Tags, Wake,
    },
    proto::{Event, Fin, Input, MessageLimits, Millis, OpCode, Role, Tick, WebSocket, encode_masked},
};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Lets only one test run at a time, since the allocator counts for all of them.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Returns how many bytes the drop of a value frees.
fn freed<T>(what: T) -> usize {
    let before = ALLOCATOR.allocated();
    drop(what);
    before - ALLOCATOR.allocated()
}

/// Returns a message as a shard receives it: in a receive buffer, or in one that has doubled until the message fits.
fn received(length: usize) -> Publication {
    let mut frame = Vec::new();
    encode_masked(OpCode::Binary, Fin::Set, &vec![7; length], [1, 2, 3, 4], &mut frame);
    let mut buffer = BytesMut::with_capacity(frame.len().next_power_of_two().max(LARGE_PIECE_PINS));
    buffer.extend_from_slice(&frame);
    let (mut input, mut replies) = (Input::new(buffer), Vec::new());
    let mut websocket = WebSocket::new(Role::Server, Tick(0));
    match websocket.receive(Tick(0), &mut input, &MessageLimits::DEFAULT, &mut replies) {
        Ok(Some(Event::Message(message))) => message.into(),
        other => panic!("{other:?} is no message"),
    }
}

/// A shard with one topic and its subscribers.
struct Shard {
    hub: ShardHub,
    topic: TopicName,
    subscribers: Vec<ConnectionId>,
}

impl Shard {
    fn new(subscribers: usize) -> Self {
        let mut hub: ShardHub = ShardHub::new(MeshEnd::alone(), HubLimits::default(), 1);
        let topic = TopicName::new("t").expect("a name");
        let subscribers = (0..subscribers).map(|_| {
            let id = hub.connections.insert(HubConnection::new(())).expect("a slot");
            assert_eq!(hub.subscribe(id, &topic, SubscribeOptions::default()), Subscribed::Live);
            id
        });
        let subscribers = subscribers.collect();
        Shard { hub, topic, subscribers }
    }

    /// Publishes one message after the other, then adds all of them to each backlog.
    fn publish(&mut self, messages: &[Publication], backlogs: &mut [Backlog]) {
        for message in messages {
            self.hub.publish_by_name(&self.topic, None, message.clone(), Scope::Server);
        }
        let mut walks: Vec<AudienceId> = Vec::new();
        self.hub.take_due(&mut walks);
        for walk in walks {
            while let Some(slot) = self.hub.next_member(walk) {
                let at = self.subscribers.iter().position(|id| id.slot() == slot).expect("a subscriber");
                let owed = self.hub.owed_by_walk(walk, slot);
                owed.pieces.into_iter().for_each(|piece| backlogs[at].push(piece, Some(&owed.topic)));
            }
            self.hub.end_walk(walk);
        }
        assert_eq!(self.hub.gathered_bytes(), 0);
    }
}

/// A backlog keeps as many bytes as it is charged, for messages of any size, however many are gathered together.
#[test]
fn a_backlog_is_charged_what_it_keeps() {
    let _alone = alone();
    for length in [0, 17, 1_000, 4_000, 16_383, 16_384, 40_000, 65_536, 300_000, 1 << 20] {
        let limit = if length < 1_000 { 256 << 10 } else { 4 << 20 };
        for together in [1, 3, 100].into_iter().filter(|together| length * together <= limit) {
            let mut shard = Shard::new(1);
            let mut backlogs = [Backlog::default()];
            let mut count = 0;
            while backlogs[0].bytes() <= limit {
                let messages: Vec<Publication> = (0..together).map(|_| received(length)).collect();
                shard.publish(&messages, &mut backlogs);
                count += together;
                // A further run could go far beyond the limit.
                if together > 1 && backlogs[0].bytes() > limit / 2 {
                    break;
                }
            }
            let charged = backlogs[0].bytes();
            let kept = freed(backlogs);
            let what = format!("{count} messages of {length}, {together} at a time: charged {charged}, kept {kept}");
            assert!((charged * 9 / 10..charged * 11 / 10).contains(&kept), "{what}");
            // A backlog keeps little besides the messages.
            assert!(length < 17 || kept <= count * (length + 14) * 11 / 10 + 70_000, "{what}");
        }
    }
}

/// Two of the largest messages fit into a limit of two of them, with small messages beside them.
#[test]
fn two_of_the_largest_messages_fit() {
    let _alone = alone();
    for length in [65_536, 1 << 20] {
        let mut shard = Shard::new(1);
        let mut backlogs = [Backlog::default()];
        shard.publish(&[received(4)], &mut backlogs);
        shard.publish(&[received(length)], &mut backlogs);
        shard.publish(&[received(100)], &mut backlogs);
        shard.publish(&[received(length)], &mut backlogs);
        assert!(backlogs[0].bytes() <= 2 * length + Backlog::BESIDES, "{}", backlogs[0].bytes() - 2 * length);
    }
}

/// Many slow consumers of one topic keep its messages only once, although each backlog is charged for them.
#[test]
fn messages_of_many_backlogs_are_kept_once() {
    let _alone = alone();
    const COUNT: usize = 50;
    for (length, together) in [(1_000, 50), (16_384, 2), (65_536, 1), (1 << 20, 1)] {
        let mut shard = Shard::new(COUNT);
        let mut backlogs: Vec<Backlog> = (0..COUNT).map(|_| Backlog::default()).collect();
        for _ in 0..4 {
            let messages: Vec<Publication> = (0..together).map(|_| received(length)).collect();
            shard.publish(&messages, &mut backlogs);
        }
        let each = backlogs[0].bytes();
        assert!(each >= 4 * together * length && backlogs.iter().all(|backlog| backlog.bytes() == each));
        let kept = freed(backlogs);
        assert!(kept <= each + each / 10 + COUNT * 1_024, "{COUNT} slow consumers charged {each} keep {kept}");
    }
}

/// The weight of a run includes its frames, the buffers that large frames pin, its pieces and its exclusions.
#[test]
fn a_run_weighs_what_it_takes() {
    let _alone = alone();
    let check = |what: &str, run: &dyn Fn() -> Run| {
        let run = run();
        let weight = run.weight();
        // The weight includes the walk that the run becomes, so the test allocates a box for the run.
        let taken = freed(Box::new(run));
        assert!((taken * 9 / 10..taken * 13 / 10 + 1_024).contains(&weight), "{what}: weighs {weight}, takes {taken}");
    };
    let of = |length: usize, count: usize, source: &dyn Fn(usize) -> Option<u32>| {
        let mut run = Run::default();
        (0..count).for_each(|number| run.append(received(length).frame(), source(number), None));
        run
    };
    check("one empty message", &|| of(0, 1, &|_| None));
    check("tiny messages", &|| of(17, 100_000, &|_| None));
    check("small messages", &|| of(1_000, 3_000, &|_| None));
    check("large messages that pin their receive buffers", &|| of(16_384, 20, &|_| None));
    check("messages with tags", &|| with_tags(17, 10_000));
    check("a message whose buffer has grown", &|| of(300_000, 5, &|_| None));
    check("a message whose buffer has doubled", &|| of(524_300, 5, &|_| None));
    check("two sources that alternate", &|| of(0, 100_000, &|number| Some(number as u32 % 2)));
    check("each from another source", &|| of(0, 100_000, &|number| Some(number as u32)));
}

fn with_tags(length: usize, count: u64) -> Run {
    let mut run = Run::new(BytesMut::new(), Tags::On);
    (0..count).for_each(|time| {
        run.append(received(length).frame(), None, Some(&Tag { place: None, time: Millis(time), key: None }))
    });
    run
}

/// A backlog is charged for the tags that it keeps after their run has gone.
#[test]
fn a_backlog_is_charged_its_tags() {
    let _alone = alone();
    let topic = TopicName::new("t").expect("a name");
    for (length, together) in [(0, 50), (17, 10_000), (1_000, 100)] {
        let mut backlog = Backlog::default();
        for _ in 0..20 {
            let mut run = with_tags(length, together).freeze();
            run.owed(1).into_iter().for_each(|piece| backlog.push(piece, Some(&topic)));
        }
        let (labels, charged) = (backlog.labels().count(), backlog.bytes());
        // Each label is charged for the topic's name, which exists only once.
        let kept = freed(backlog) + labels * 33;
        assert!((charged * 9 / 10..charged * 11 / 10).contains(&kept), "charged {charged}, kept {kept}");
    }
}

/// Entries that wait beside the lanes weigh at least the memory that they take, however small their messages are.
#[test]
fn entries_weigh_what_they_take() {
    let _alone = alone();
    let limits = MeshLimits { lane_entries_max: 2, ..MeshLimits::default() };
    let check = |what: &str, ends: usize, send: &dyn Fn(&mut [MeshEnd])| {
        let mut ends = MeshEnd::connect((0..ends).map(|_| Arc::new(|| {}) as Wake).collect(), &limits);
        let before = ALLOCATOR.allocated();
        send(&mut ends);
        let taken = ALLOCATOR.allocated() - before;
        let weight = ends[0].waiting_bytes();
        // The first two entries of each lane are in the lane.
        assert!(weight >= taken * 98 / 100, "{what}: weighs {weight}, takes {taken}");
        // Entries that share a message are each charged for it.
        assert!(weight <= taken * (2 * ends.len() - 1), "{what}: weighs {weight}, takes {taken}");
    };
    let topic = TopicName::new("t").expect("a name");
    let publication = |length| {
        let (topic, publication) = (topic.clone(), received(length));
        Arc::new(Posted { topic, source: None, publication })
    };
    let place = ringhub::Place { epoch: 1, offset: 1, previous: 0 };
    for (length, count) in [(0, 3_000), (17, 3_000), (1_000, 3_000), (16_384, 200), (300_000, 120), (524_300, 120)] {
        check("requests", 2, &|ends| {
            (0..count).for_each(|_| ends[0].request(1, Request::Publish(publication(length))));
        });
        check("deliveries", 2, &|ends| {
            for _ in 0..count {
                ends[0].deliver(1, Delivery::Publication { posted: publication(length), place });
            }
        });
        check("deliveries to three shards", 4, &|ends| {
            for _ in 0..count {
                let posted = publication(length);
                for shard in 1..4 {
                    ends[0].deliver(shard, Delivery::Publication { posted: Arc::clone(&posted), place });
                }
            }
        });
    }
    check("acknowledgements", 2, &|ends| {
        for number in 0..3_000 {
            ends[0].deliver(1, Delivery::Acknowledged { topic: topic.clone(), number, end: None });
        }
    });
}
