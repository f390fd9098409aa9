//! Histories on a whole shard: when it looks at them, and how many pages it makes at once.

use std::sync::Arc;

use super::world::World;
use crate::{
    handler::ShardApi,
    hub::{
        Command, EndRole, ExternalEnd, HistoryFrom, HistoryQuery, MeshEnd, MeshLimits, Publication, RulesOfTopics,
        Scope, TopicName, TopicRule, TopicTable, Wake,
    },
    proto::Millis,
};

fn topic() -> TopicName {
    TopicName::new("kept").expect("a name")
}

/// Returns a shard at an end of a mesh whose topic keeps its messages for half a second.
fn world(mesh: MeshEnd) -> World {
    let rule = TopicRule::new(["kept".parse().expect("a pattern")]).history_age_ms(500);
    let rules = RulesOfTopics::of_table(TopicTable::new([&rule]).expect("one rule"));
    World::at(mesh, |_| {}, |shard| shard.with_topic_rules(rules))
}

fn publish(world: &mut World, text: &str) {
    ShardApi::publish(&mut world.shard, None, &topic(), Publication::text(text), Scope::Server);
}

/// A message leaves at its age although nothing happens on the shard.
#[test]
fn a_shard_that_sleeps_wakes_up_for_the_age_of_a_message() {
    let mut world = world(MeshEnd::alone());
    world.shard.turn(Millis(1_000));
    publish(&mut world, "1");
    while world.shard.turn(Millis(1_000)) {}
    let deadline = world.shard.next_deadline().expect("the age of the message");
    assert!((1_500..=1_700).contains(&deadline.0), "{deadline:?}");
    assert_eq!(world.shard.hub.history_messages().0, 1);
    world.shard.turn(deadline);
    assert_eq!((world.shard.hub.history_messages().0, world.shard.next_deadline()), (0, None));
}

/// A shard makes no further pages while those that it has made find no room in the lane to their reader.
#[test]
fn pages_wait_for_room_one_by_one() {
    const READS: u64 = 200;
    let roles = EndRole::shards_and_control(1);
    let wake = roles.iter().map(|_| Arc::new(|| {}) as Wake).collect();
    let limits = MeshLimits { message_bytes_max: 100_000, overflow_bytes_max: 10_000, ..MeshLimits::default() };
    let mut ends = MeshEnd::connect_with(wake, &roles, &limits);
    let mut reader = ExternalEnd::new(ends.pop().expect("the control thread's end"));
    let mut world = world(ends.pop().expect("the shard's end"));
    (0..50).for_each(|_| publish(&mut world, &"x".repeat(1_000)));
    let query = HistoryQuery { from: HistoryFrom::Earliest, messages_max: 1_000, bytes_max: u64::MAX };
    for ticket in 0..READS {
        reader.command(0, Command::ReadHistory { topic: topic(), query }, ticket);
    }
    let (mut answers, mut most) = (0, 0);
    while answers < READS {
        reader.send_out();
        world.shard.turn(Millis(0));
        most = most.max(world.shard.hub.waiting_bytes());
        while reader.next_answer().is_some() {
            answers += 1;
        }
    }
    assert!((10_000..200_000).contains(&most), "{most} bytes of pages have waited");
}
