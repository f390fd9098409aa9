//! Tests of connections with several topics, whose walks are under way at the same time.

use std::collections::VecDeque;

use super::*;

/// Flushes with walks that alternate after so many visits. Returns how many visits handed out shares, and what each
/// slot got.
fn flush_in_turns(hub: &mut ShardHub<Wants>, visits: usize) -> (usize, BTreeMap<u32, Vec<String>>) {
    let (mut received, mut sends) = (BTreeMap::new(), 0);
    let mut walks = VecDeque::new();
    hub.take_due(&mut walks);
    while let Some(&walk) = walks.front() {
        for _ in 0..visits {
            let Some(slot) = hub.next_member(walk) else {
                hub.end_walk(walk);
                walks.pop_front();
                break;
            };
            let shares = shares_of_visit(hub, walk, slot, walks.make_contiguous(), usize::MAX);
            sends += usize::from(!shares.is_empty());
            for topic in shares {
                received.entry(slot).or_insert_with(Vec::new).extend(texts(hub, topic, slot));
            }
        }
        walks.rotate_left(usize::from(walks.len() > 1));
    }
    assert_nothing_is_taken(hub);
    (sends, received)
}

/// Subscribers of the same topics get one visit each, wherever the walks begin and however they alternate.
#[test]
fn one_visit_hands_out_the_shares_of_all_walks() {
    for (topics, subscribers) in [(2, 1), (2, 30), (4, 30)] {
        let mut hub = hub();
        let names: Vec<String> = (0..topics).map(|number| number.to_string()).collect();
        // The members of each topic stand in an order of their own.
        let all: Vec<_> = (0..subscribers).map(|_| connect(&mut hub)).collect();
        for (number, topic) in names.iter().enumerate() {
            for at in 0..subscribers {
                let id = all[(at * (1 + 2 * number) * 7 + number) % subscribers];
                hub.subscribe(id, &name(topic), ECHO);
            }
            all.iter().for_each(|&id| _ = hub.subscribe(id, &name(topic), ECHO));
        }
        let publisher = connect(&mut hub);
        for round in 0..60 {
            for topic in &names {
                publish(&mut hub, publisher, topic, &format!("{topic} {round} first"));
                publish(&mut hub, publisher, topic, &format!("{topic} {round} second"));
            }
            let (sends, received) = flush_in_turns(&mut hub, 1 + round % 13);
            assert_eq!((sends, received.len()), (subscribers, subscribers), "{topics} topics, round {round}");
            for (slot, mut texts) in received {
                // The sort is stable, so that the order within a topic stays.
                texts.sort_by_key(|text| text[..1].to_owned());
                let owed =
                    names.iter().flat_map(|topic| ["first", "second"].map(|text| format!("{topic} {round} {text}")));
                assert_eq!(texts, owed.collect::<Vec<_>>(), "slot {slot}, round {round}");
            }
        }
    }
}

/// Connections with one of the topics get a visit of their own, as do the connections with both topics.
#[test]
fn lists_that_overlap_share_the_visits_of_the_overlap() {
    let mut hub = hub();
    let (mut only_a, mut both, mut only_b) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..10 {
        only_a.push(join(&mut hub, "a", true));
        both.push(join(&mut hub, "a", true));
        only_b.push(join(&mut hub, "b", true));
        hub.subscribe(both[both.len() - 1], &name("b"), ECHO);
    }
    for round in 1..30 {
        publish(&mut hub, only_a[0], "a", "of a");
        publish(&mut hub, only_b[0], "b", "of b");
        let (sends, received) = flush_in_turns(&mut hub, round);
        assert_eq!(sends, 30);
        assert!(only_a.iter().all(|id| received[&id.slot()] == ["of a"]));
        assert!(only_b.iter().all(|id| received[&id.slot()] == ["of b"]));
        assert!(both.iter().all(|id| received[&id.slot()].len() == 2));
    }
}

/// A subscription ends, in each possible way, after a visit has handed out its share and before its walk comes.
#[test]
fn a_share_that_was_taken_is_not_owed_again() {
    let (a, b) = (name("a"), name("b"));
    for (what, owed) in [("unsubscribe", 1), ("leave", 2), ("leave_unsent", 2), ("keep", 0)] {
        let mut hub = hub();
        let id = join(&mut hub, "a", true);
        hub.subscribe(id, &b, ECHO);
        let publisher = connect(&mut hub);
        ["a", "b"].iter().for_each(|topic| _ = publish(&mut hub, publisher, topic, "walks"));
        let mut walks = Vec::new();
        hub.take_due(&mut walks);
        let slot = hub.next_member(walks[0]).unwrap();
        assert_eq!(shares_of_visit(&mut hub, walks[0], slot, &walks, 1), walks);
        ["a", "b"].iter().for_each(|topic| _ = publish(&mut hub, publisher, topic, "gathers"));
        let messages = match what {
            "unsubscribe" => testing::texts(&testing::pieces(hub.unsubscribe(id, &b))).len() as u64,
            "leave" => testing::texts(&testing::pieces(hub.leave(id))).len() as u64,
            "leave_unsent" => hub.leave_unsent(id),
            _ => 0,
        };
        assert_eq!(messages, owed, "{what}: only what gathers is still owed");
        assert_eq!(hub.is_subscribed(id, &a), matches!(what, "unsubscribe" | "keep"));
        // A subscription that begins in mid-walk is owed nothing of the walk, and has no taken share of an earlier
        // walk.
        hub.subscribe(id, &b, ECHO);
        publish(&mut hub, publisher, "b", "after");
        walks.into_iter().for_each(|walk| {
            let passed = hub.next_member(walk).map(|slot| shares_of_visit(&mut hub, walk, slot, &[walk], 1));
            assert!(passed.is_none_or(|shares| shares.is_empty()), "{what}");
            hub.end_walk(walk);
        });
        assert_nothing_is_taken(&hub);
        let received = flush(&mut hub).remove(&slot).unwrap_or_default();
        let expected = match what {
            "unsubscribe" => vec!["gathers", "after"],
            "keep" => vec!["gathers", "gathers", "after"],
            _ => vec!["after"],
        };
        assert_eq!(received, expected, "{what}");
    }
}

