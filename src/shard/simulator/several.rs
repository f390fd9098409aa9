//! Connections with several topics, whose walks are under way at the same time.

use std::{ops::Range, slice};

use super::{
    plan::Plan,
    random::Random,
    simulation::Simulation,
    world::{ANSWER, World, take_sent},
};
use crate::{
    config::{Config, Settings},
    hub::{ConnectionId, Publication, Scope, SubscribeOptions, TopicName},
    metrics::Counter,
    proto::{CloseCode, Tick},
    shard::pace::Pace,
};

fn topics(count: usize) -> Vec<TopicName> {
    (0..count).map(|number| TopicName::new(&format!("topic {number}")).expect("a name")).collect()
}

/// Returns a shard with a pace, whose slots do not rest.
fn world(pace: Pace) -> World {
    let mut world = World::without_clients(|_| {});
    world.shard.pace = pace;
    world.shard.hub.connections.let_rest(0);
    world
}

/// Returns the pace of real connections with batches and flushes of other sizes.
fn pace(send_batch: usize, flush_entries: usize) -> Pace {
    Pace { send_batch, flush_entries, ..Pace::DEFAULT }
}

fn publish(world: &mut World, topic: &TopicName, text: &str) {
    let message = Publication::text(text);
    world.shard.hub.publish_by_name(topic, None, &message, Scope::Server).expect("at home");
}

/// Publishes a first and a second message to each topic. Each message begins with the number of its topic.
fn publish_two(world: &mut World, topics: &[TopicName], round: usize) {
    for which in ["first", "second"] {
        for (number, topic) in topics.iter().enumerate() {
            publish(world, topic, &format!("{number} {round} {which}"));
        }
    }
}

/// Returns the messages that a client has been sent since the last call, sorted by topic. The order within a topic
/// stays.
fn texts(world: &World, client: usize) -> Vec<String> {
    let mut texts = take_sent(&world.network, client);
    texts.retain(|part| part != "answer");
    sort_by_topic(&mut texts);
    texts
}

fn two_of(numbers: &[usize], round: usize) -> Vec<String> {
    let two = |number: &usize| ["first", "second"].map(|which| format!("{number} {round} {which}"));
    numbers.iter().flat_map(two).collect()
}

/// Returns how much the counter grows during `step`.
fn counted(world: &mut World, counter: Counter, step: impl FnOnce(&mut World)) -> u64 {
    let before = world.counters.get(counter);
    step(world);
    world.counters.get(counter) - before
}

/// Runs a turn. Returns whether it has left work.
fn one_turn(world: &mut World) -> bool {
    let more = world.shard.turn(Tick(0).begin());
    let offered = std::mem::take(&mut world.network.borrow_mut().offered);
    assert!(offered.is_within(&world.shard.pace), "{offered:?} in a turn");
    more
}

const PACES: [(usize, usize); 5] = [(256, 256), (1, 1), (3, 3), (7, 20), (16, 16)];

/// Subscribers of the same topics get the messages of all topics in one send, wherever walks begin and batches end.
#[test]
fn subscribers_of_the_same_topics_get_one_send() {
    for (count, (send_batch, flush_entries)) in [2, 5].into_iter().flat_map(|count| PACES.map(|pace| (count, pace))) {
        let mut world = world(pace(send_batch, flush_entries));
        let topics = topics(count);
        // The members of each topic stand in another order.
        let ids: Vec<ConnectionId> = (0..CLIENTS).map(|_| world.connect_to(&[], usize::MAX)).collect();
        for (number, topic) in topics.iter().enumerate() {
            for at in 0..CLIENTS {
                let id = ids[(at * [1, 3, 7, 9, 11][number] + number) % CLIENTS];
                world.shard.hub.subscribe(id, topic, SubscribeOptions::default());
            }
        }
        world.turns();
        (0..CLIENTS).for_each(|client| drop(texts(&world, client)));
        let all: Vec<usize> = (0..count).collect();
        for round in 0..30 {
            publish_two(&mut world, &topics, round);
            let sends = counted(&mut world, Counter::Sends, World::turns);
            assert_eq!(sends, CLIENTS as u64, "{count} topics, round {round}, batches of {send_batch}");
            for client in 0..CLIENTS {
                assert_eq!(texts(&world, client), two_of(&all, round), "client {client}");
            }
        }
        assert_eq!(world.counters.get(Counter::Deliveries), (30 * CLIENTS * 2 * count) as u64);
    }
}

