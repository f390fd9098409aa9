//! The checks of the simulator of policies: of receipts when shards count, and of what each client knows at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{
    super::world::for_each_frame,
    KEYS, PLAIN,
    client::{Client, Item, Manner},
    run::Run,
    topic_of,
};
use crate::hub::{ConnectionId, Receipt};

impl Run {
    /// Compares the counts for receipts that a shard has sent at the end of its turn with what has become of the
    /// messages for the shard's clients.
    pub(super) fn check_counts(&mut self, side: usize) {
        let journal = self.worlds[side].shard.hub.journal.as_mut().expect("a journal");
        for (home, number, receipt) in mem::take(&mut journal.counted) {
            let journal = self.worlds[usize::from(home)].shard.hub.journal.as_ref().expect("a journal");
            let (name, offset) = &journal.receipts[&number];
            let (topic, offset) = (topic_of(name.as_str()), *offset);
            let message = (topic, self.orders[topic].messages[offset as usize - 1].0);
            let (mut sent, mut queued, mut dropped, mut closed) = (0, 0, 0, 0);
            for client in self.clients.iter_mut().filter(|client| client.at.0 == side) {
                if !client.topics.iter().any(|&(of, begin)| of == topic && begin < offset as usize) {
                    continue;
                }
                let world = &self.worlds[side];
                let rest = client.look_at(&world.network.borrow().lines[client.at.1]);
                let connection = world.shard.hub.connections.get(client.id);
                let output = connection.and_then(|connection| connection.io.output.as_ref());
                let backlog = output.map_or(Vec::new(), |output| {
                    output.backlog.unsent(usize::MAX, usize::MAX).collect::<Vec<_>>().concat()
                });
                let mut is_queued = false;
                for_each_frame(&[rest, backlog].concat(), |_, payload| {
                    is_queued |= client.manner.message(payload) == Some(message);
                });
                let is_open = connection.is_some_and(|connection| connection.is_open());
                match client.taken.contains(&message) {
                    true => sent += 1,
                    false if is_queued => queued += 1,
                    false => dropped += u32::from(is_open),
                }
                closed += u32::from(!is_open);
            }
            let Receipt { matched, .. } = receipt;
            assert_eq!((receipt.sent, receipt.queued), (sent, queued), "{message:?}: {receipt:?}");
            assert_eq!(matched, sent + queued + receipt.dropped + receipt.closed, "{message:?}: {receipt:?}");
            // It is not known when a client was closed.
            if closed == 0 {
                assert_eq!((receipt.dropped, receipt.closed), (dropped, 0), "{message:?}: {receipt:?}");
            }
            let sum = self.counted.entry((topic, offset)).or_default();
            for (sum, own) in [
                (&mut sum.matched, receipt.matched),
                (&mut sum.sent, receipt.sent),
                (&mut sum.queued, receipt.queued),
                (&mut sum.dropped, receipt.dropped),
                (&mut sum.closed, receipt.closed),
            ] {
                *sum += own;
            }
        }
    }

    /// Checks what each client knows. Returns how many messages the clients have lost that were not closed, and how
    /// many clients were closed.
    pub(super) fn check(&self) -> (u64, u64) {
        let (mut lost, mut closed) = (0, 0);
        for order in &self.orders {
            assert_eq!(order.messages.len() as u64, order.published, "each message has its place");
        }
        assert_eq!(self.answered, self.counted, "receipts are the sums of the shards' counts");
        for client in &self.clients {
            assert_eq!(client.texts[0], "answer");
            let texts = &client.texts[1..];
            let close = texts.last().filter(|last| last.starts_with("close"));
            assert!(close.is_none_or(|close| close == "close 1008"), "{close:?}");
            let is_closed = close.is_some();
            closed += u64::from(is_closed);
            let texts = &texts[..texts.len() - usize::from(is_closed)];
            let items: Vec<Item> = texts.iter().map(|text| client.item(text)).collect();
            for &(topic, begin) in &client.topics {
                lost += self.check_topic(client, (topic, begin), &items, is_closed);
            }
        }
        (lost, closed)
    }

    fn check_topic(&self, client: &Client, (topic, begin): (usize, usize), items: &[Item], is_closed: bool) -> u64 {
        let order = &self.orders[topic];
        let (mut received, mut lags, mut last) = (BTreeSet::new(), Vec::new(), 0);
        for item in items {
            match *item {
                Item::Message { topic: of, number } if of == topic => {
                    let offset = order.offsets[&number];
                    assert!(last < offset, "messages come in their order");
                    last = offset;
                    received.insert(offset);
                }
                Item::Lag { topic: of, from, to, count } if of == topic => {
                    assert!(last < from, "a notice stands before what follows the first message that is missing");
                    lags.push((from, to, count));
                }
                _ => {}
            }
        }
        let is_owed = |(_, (_, source)): &(u64, &(u64, Option<ConnectionId>))| *source != Some(client.id);
        let all = (1..).zip(&order.messages).skip(begin);
        let owed: BTreeSet<u64> = all.clone().filter(is_owed).map(|(offset, _)| offset).collect();
        assert!(received.is_subset(&owed), "a client gets nothing else: {received:?} of {owed:?}");
        let mut lost: BTreeSet<u64> = owed.difference(&received).copied().collect();
        let is_lossless = topic == PLAIN || client.manner == Manner::Raw;
        if is_lossless {
            assert!(lags.is_empty(), "nothing is lost");
            assert!(received.iter().eq(owed.iter().take(received.len())), "nothing is missing");
        }
        if is_closed {
            // What comes after the last message, or after the last notice, was not told.
            let end = lags.iter().map(|lag| lag.1).chain([last]).max().unwrap_or_default();
            lost.retain(|offset| *offset <= end);
        }
        assert!(!is_lossless || lost.is_empty());
        if matches!(client.manner, Manner::Told | Manner::Json) {
            for &(from, to, count) in &lags {
                assert!(lost.contains(&from) && lost.contains(&to) && lost.range(from..=to).count() as u64 >= count);
            }
            let is_told = |number: &u64| lags.iter().any(|&(from, to, _)| (from..=to).contains(number));
            assert!(lost.iter().all(is_told), "{lags:?} {lost:?}");
            let told = lags.iter().map(|lag| lag.2).sum::<u64>();
            assert!(told == lost.len() as u64 || is_closed && told < lost.len() as u64, "{lags:?} {lost:?}");
        }
        if is_closed {
            return 0;
        }
        if order.is_latest {
            let newest: BTreeMap<u64, u64> = all.map(|(offset, (number, _))| (number % KEYS, offset)).collect();
            let newest: BTreeSet<u64> = newest.into_values().filter(|offset| owed.contains(offset)).collect();
            assert!(newest.is_subset(&received), "each key ends at its last value: {newest:?} {received:?}");
        }
        lost.len() as u64
    }
}
