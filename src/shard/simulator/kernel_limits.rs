//! The limits of what the kernel keeps for subscribers, by the rules of their topics.

use super::world::World;
use crate::{
    handler::ShardApi,
    hub::{RulesOfTopics, SubscribeOptions, TopicName, TopicRule, TopicTable},
    proto::Tick,
    sys::SendLimits,
};

fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("a name")
}

/// A connection has the smallest limits of its topics and of the server, and keeps them when it leaves a topic. The
/// sockets of other connections are left alone.
#[test]
fn a_connection_has_the_smallest_limits_of_its_topics() {
    let rule = |topic: &str| TopicRule::new([topic.parse().expect("a pattern")]);
    let rules = [
        rule("large").send_buffer(90_000).unsent_low_water(9_000),
        rule("small").send_buffer(40_000),
        rule("low").unsent_low_water(2_000),
        rule("other").backlog_messages(9),
    ];
    let table = TopicTable::new(&rules).expect("no two have one pattern");
    let change = |config: &mut crate::config::Config| config.unsent_low_water_bytes = Some(5_000);
    let mut world = World::with_shard(change, |shard| shard.with_topic_rules(RulesOfTopics::of_table(table)));
    let plain = world.connect_to(&[name("other"), name("none")], 1_000);
    let id = world.connect_to(&[name("large")], 1_000);
    let limits = |world: &World, line: usize| {
        let SendLimits { send_buffer_bytes, unsent_low_water_bytes } = world.network.borrow().lines[line].limits;
        (send_buffer_bytes, unsent_low_water_bytes)
    };
    assert_eq!(limits(&world, 1), (None, None), "the turn is still to come");
    world.shard.turn(Tick(0).begin());
    assert_eq!(limits(&world, 1), (Some(90_000), Some(5_000)), "the server's limit is smaller");
    for (topic, expected) in [
        ("small", (Some(40_000), Some(5_000))),
        ("low", (Some(40_000), Some(2_000))),
        ("none", (Some(40_000), Some(2_000))),
    ] {
        ShardApi::subscribe(&mut world.shard, id, &name(topic), SubscribeOptions::default()).expect("it is open");
        world.shard.turn(Tick(0).begin());
        assert_eq!(limits(&world, 1), expected, "{topic}");
    }
    assert!(ShardApi::unsubscribe(&mut world.shard, id, &name("low")));
    world.shard.turn(Tick(0).begin());
    assert_eq!(limits(&world, 1), (Some(40_000), Some(2_000)), "it keeps its limits");
    ShardApi::subscribe(&mut world.shard, plain, &name("small"), SubscribeOptions::default()).expect("it is open");
    // It leaves before the turn.
    world.shard.close(plain, crate::proto::CloseCode::NORMAL, "");
    world.shard.turn(Tick(0).begin());
    assert_eq!(limits(&world, 0), (None, None));
}
