//! Drains of several shards: the barrier before the first close, its limit, and the numbers of the report.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};

use super::{
    line::End,
    network::{Network, Weather},
    random::Random,
    simulation::{arrival, handlers},
    socket::{SimulatedIo, SimulatedSocket},
    two_shards::CLOSE_FRAME,
    world::{ANSWER, take_sent},
};
use crate::{
    config::{Config, Settings},
    hub::{ConnectionId, EndRole, ExternalEnd, MeshEnd, MeshLimits, Publication, Scope, TopicName, Wake},
    metrics::{Counter, Counters},
    proto::Tick,
    shard::state::Shard,
};

/// Some shards, each with its own network, and the end of the control thread. The shards run as their threads would,
/// but only if the test lets them: a turn follows an event.
struct Shards {
    shards: Vec<Shard<SimulatedIo>>,
    counters: Vec<Arc<Counters>>,
    networks: Vec<Rc<RefCell<Network>>>,
    control: Option<ExternalEnd>,
    woken: Vec<Arc<AtomicBool>>,
    /// By shard: the last turn has left work, or something was done to the shard since.
    more: Vec<bool>,
    now: Tick,
}

impl Shards {
    /// Returns so many shards, whose lanes take two entries each.
    fn new(count: usize) -> Shards {
        let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
        let woken: Vec<Arc<AtomicBool>> = (0..=count).map(|_| Arc::default()).collect();
        let wake = woken.iter().map(|woken| {
            let woken = Arc::clone(woken);
            Arc::new(move || woken.store(true, Ordering::Relaxed)) as Wake
        });
        let limits = MeshLimits { lane_entries_max: 2, ..MeshLimits::default() };
        let mut ends = MeshEnd::connect_with(wake.collect(), &EndRole::shards_and_control(count), &limits);
        let control = ends.pop().map(ExternalEnd::new);
        let network = || Rc::new(RefCell::new(Network::new(Random::new(0), Weather::FAIR)));
        let networks: Vec<_> = (0..count).map(|_| network()).collect();
        let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
        let now = Tick(1);
        let shards = ends.into_iter().zip(&networks).zip(&counters).map(|((mesh, network), counters)| {
            let io = SimulatedIo::new(network);
            Shard::new(mesh, &config, io, handlers(&config), Arc::clone(counters), 1, now.begin())
        });
        let shards = shards.collect();
        Shards { shards, counters, networks, control, woken, more: vec![true; count], now }
    }

    /// Returns a topic whose home is that shard.
    fn topic(&self, home: u16) -> TopicName {
        let mut names = (0..).map(|number| TopicName::new(&format!("topic {number}")).expect("a name"));
        names.find(|name| self.shards[0].hub.home(name) == home).expect("one of many")
    }

    /// Adds a client of a shard with these subscriptions, and lets all shards work until the subscriptions are live.
    fn connect(&mut self, shard: usize, topics: &[&TopicName]) -> ConnectionId {
        let socket = SimulatedSocket::connect(&self.networks[shard], ANSWER, usize::MAX);
        let subscriptions = topics.iter().map(|&topic| (topic.clone(), true)).collect();
        let arrival = arrival(socket, subscriptions, None, Bytes::from_static(ANSWER), BytesMut::new());
        let id = self.shards[shard].adopt(self.now.begin(), arrival).expect("there is room");
        self.more[shard] = true;
        self.settle();
        id
    }

    /// Submits a message, like the control thread.
    fn submit(&mut self, topic: &TopicName, text: &str) {
        let control = self.control.as_mut().expect("it runs");
        control.submit(topic.clone(), None, Publication::text(text), 0);
        control.send_out();
    }

    /// Publishes a message on a shard, like a handler of the shard.
    fn publish(&mut self, shard: usize, topic: &TopicName, text: &str) {
        self.shards[shard].hub.publish_by_name(topic, None, Publication::text(text), Scope::Server);
        self.more[shard] = true;
    }

    /// Begins the drain of a shard.
    fn drain(&mut self, shard: usize, ticks: u32) {
        self.shards[shard].drain(self.now.begin(), ticks);
        self.more[shard] = true;
    }

