//! One order over all shards: several hubs, stepped in an order that a seed decides; what each subscriber received is
//! compared with what it must receive.

mod barrier;
mod feeds;
mod ids;
mod presence;
mod receipts;
mod subscriber;
mod world;

use std::collections::BTreeSet;

use super::{
    ConnectionId, Format, Publication, Scope, Subscribed, TopicName,
    membership::PENDING_SLACK,
    seeds::each_seed,
    testing::{PLACED, take_prepared},
    topics::TopicRole,
};
use world::{Act, World, topic};

/// A connection that comes and goes while another is pending takes no more room than the pending one.
#[test]
fn coming_and_going_while_pending_takes_no_room() {
    let mut world = World::new(7);
    let shard = (world.home(0) + 1) % world.hubs.len();
    let (patient, fickle) = (world.connect(shard, &[]), world.connect(shard, &[]));
    assert_eq!(world.subscribe(patient, 0, false), Subscribed::Pending);
    for _ in 0..1_000 {
        assert_eq!(world.subscribe(fickle, 0, false), Subscribed::Pending);
        world.unsubscribe(fickle, 0);
    }
    world.subscribe(fickle, 0, false);
    let hub = &world.hubs[shard];
    let TopicRole::Remote(remote) = &hub.topics[hub.topics.find(&topic(0)).unwrap()].role else {
        panic!("not at home")
    };
    assert!(remote.pending.len() <= PENDING_SLACK + 6, "{}", remote.pending.len());
    world.settle();
    assert!([patient, fickle].iter().all(|&id| world.hubs[shard].is_subscribed(id, &topic(0))));
    world.check();
}

/// A topic that could go live delivers nothing to a connection whose other topics cannot go live yet.
#[test]
fn a_held_connection_joins_all_its_topics_at_once() {
    let mut world = World::new(7);
    let (near, far) = (0, (1..TOPICS).find(|&far| world.home(far) != world.home(0)).expect("several homes"));
    let shard = world.home(near);
    let id = world.connect(shard, &[(near, true), (far, true)]);
    let is_subscribed = |world: &World, number| world.hubs[shard].is_subscribed(id, &topic(number));
    world.publish(id, near, Scope::Server);
    assert!(!is_subscribed(&world, near) && !is_subscribed(&world, far));
    world.settle();
    assert!(is_subscribed(&world, near) && is_subscribed(&world, far));
    assert!(world.members[&(id, near)].seen.is_empty(), "that was before it was told");
    world.publish(id, near, Scope::Server);
    world.settle();
    assert_eq!(world.members[&(id, near)].seen.len(), 1);
    world.check();
}

/// An interest that finds no room, while nothing else waits for room, is sent when there is room.
#[test]
fn interest_that_waits_for_room_wakes_its_shard() {
    let mut world = World::new(7);
    let number = 0;
    let (home, other) = (world.home(number), (world.home(number) + 1) % world.hubs.len());
    // The lane to the home is full to its last entry, and nothing waits beside it.
    let publisher = world.connect(other, &[]);
    while world.hubs[other].mesh.has_room_for_requests(home as u16) {
        world.publish(publisher, number, Scope::Server);
    }
    assert!(world.hubs[other].mesh.has_sent_all());
    let held = world.connect(other, &[(number, true)]);
    assert!(!world.hubs[other].due.is_empty());
    world.step_shard(other, Act::EndTurn);
    assert!(world.sleeps[other], "it has nothing to do");
    world.settle();
    assert!(world.hubs[other].is_subscribed(held, &topic(number)));
    world.check();
}