/// A large topic gives way to the others after one batch, and after a few batches if many others wait.
#[test]
fn a_large_topic_gives_way() {
    const BATCH: usize = 4;
    for (others, batches) in [(1, 1), (6, 1), (7, 2), (16, 4), (40, 8)] {
        let mut world = world(pace(BATCH, BATCH));
        let topics = topics(1 + others);
        for _ in 0..100 {
            world.connect_to(&topics[..1], usize::MAX);
        }
        topics[1..].iter().for_each(|topic| _ = world.connect_to(slice::from_ref(topic), usize::MAX));
        world.turns();
        (0..100 + others).for_each(|client| drop(texts(&world, client)));
        topics.iter().for_each(|topic| publish(&mut world, topic, "text"));
        let sent =
            |world: &World, clients: Range<usize>| clients.filter(|&client| !texts(world, client).is_empty()).count();
        for _ in 0..batches {
            assert!(one_turn(&mut world));
            assert_eq!((sent(&world, 0..100), sent(&world, 100..100 + others)), (BATCH, 0), "{others} others");
        }
        let mut waited = 0;
        while waited < others {
            assert!(one_turn(&mut world));
            let (large, small) = (sent(&world, 0..100), sent(&world, 100..100 + others));
            assert!(large + small == BATCH && small == BATCH.min(others - waited), "{small} of {others} others");
            waited += small;
        }
    }
}

/// Each client with any of the topics gets one send.
#[test]
fn lists_that_overlap_share_the_sends_of_the_overlap() {
    let mut random = Random::new(7);
    for (send_batch, flush_entries) in PACES {
        let mut world = world(pace(send_batch, flush_entries));
        let topics = topics(5);
        let mut chosen: Vec<Vec<usize>> = Vec::new();
        for _ in 0..CLIENTS {
            let numbers: Vec<usize> = (0..5).filter(|_| random.chance(500)).collect();
            let names: Vec<TopicName> = numbers.iter().map(|&number| topics[number].clone()).collect();
            world.connect_to(&names, usize::MAX);
            chosen.push(numbers);
        }
        world.turns();
        (0..CLIENTS).for_each(|client| drop(texts(&world, client)));
        let subscribers = chosen.iter().filter(|numbers| !numbers.is_empty()).count();
        for round in 0..30 {
            publish_two(&mut world, &topics, round);
            let sends = counted(&mut world, Counter::Sends, World::turns);
            assert_eq!(sends, subscribers as u64, "round {round}, batches of {send_batch}");
            for (client, numbers) in chosen.iter().enumerate() {
                assert_eq!(texts(&world, client), two_of(numbers, round), "client {client}");
            }
        }
    }
}

/// Between the visit that hands out a share of another walk and the moment when that walk passes, a connection gives up
/// a topic, subscribes again, closes, or ends so that its slot gets another owner.
#[test]
fn changes_between_a_visit_and_the_walk_that_passes() {
    const CHANGES: [&str; 4] = ["unsubscribe", "again", "close", "end"];
    for (seed, change) in (0..40).flat_map(|seed| CHANGES.map(|change| (seed, change))) {
        let mut random = Random::new(seed);
        let mut world = world(pace(2, 2));
        let topics = topics(3);
        let mut ids: Vec<ConnectionId> = (0..12).map(|_| world.connect_to(&topics, usize::MAX)).collect();
        world.turns();
        (0..ids.len()).for_each(|client| drop(texts(&world, client)));
        publish_two(&mut world, &topics, 1);
        (0..random.within(1..=16)).for_each(|_| _ = one_turn(&mut world));
        publish_two(&mut world, &topics, 2);
        let (client, number) = (random.within(0..=ids.len() - 1), random.within(0..=topics.len() - 1));
        let (id, topic) = (ids[client], &topics[number]);
        let all = [0, 1, 2];
        let others: Vec<usize> = all.into_iter().filter(|&other| other != number).collect();
        let of_third = match change {
            "unsubscribe" => {
                world.shard.unsubscribe(id, topic);
                two_of(&others, 3)
            }
            "again" => {
                world.shard.unsubscribe(id, topic);
                world.shard.hub.subscribe(id, topic, SubscribeOptions::default());
                two_of(&all, 3)
            }
            "close" => {
                world.shard.close(id, CloseCode::GOING_AWAY, "");
                vec!["close 1001".to_owned()]
            }
            _ => {
                world.shard.remove(id);
                ids.push(world.connect_to(&topics, usize::MAX));
                assert_eq!(ids[ids.len() - 1].slot(), id.slot(), "the slot has another owner");
                Vec::new()
            }
        };
        publish_two(&mut world, &topics, 3);
        world.turns();
        for at in (0..ids.len()).filter(|&at| change != "end" || at != client) {
            let earlier = [two_of(&all, 1), two_of(&all, 2)].concat();
            let mut expected = match at {
                _ if at == client => [earlier, of_third.clone()].concat(),
                12 => two_of(&all, 3),
                _ => [earlier, two_of(&all, 3)].concat(),
            };
            sort_by_topic(&mut expected);
            assert_eq!(texts(&world, at), expected, "seed {seed}, {change}, client {at}");
        }
    }
}