    /// Lets the control thread send its barrier.
    fn send_barrier(&mut self) {
        let control = self.control.as_mut().expect("it runs");
        control.send_barrier();
        control.send_out();
    }

    /// Runs a turn of a shard if one is due. Returns whether one was.
    fn serve(&mut self, shard: usize) -> bool {
        let is_woken = self.woken[shard].swap(false, Ordering::Relaxed);
        let has_reports = self.networks[shard].borrow().has_reports();
        let is_due = self.shards[shard].next_deadline().is_some_and(|deadline| deadline.tick() <= self.now);
        if !(self.more[shard] || is_woken || has_reports || is_due) {
            return false;
        }
        self.shards[shard].awake();
        self.more[shard] = self.shards[shard].turn(self.now.begin()) || !self.shards[shard].may_sleep();
        true
    }

    /// Lets these shards, and the control thread, work until all of them sleep.
    fn settle_only(&mut self, shards: &[usize]) {
        for _ in 0..ROUNDS_MAX {
            let mut has_served = false;
            for &shard in shards {
                has_served |= self.serve(shard);
            }
            if let Some(control) = &mut self.control {
                while control.next_answer().is_some() {}
                control.send_out();
            }
            if !has_served {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    fn settle(&mut self) {
        self.settle_only(&(0..self.shards.len()).collect::<Vec<_>>());
    }

    /// Lets so many ticks pass, in each of which these shards work.
    fn pass(&mut self, ticks: u32, shards: &[usize]) {
        for _ in 0..ticks {
            self.now = self.now.after(1);
            self.settle_only(shards);
        }
    }

    /// Returns what a client was sent since the last call.
    fn sent(&mut self, shard: usize, client: usize) -> Vec<String> {
        take_sent(&self.networks[shard], client)
    }

    /// Lets a frame of a client arrive.
    fn arrive(&mut self, shard: usize, client: usize, frame: &[u8]) {
        let mut network = self.networks[shard].borrow_mut();
        network.lines[client].on_the_way.extend(frame);
        network.arrive(client, usize::MAX);
    }

    /// Lets a client send this frame and end its side in this way, and the shards act on it.
    fn leave(&mut self, shard: usize, client: usize, frame: Option<&[u8]>, end: Option<End>) {
        self.networks[shard].borrow_mut().lines[client].end = end;
        self.arrive(shard, client, frame.unwrap_or_default());
        self.settle();
    }

    /// Returns the numbers of the report: closed, left, dropped, and barriers that were late.
    fn report(&self, shard: usize) -> [u64; 4] {
        let rows = [Counter::DrainClosed, Counter::DrainLeft, Counter::DrainDropped, Counter::BarrierTimeout];
        rows.map(|counter| self.counters[shard].get(counter))
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.networks.iter().for_each(|network| network.borrow_mut().is_over = true);
    }
}

/// Rounds in which the shards must come to rest when nothing new happens.
const ROUNDS_MAX: usize = 10_000;

/// Whichever end is the last to send its barrier: no client is closed before, and each has all messages from before
/// when it is.
#[test]
fn a_drain_closes_nobody_before_its_barrier() {
    const COUNT: usize = 20;
    for last in 0..3 {
        let mut world = Shards::new(2);
        let topics = [world.topic(0), world.topic(1)];
        for shard in 0..2 {
            world.connect(shard, &[&topics[0], &topics[1]]);
            assert_eq!(world.sent(shard, 0), ["answer"]);
        }
        let mut expected = Vec::new();
        for number in 0..COUNT {
            for topic in &topics {
                world.submit(topic, &format!("post {number}"));
            }
            for (shard, topic) in [(0, &topics[1]), (1, &topics[0])] {
                world.publish(shard, topic, &format!("far {number}"));
            }
            expected.extend([format!("post {number}"), format!("far {number}")]);
        }
        expected.sort_unstable();
        let begin = |world: &mut Shards, end: usize| match end {
            0 | 1 => world.drain(end, 100),
            _ => world.send_barrier(),
        };
        let mut sent = [Vec::new(), Vec::new()];
        for end in (0..3).filter(|&end| end != last) {
            begin(&mut world, end);
            world.settle();
            for (shard, sent) in sent.iter_mut().enumerate() {
                sent.extend(world.sent(shard, 0));
                assert!(sent.iter().all(|text| !text.starts_with("close")), "before the barrier of {last}");
            }
        }
        if last < 2 {
            // This message stands in its lane just in front of the last barrier.
            world.publish(last, &topics[1 - last], "at last");
            expected.push("at last".into());
        }
        begin(&mut world, last);
        world.settle();
        for (shard, mut sent) in sent.into_iter().enumerate() {
            sent.extend(world.sent(shard, 0));
            assert_eq!(sent.pop().as_deref(), Some("close 1012"), "shard {shard}");
            // Both topics have the same texts.
            sent.sort_unstable();
            let mut twice: Vec<String> = expected.iter().flat_map(|text| [text.clone(), text.clone()]).collect();
            if last < 2 {
                // That message is of one topic only.
                twice.pop();
            }
            twice.sort_unstable();
            assert_eq!(sent, twice, "shard {shard}");
            assert_eq!(world.report(shard), [1, 0, 0, 0]);
        }
    }
}

/// An end that does nothing, or is not there any more, delays the closes by a quarter of the drain's time.
#[test]
fn a_stuck_end_delays_a_drain_by_a_quarter() {
    for is_control in [true, false] {
        let mut world = Shards::new(2);
        let topic = world.topic(0);
        world.connect(0, &[&topic]);
        assert_eq!(world.sent(0, 0), ["answer"]);
        if is_control {
            world.control = None;
            world.drain(1, 40);
        } else {
            world.send_barrier();
        }
        world.publish(0, &topic, "before");
        world.drain(0, 40);
        let working: &[usize] = if is_control { &[0, 1] } else { &[0] };
        world.settle_only(working);
        assert_eq!(world.sent(0, 0), ["before"]);
        world.pass(9, working);
        assert!(world.sent(0, 0).is_empty());
        world.publish(0, &topic, "meanwhile");
        world.settle_only(working);
        // From here on only the deadline makes the shard do something.
        world.pass(1, working);
        assert_eq!(world.sent(0, 0), ["meanwhile", "close 1012"]);
        assert_eq!(world.report(0), [1, 0, 0, 1]);
        // The other shard has closed no connection too early: it has none.
        assert_eq!(world.report(1), [0, 0, 0, 0]);
    }
}

/// A shard that takes its mail slowly is not stuck: it gathers for up to half of the drain's time, and receives nothing
/// meanwhile. Messages that it takes in this time reach its client before the close frame.
#[test]
fn a_slow_shard_gathers_for_up_to_half_of_a_drain() {
    for (posts, is_in_time) in [(30, true), (60, false)] {
        let mut world = Shards::new(1);
        let topic = world.topic(0);
        world.connect(0, &[&topic]);
        assert_eq!(world.sent(0, 0), ["answer"]);
        (0..posts).for_each(|number| world.submit(&topic, &format!("post {number}")));
        world.send_barrier();
        world.drain(0, 100);
        world.arrive(0, 0, b"\x82\x80\0\0\0\0");
        // The shard takes a message in each tick.
        world.shards[0].pace.mail = 1;
        let mut sent = Vec::new();
        while sent.last().is_none_or(|last| last != "close 1012") {
            assert_eq!(world.counters[0].get(Counter::MessagesIn), 0, "input waits");
            world.now = world.now.after(1);
            world.serve(0);
            let control = world.control.as_mut().expect("it runs");
            while control.next_answer().is_some() {}
            control.send_out();
            sent.extend(world.sent(0, 0));
        }
        let taken = sent.len() - 1;
        assert_eq!(sent[..taken], (0..taken).map(|number| format!("post {number}")).collect::<Vec<_>>());
        assert_eq!((taken == posts, world.report(0)), (is_in_time, [1, 0, 0, u64::from(!is_in_time)]));
        assert!(taken >= 30, "{taken} messages in half of the time");
    }
}

/// A drain without any time closes all connections at once, and waits for no barrier.
#[test]
fn a_drain_without_time_waits_for_nobody() {
    let mut world = Shards::new(2);
    let topic = world.topic(1);
    (0..300).for_each(|_| _ = world.connect(0, &[&topic]));
    world.drain(0, 0);
    world.serve(0);
    assert_eq!(world.report(0), [300, 0, 0, 1]);
    world.settle_only(&[0]);
    assert!((0..300).all(|client| world.sent(0, client) == ["answer", "close 1012"]));
}

/// Messages that are published during the closes reach the connections that are still open, and no others.
#[test]
fn messages_after_the_barrier_reach_connections_that_are_open() {
    const CLIENTS: usize = 250;
    let mut world = Shards::new(2);
    let topic = world.topic(1);
    (0..CLIENTS).for_each(|_| _ = world.connect(0, &[&topic]));
    (0..CLIENTS).for_each(|client| _ = world.sent(0, client));
    world.publish(0, &topic, "before");
    world.send_barrier();
    world.drain(1, 100);
    world.drain(0, 100);
    world.settle();
    for at in ["1", "2", "3"] {
        world.publish(1, &topic, at);
        world.settle();
        world.pass(1, &[0, 1]);
    }
    let sent: Vec<Vec<String>> = (0..CLIENTS).map(|client| world.sent(0, client)).collect();
    assert!(sent[..100].iter().all(|sent| *sent == ["before", "close 1012"]), "{:?}", sent[0]);
    assert!(sent[100..200].iter().all(|sent| *sent == ["before", "1", "close 1012"]), "{:?}", sent[100]);
    assert!(sent[200..].iter().all(|sent| *sent == ["before", "1", "2", "close 1012"]), "{:?}", sent[200]);
    assert_eq!(world.report(0), [CLIENTS as u64, 0, 0, 0]);
}

/// A connection that was accepted before the drain, and that the shard adopts during it, is closed after the barriers.
#[test]
fn a_connection_that_comes_late_is_closed_after_the_barrier() {
    let mut world = Shards::new(2);
    let topic = world.topic(0);
    world.drain(0, 100);
    world.settle();
    world.connect(0, &[&topic]);
    assert_eq!(world.sent(0, 0), ["answer"]);
    world.publish(1, &topic, "before");
    world.drain(1, 100);
    world.send_barrier();
    world.settle();
    assert_eq!(world.sent(0, 0), ["before", "close 1012"]);
}

/// Some of the connections that a drain has closed leave, and some do not; others began to close before the drain.
#[test]
fn the_report_of_a_drain_counts_every_end() {
    let mut world = Shards::new(1);
    let topic = world.topic(0);
    let close_ticks = world.shards[0].handlers.routes[0].rules.keep_alive.close_timeout;
    (0..6).for_each(|_| _ = world.connect(0, &[&topic]));
    // One client leaves before the drain. Another begins to close before the drain, and leaves in time.
    world.leave(0, 0, Some(CLOSE_FRAME), Some(End::Finished));
    world.leave(0, 1, Some(CLOSE_FRAME), None);
    assert_eq!(world.sent(0, 1), ["answer", "close 1000"]);
    (0..6).for_each(|client| _ = world.sent(0, client));
    world.settle();
    assert_eq!(world.shards[0].open(), 5);
    world.send_barrier();
    world.drain(0, 2 * close_ticks);
    world.settle();
    assert_eq!(world.report(0), [4, 0, 0, 0]);
    assert!((2..6).all(|client| world.sent(0, client) == ["close 1012"]));
    world.leave(0, 1, None, Some(End::Finished));
    world.leave(0, 2, Some(CLOSE_FRAME), Some(End::Finished));
    world.leave(0, 3, Some(CLOSE_FRAME), Some(End::Closed));
    world.leave(0, 4, None, Some(End::Reset));
    assert_eq!((world.report(0), world.shards[0].open()), ([4, 3, 0, 0], 1));
    // One client does not answer, and another comes late.
    world.pass(close_ticks, &[0]);
    assert_eq!((world.report(0), world.shards[0].open()), ([4, 3, 1, 0], 0));
    world.connect(0, &[&topic]);
    world.pass(1, &[0]);
    assert_eq!(world.sent(0, 6), ["answer", "close 1012"]);
    world.shards[0].drop_all();
    assert_eq!((world.report(0), world.shards[0].open()), ([5, 3, 2, 0], 0));
}