/// A visit begins the walks of the connection's topics, and leaves the other walks to gather.
#[test]
fn a_visit_begins_the_walks_of_its_connection() {
    // The visit looks at the walks, or at the subscriptions, whichever are fewer.
    for others in [1, 5] {
        let mut hub = hub();
        let id = join(&mut hub, "a", true);
        hub.subscribe(id, &name("b"), ECHO);
        let other: Vec<_> = (0..others).map(|number| join(&mut hub, &format!("other {number}"), true)).collect();
        let b_alone = join(&mut hub, "b", true);
        let publisher = connect(&mut hub);
        let mut topics = vec!["a".to_owned(), "b".to_owned()];
        topics.extend((0..others).map(|number| format!("other {number}")));
        topics.iter().for_each(|topic| _ = publish(&mut hub, publisher, topic, "1"));
        let mut walks = Vec::new();
        hub.take_due(&mut walks);
        let slot = hub.next_member(walks[0]).unwrap();
        assert_eq!(shares_of_visit(&mut hub, walks[0], slot, &walks, 1), walks[..2]);
        topics.iter().for_each(|topic| _ = publish(&mut hub, publisher, topic, "2"));
        let mut received = BTreeMap::new();
        for walk in walks {
            while let Some(slot) = hub.next_member(walk) {
                let id = hub.connections.id_at(slot).unwrap();
                if !hub.passes(id, walk) {
                    received.insert(slot, texts(&mut hub, walk, slot));
                }
            }
            hub.end_walk(walk);
        }
        assert_eq!(received[&b_alone.slot()], ["1"], "the walk had begun");
        assert!(other.iter().all(|id| received[&id.slot()] == ["1", "2"]), "{received:?}");
        assert_nothing_is_taken(&hub);
    }
}

/// A connection whose only remaining share was taken is in one walk, and this walk must pass it all the same.
#[test]
fn the_last_topic_of_a_connection_may_be_taken() {
    let mut hub = hub();
    let id = join(&mut hub, "a", true);
    hub.subscribe(id, &name("b"), ECHO);
    let publisher = connect(&mut hub);
    for _ in 0..3 {
        ["a", "b"].iter().for_each(|topic| _ = publish(&mut hub, publisher, topic, "1"));
        let mut walks = Vec::new();
        hub.take_due(&mut walks);
        let slot = hub.next_member(walks[0]).unwrap();
        assert_eq!(shares_of_visit(&mut hub, walks[0], slot, &walks, 1), walks);
        assert!(hub.unsubscribe(id, &name("a")).is_empty());
        let slot = hub.next_member(walks[1]).unwrap();
        assert!(shares_of_visit(&mut hub, walks[1], slot, &walks, 1).is_empty());
        walks.into_iter().for_each(|walk| hub.end_walk(walk));
        assert_nothing_is_taken(&hub);
        publish(&mut hub, publisher, "b", "2");
        assert_eq!(flush(&mut hub)[&slot], ["2"]);
        hub.subscribe(id, &name("a"), ECHO);
    }
}

/// A taken share belongs to the walk under way, however many walks there have been: here more than 16 bits can count.
#[test]
fn no_walk_is_mistaken_for_an_earlier_one() {
    let mut hub = hub();
    let id = join(&mut hub, "a", true);
    hub.subscribe(id, &name("b"), ECHO);
    for round in 0..70_000_u32 {
        ["a", "b"].iter().for_each(|topic| _ = publish(&mut hub, id, topic, ""));
        let mut walks = Vec::new();
        hub.take_due(&mut walks);
        // In two of three rounds the first visit hands out both shares. The walks alternate in being the first.
        walks.rotate_left(round as usize % 2);
        let further_max = usize::from(!round.is_multiple_of(3));
        let mut shares = 0;
        for &walk in &walks {
            let slot = hub.next_member(walk).unwrap();
            shares += shares_of_visit(&mut hub, walk, slot, &walks, further_max).len();
        }
        assert_eq!(shares, 2, "round {round}");
        walks.into_iter().for_each(|walk| hub.end_walk(walk));
    }
}