/// A socket may take an entry of several shares up to any byte; the rest follows as a backlog.
#[test]
fn an_entry_of_several_shares_may_be_short_anywhere() {
    let length = two_of(&[0, 1, 2], 1).iter().map(|text| 2 + text.len()).sum();
    for room in 1..=length {
        let mut world = world(pace(4, 4));
        let topics = topics(3);
        for client in 0..6 {
            world.connect_to(&topics, if client == 2 { ANSWER.len().max(room) } else { usize::MAX });
        }
        world.turns();
        (0..6).for_each(|client| drop(texts(&world, client)));
        world.network.borrow_mut().lines[2].room = room;
        publish_two(&mut world, &topics, 1);
        let shorts = counted(&mut world, Counter::ShortSends, World::turns);
        assert_eq!(shorts > 0, room < length, "room for {room} of {length} bytes");
        let fetched = fetch_all(&mut world, 2);
        assert_eq!(fetched, two_of(&[0, 1, 2], 1), "room for {room} of {length} bytes");
        (0..6).filter(|&at| at != 2).for_each(|at| assert_eq!(texts(&world, at), two_of(&[0, 1, 2], 1)));
        assert_eq!(world.counters.get(Counter::Deliveries), 6 * 6);
    }
}

/// A connection with a backlog gets its shares of all walks into the backlog at once, as long as it may be owed more.
#[test]
fn a_slow_consumer_is_owed_all_shares_at_once() {
    for limit in [u64::MAX, 5] {
        let mut world = world(pace(1, 1));
        let topics = topics(4);
        world.connect_to(&topics, ANSWER.len());
        let fast = world.connect_to(&topics, usize::MAX);
        world.turns();
        let id = world.shard.hub.connections.ids().find(|&id| id != fast).expect("two clients");
        world.shard.limits.backlog_messages_max = limit;
        // The socket is full: its room is taken by the opening answer.
        publish(&mut world, &topics[0], "0 0 refused");
        world.turns();
        publish_two(&mut world, &topics, 1);
        let backlog = |world: &World| {
            let connection = world.shard.hub.connections.get(id).expect("it is connected");
            connection.io.output.as_ref().map_or(0, |output| output.backlog.messages())
        };
        let mut seen = vec![backlog(&world)];
        while one_turn(&mut world) {
            seen.push(backlog(&world));
        }
        seen.dedup();
        assert_eq!(texts(&world, 1).len(), 9);
        if limit == u64::MAX {
            assert_eq!(seen, [1, 9], "all four topics with one visit");
            assert_eq!(fetch_all(&mut world, 0)[1..], two_of(&[0, 1, 2, 3], 1));
        } else {
            // The third share takes the connection beyond its limit, and the connection is closed before the fourth.
            assert_eq!(world.counters.get(Counter::SlowClosed), 1);
            assert_eq!(world.counters.get(Counter::SlowDropped), 2, "those of the last topic: {seen:?}");
            // Small messages that were copied into the backlog stay in front of the close frame.
            let taken = fetch_all(&mut world, 0);
            assert_eq!((taken.len(), taken[7].as_str()), (8, "close 1008"), "{taken:?}");
        }
    }
}

