//! Receipts of publications from random publishers, while others join and leave: each counts exactly the subscribers
//! that have got the message.

use std::collections::HashMap;

use super::{
    TOPICS,
    world::{World, next},
};
use crate::hub::{Receipt, ShardHub, seeds::each_seed};

#[test]
fn receipts_count_every_subscriber_once() {
    let run = |seed| {
        let mut world = World::drawn(seed);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let (mut asked, mut answers) = (Vec::new(), HashMap::new());
        let take = |world: &mut World, answers: &mut HashMap<u64, Receipt>| {
            for (ticket, answer) in world.hubs.iter_mut().flat_map(ShardHub::take_answered) {
                let receipt = answer.unwrap().receipt.unwrap().unwrap();
                assert_eq!(answers.insert(ticket, receipt), None, "a publisher gets one answer");
            }
        };
        for _ in 0..300 {
            world.step();
            if next(&mut random, 6) == 0 {
                let publisher = world.connections[next(&mut random, world.connections.len())];
                let (number, ticket) = (next(&mut random, TOPICS), asked.len() as u64);
                asked.extend(world.publish_with_receipt(publisher, number, ticket));
            }
            take(&mut world, &mut answers);
        }
        world.settle();
        // The counts of the last walks leave with the end of a turn.
        for _ in 0..3 {
            for shard in 0..world.hubs.len() {
                world.rouse(shard);
                world.hubs[shard].send_out();
            }
            world.settle();
        }
        take(&mut world, &mut answers);
        world.check();
        assert_eq!(answers.len(), asked.len(), "seed {seed}");
        for (ticket, text) in asked.iter().enumerate() {
            let Receipt { matched, sent, queued, dropped, closed } = answers[&(ticket as u64)];
            assert_eq!(matched as usize, world.seen_by(text), "{text}");
            // Who leaves takes its messages along, and this world does not say what becomes of them.
            assert_eq!((sent + closed, queued, dropped), (matched, 0, 0), "{text}");
        }
        asked.len()
    };
    let mut all = 0;
    each_seed("hub::simulator::receipts", 300, run, |asked| all += asked);
    assert!(all > 5_000, "{all} receipts");
}