/// A topic that some connection publishes to is remembered at its home, whichever shard the connection is on.
#[test]
fn a_publisher_keeps_the_offsets() {
    for idle_max in [0, 1] {
        let mut world = World::with_idle(7, idle_max);
        let number = 0;
        let (home, other) = (world.home(number), (world.home(number) + 1) % world.hubs.len());
        let observer = world.connections[number];
        let place = |world: &World| {
            let topics = &world.hubs[home].topics;
            topics.find(&topic(number)).map(|id| match &topics[id].role {
                TopicRole::Home(home) => (home.epoch, home.offset),
                TopicRole::Remote(_) => panic!("not at home"),
            })
        };
        let publisher = world.connect_publisher(other, number);
        world.settle();
        world.leave(observer);
        world.settle();
        let epoch = place(&world).expect("it is known").0;
        let forget_others = |world: &mut World| {
            for unknown in 0..100 {
                let message = Publication::text("nobody hears");
                let name = TopicName::new(&format!("unknown {unknown}")).unwrap();
                world.rouse(home);
                world.hubs[home].publish_by_name(&name, None, message, Scope::Server);
                world.settle();
            }
        };
        for offset in 1..5 {
            world.publish(publisher, number, Scope::Server);
            world.settle();
            forget_others(&mut world);
            assert_eq!(place(&world), Some((epoch, offset)), "up to {idle_max} idle topics");
        }
        // A subscriber there that comes and goes changes nothing, and neither does another publisher.
        let (second, third) = (world.connect_publisher(other, number), world.connect(other, &[(number, true)]));
        world.settle();
        world.leave(third);
        world.leave(second);
        world.settle();
        forget_others(&mut world);
        assert_eq!(place(&world), Some((epoch, 4)));
        // When the last publisher leaves, the topic may be forgotten as any other.
        world.leave(publisher);
        world.settle();
        forget_others(&mut world);
        assert_eq!(place(&world), None);
    }
}

/// A held connection that unsubscribes from its only pending topic is released.
#[test]
fn giving_up_the_pending_topic_releases_a_held_connection() {
    let mut world = World::new(7);
    let (near, far) = (0, (1..TOPICS).find(|&far| world.home(far) != world.home(0)).expect("several homes"));
    let shard = world.home(near);
    let id = world.connect(shard, &[(near, true), (far, true)]);
    world.unsubscribe(id, far);
    assert_eq!(world.members[&(id, near)].told_at, Some(0));
    world.settle();
    world.check();
}