/// Shares that do not fit into an entry, by their pieces or bytes, leave by their own walks.
#[test]
fn a_share_that_does_not_fit_leaves_by_its_own_walk() {
    const BYTES: usize = 2 * 17;
    for (entry_pieces, batch_bytes, sends) in [
        (5, 1 << 20, 1),
        (2, 1 << 20, 3),
        (1, 1 << 20, 5),
        (1_024, 5 * BYTES, 1),
        (1_024, 2 * BYTES, 3),
        (1_024, BYTES, 5),
    ] {
        let mut world = world(Pace { entry_pieces, batch_bytes, ..Pace::DEFAULT });
        let topics = topics(5);
        (0..20).for_each(|_| _ = world.connect_to(&topics, usize::MAX));
        world.turns();
        (0..20).for_each(|client| drop(texts(&world, client)));
        for round in 10..30 {
            for (number, topic) in topics.iter().enumerate() {
                for which in ["first...", "second.."] {
                    publish(&mut world, topic, &format!("{number} {round}, {which}!"));
                }
            }
            let sent = counted(&mut world, Counter::Sends, World::turns);
            assert_eq!(sent, 20 * sends, "{entry_pieces} pieces, {batch_bytes} bytes");
            for client in 0..20 {
                let texts = texts(&world, client);
                let whiches: Vec<&str> = texts.iter().map(|text| text.split(' ').next_back().unwrap()).collect();
                assert_eq!(whiches, ["first...!", "second..!"].repeat(5), "client {client}: {texts:?}");
            }
        }
    }
}

/// Connections with as many topics as they may have, all of which are walked over, make no turn longer than one such
/// connection does.
#[test]
fn a_turn_hands_out_a_bounded_number_of_shares() {
    let mut world = world(Pace::DEFAULT);
    let topics = topics(1_024);
    (0..8).for_each(|_| _ = world.connect_to(&topics, usize::MAX));
    world.turns();
    topics.iter().for_each(|topic| publish(&mut world, topic, "message"));
    let (mut turns, mut sends) = (0, 0);
    while world.counters.get(Counter::Deliveries) < 8 * 1_024 {
        let before = world.counters.get(Counter::Deliveries);
        sends += counted(&mut world, Counter::Sends, |world| _ = one_turn(world));
        let shares = world.counters.get(Counter::Deliveries) - before;
        assert!(shares <= 1_024, "{shares} shares in a turn");
        turns += 1;
    }
    assert_eq!((turns, sends), (8, 8), "a connection in each");
}

/// Connections have many topics, of which one is walked over, while walks of other topics are under way. Looking for
/// further shares counts as work.
#[test]
fn a_turn_looks_at_a_bounded_number_of_subscriptions() {
    let mut world = world(Pace::DEFAULT);
    let all = topics(64 + 100);
    let (own, others) = all.split_at(64);
    (0..200).for_each(|_| _ = world.connect_to(own, usize::MAX));
    world.connect_to(others, usize::MAX);
    world.turns();
    publish(&mut world, &own[0], "ours");
    others.iter().for_each(|topic| publish(&mut world, topic, "theirs"));
    // Each visit looks at 64 subscriptions, which count as four entries in addition to the send.
    let sends = counted(&mut world, Counter::Sends, |world| _ = one_turn(world));
    assert_eq!(sends, 256 / 5 + 1);
    let sends_after = counted(&mut world, Counter::Sends, World::turns);
    assert_eq!(sends + sends_after, 201, "one for each connection");
}

/// Runs of the simulator in which each connection has many topics, and many walks are under way at a time.
#[test]
fn seeds_of_connections_with_several_topics() {
    let config = Config::new(&Settings::default(), 20_000).expect("the defaults");
    for seed in 0..SEEDS {
        let (mut random, mut config) = (Random::new(seed ^ 0x5e7e_4a11), config.clone());
        let mut plan = Plan::draw(&mut random, &mut config);
        (plan.topics, plan.subscriptions_max, plan.steps) = (6, 1_024, plan.steps.min(400));
        plan.pace.batch_bytes = plan.pace.batch_bytes.max(1_000);
        plan.pace.entry_pieces = plan.pace.entry_pieces.max(3);
        println!("seed {seed}");
        let mut simulation = Simulation::new(random, plan, false, &config);
        for _ in 0..plan.steps {
            simulation.step();
            simulation.call();
            simulation.call();
        }
        simulation.plan.steps = 0;
        simulation.run();
    }
}

/// Returns all messages that the client is sent while it takes everything.
fn fetch_all(world: &mut World, client: usize) -> Vec<String> {
    let mut sent = Vec::new();
    while !world.network.borrow().lines[client].sent.is_empty() {
        sent.extend(texts(world, client));
        world.turns();
    }
    sort_by_topic(&mut sent);
    sent
}

fn sort_by_topic(texts: &mut [String]) {
    texts.sort_by_key(|text| text.split(' ').next().unwrap_or_default().to_owned());
}

const CLIENTS: usize = 40;
const SEEDS: u64 = 200;