/// Whatever the shards do meanwhile, every subscriber's messages are a part of the topic's one order, without a gap or
/// a repetition. The part begins where the subscriber was told, and ends where it left.
#[test]
fn one_order_over_all_shards() {
    let run = |seed| {
        let mut world = World::drawn(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.check();
        for hub in &world.hubs {
            assert_eq!((hub.gathered.bytes, hub.gathered.from_mail), (0, 0));
            assert_eq!(hub.mesh.overflow_bytes(), 0);
        }
    };
    each_seed("hub::simulator", SEEDS, run, |()| {});
}

/// The home makes a dear part once, for the subscribers of all shards that want it. The home learns of these
/// subscribers from the shards' interests; until then the shards make the dear part themselves.
#[test]
fn the_home_makes_what_is_dear_once_for_all_shards() {
    let mut world = World::new(7);
    let shards = world.hubs.len();
    let dear: Vec<ConnectionId> = (0..shards).map(|shard| world.connect_for(shard, PLACED, &[(0, true)])).collect();
    world.settle();
    take_prepared();
    (0..10).for_each(|number| world.publish(dear[number % shards], 0, Scope::Server));
    world.settle();
    assert_eq!(take_prepared(), 10, "once for each message, whatever shard has published it");
    // A message for one shard only has no home that could prepare it.
    world.publish(dear[0], 0, Scope::Shard);
    world.settle();
    assert_eq!(take_prepared(), 1);
    for id in dear {
        world.leave(id);
    }
    world.settle();
    let plain = world.connect_for((world.home(0) + 1) % shards, Format::RAW, &[(0, true)]);
    world.settle();
    world.publish(plain, 0, Scope::Server);
    world.settle();
    assert_eq!(take_prepared(), 0, "nobody wants it any more");
    world.check();
}

/// Two shards that flood each other's topics, through lanes of two entries, wait for room, but not for ever.
#[test]
fn floods_both_ways_neither_deadlock_nor_grow() {
    let mut world = World::new(7);
    let subscribers: Vec<(ConnectionId, usize)> = (0..world.hubs.len())
        .flat_map(|shard| (0..TOPICS).map(move |number| (shard, number)))
        .map(|(shard, number)| (world.connect(shard, &[(number, true)]), number))
        .collect();
    world.settle();
    let most_before = world.hubs.iter().map(|hub| hub.mesh.overflow_bytes()).max();
    assert_eq!(most_before, Some(0));
    for round in 0..3_000 {
        for &(id, number) in &subscribers {
            world.publish(id, number, Scope::Server);
        }
        for shard in 0..world.hubs.len() {
            let walks = [Act::Walk; 4];
            for act in [Act::SendOut, Act::TakeDelivery, Act::TakeRequest, Act::TakeDue].into_iter().chain(walks) {
                world.step_shard((shard + round) % subscribers.len() % world.walks.len(), act);
            }
        }
        let waiting = world.hubs.iter().map(|hub| hub.mesh.overflow_bytes()).max().unwrap();
        assert!(waiting < 10_000, "{waiting} bytes wait for room");
    }
    world.settle();
    world.check();
    assert!(world.published > 1_000);
}

/// Marks come back after the messages that were published before them, however full the lanes are: a connection that
/// leaves then has got all its own messages.
#[test]
fn marks_come_back_behind_the_messages_before_them() {
    let mut sent = 0;
    for seed in 0..300 {
        let mut world = World::drawn(seed);
        let shard = seed as usize % world.hubs.len();
        let id = world.connect(shard, &(0..TOPICS).map(|number| (number, true)).collect::<Vec<_>>());
        world.settle();
        let before = world.published;
        for step in 0..60 {
            world.publish(id, step % TOPICS, Scope::Server);
            world.step_any();
        }
        let published = world.published - before;
        let homes: BTreeSet<usize> =
            (0..TOPICS).map(|number| world.home(number)).filter(|&home| home != shard).collect();
        world.rouse(shard);
        let awaited = world.hubs[shard].send_marks(id);
        // The engine orders some of the topics whose home the shard is.
        let orders_elsewhere = (0..TOPICS).any(|number| world.home(number) == shard && world.places(number).is_some());
        assert_eq!(awaited, homes.len() + usize::from(orders_elsewhere), "seed {seed}");
        let mut back = 0;
        while back < awaited {
            world.step_any();
            back += world.hubs[shard].take_marks().iter().filter(|&&of| of == id).count();
        }
        world.leave(id);
        assert_eq!(world.own_messages(id), published as usize, "seed {seed}");
        sent += published;
        world.settle();
        world.check();
    }
    assert!(sent > 2_000, "{sent} messages");
}

/// A subscription that was pending begins at its acknowledgement. A message that was ordered before is not for this
/// subscription, even if it still comes down the lane for an earlier interest of the shard.
#[test]
fn a_pending_subscription_begins_at_its_acknowledgement() {
    let mut world = World::new(7);
    let number = 0;
    let (home, shard) = (world.home(number), (world.home(number) + 1) % world.hubs.len());
    let publisher = world.connections[number];
    let first = world.connect(shard, &[(number, true)]);
    world.settle();
    assert!(world.hubs[shard].is_subscribed(first, &topic(number)));
    // The home still sends, for the interest that the shard withdraws.
    world.publish(publisher, number, Scope::Server);
    world.unsubscribe(first, number);
    world.publish(publisher, number, Scope::Server);
    let second = world.connect(shard, &[]);
    assert_eq!(world.subscribe(second, number, true), Subscribed::Pending);
    for act in [Act::SendOut, Act::TakeDelivery, Act::TakeDelivery, Act::TakeDelivery] {
        let at = if matches!(act, Act::SendOut) { home } else { shard };
        world.rouse(at);
        world.step_shard(at, act);
    }
    world.settle();
    assert!(world.hubs[shard].is_subscribed(second, &topic(number)));
    assert!(world.members[&(second, number)].seen.is_empty(), "both were ordered before the acknowledgement");
    world.publish(publisher, number, Scope::Server);
    world.settle();
    assert_eq!(world.members[&(second, number)].seen.len(), 1);
    world.check();
}

/// A subscription to a topic whose messages the shard receives already goes live at once. It begins with the next
/// message of the lane, which the home may have ordered before.
#[test]
fn a_subscription_that_is_live_at_once_begins_with_the_lane() {
    let mut world = World::new(7);
    let number = 0;
    let (home, shard) = (world.home(number), (world.home(number) + 1) % world.hubs.len());
    let publisher = world.connections[number];
    world.connect(shard, &[(number, true)]);
    world.settle();
    world.publish(publisher, number, Scope::Server);
    world.rouse(home);
    world.step_shard(home, Act::SendOut);
    let second = world.connect(shard, &[]);
    assert_eq!(world.subscribe(second, number, true), Subscribed::Live);
    world.settle();
    assert_eq!(world.members[&(second, number)].seen.len(), 1, "the lane had it, and the shard did not");
    world.check();
}

const TOPICS: usize = 3;
const SEEDS: u64 = 1_500;
const STEPS: usize = 400;
