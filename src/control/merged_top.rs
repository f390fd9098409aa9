//! The busiest topics and the largest backlogs of all shards together, as JSON and as tables.

use std::{cmp::Reverse, collections::HashMap, fmt::Write as _, sync::Arc, time::Instant};

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::hub::{BusyTopic, HALF_LIFE_MS, LargeBacklog, TOP_MAX, Top, TopicName};

/// The last answer of all shards, and its time.
pub(super) type LastTop = Mutex<Option<(Instant, Arc<AllShards>)>>;

/// What is on top of all shards together.
#[derive(Debug, Default)]
pub(super) struct AllShards {
    /// The busiest first.
    topics: Vec<BusyTopic>,
    /// The largest first.
    largest: Vec<LargeBacklog>,
    /// The oldest first.
    oldest: Vec<LargeBacklog>,
    /// The shards that have not answered in time.
    silent: usize,
}

impl AllShards {
    /// Merges the answers of shards: the work for a topic is that of all shards together. `silent` counts the shards
    /// without an answer.
    pub(super) fn merge(tops: Vec<Top>, silent: usize) -> AllShards {
        let (mut topics, mut backlogs): (HashMap<TopicName, BusyTopic>, Vec<LargeBacklog>) = Default::default();
        for Top { topics: of_shard, backlogs: laggards } in tops {
            for busy in of_shard {
                let sum = topics.entry(busy.topic.clone()).or_insert_with(|| BusyTopic {
                    topic: busy.topic.clone(),
                    work: Default::default(),
                    missed: 0,
                });
                sum.work.add(busy.work);
                sum.missed = sum.missed.saturating_add(busy.missed);
            }
            backlogs.extend(laggards);
        }
        let mut topics: Vec<BusyTopic> = topics.into_values().collect();
        topics.sort_by(|a, b| b.work.deliveries.cmp(&a.work.deliveries).then_with(|| a.topic.cmp(&b.topic)));
        topics.truncate(TOP_MAX);
        let mut oldest = backlogs.clone();
        backlogs.sort_by_key(|backlog| Reverse(backlog.bytes));
        backlogs.truncate(TOP_MAX);
        oldest.sort_by_key(|backlog| Reverse(backlog.age_ms));
        oldest.truncate(TOP_MAX);
        AllShards { topics, largest: backlogs, oldest, silent }
    }

    pub(super) fn json(&self) -> Value {
        let backlog = |backlog: &LargeBacklog| {
            json!({
                "id": backlog.id.to_string(),
                "peer": backlog.peer,
                "bytes": backlog.bytes,
                "messages": backlog.messages,
                "age_ms": backlog.age_ms,
            })
        };
        let topic = |BusyTopic { topic, work, missed }: &BusyTopic| {
            json!({
                "topic": topic.as_str(),
                "deliveries": work.deliveries,
                "messages": work.messages,
                "bytes": work.bytes,
                "missed": missed,
            })
        };
        json!({
            "half_life_ms": HALF_LIFE_MS,
            "shards_silent": self.silent,
            "topics": self.topics.iter().map(topic).collect::<Vec<_>>(),
            "backlogs_largest": self.largest.iter().map(backlog).collect::<Vec<_>>(),
            "backlogs_oldest": self.oldest.iter().map(backlog).collect::<Vec<_>>(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |cells: [&str; 5]| {
            let [first, second, third, fourth, last] = cells;
            // Writing to a string cannot fail.
            writeln!(text, "{first:>14} {second:>14} {third:>14} {fourth:>14}  {last}").unwrap_or_default();
        };
        line(["deliveries", "messages", "bytes", "missed", "busiest topics"]);
        for BusyTopic { topic, work, missed } in &self.topics {
            let numbers = [work.deliveries, work.messages, work.bytes, *missed].map(|number| number.to_string());
            // A name may have any character, also those that move a terminal's cursor.
            let topic = topic.as_str().escape_debug().to_string();
            line([&numbers[0], &numbers[1], &numbers[2], &numbers[3], &topic]);
        }
        for (title, backlogs) in [("largest backlogs", &self.largest), ("oldest backlogs", &self.oldest)] {
            line(["", "", "", "", ""]);
            line(["bytes", "messages", "age (ms)", "connection", title]);
            for LargeBacklog { id, peer, bytes, messages, age_ms } in backlogs {
                let numbers = [bytes, messages, age_ms].map(|number| number.to_string());
                line([&numbers[0], &numbers[1], &numbers[2], &id.to_string(), peer.as_deref().unwrap_or_default()]);
            }
        }
        if self.silent > 0 {
            writeln!(text, "\n{} shards have not answered in time", self.silent).unwrap_or_default();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{ConnectionId, TopicWork};

    fn busy(topic: &str, deliveries: u64) -> BusyTopic {
        let work = TopicWork { deliveries, messages: 1, bytes: 10 };
        BusyTopic { topic: TopicName::new(topic).unwrap(), work, missed: 1 }
    }

    fn backlog(shard: u16, bytes: u64, age_ms: u64) -> LargeBacklog {
        LargeBacklog { id: ConnectionId::new(shard, 1, 0), peer: None, bytes, messages: 2, age_ms }
    }

    #[test]
    fn shards_are_merged() {
        let first = Top { topics: vec![busy("a", 5), busy("b", 6)], backlogs: vec![backlog(0, 9, 1)] };
        let second = Top { topics: vec![busy("a", 5)], backlogs: vec![backlog(1, 1, 9)] };
        let all = AllShards::merge(vec![first, second], 1);
        let json = all.json();
        assert_eq!(json["topics"][0]["topic"], "a");
        assert_eq!((&json["topics"][0]["deliveries"], &json["topics"][0]["missed"]), (&10.into(), &2.into()));
        assert_eq!(json["topics"][1]["deliveries"], 6);
        assert_eq!(
            (&json["backlogs_largest"][0]["bytes"], &json["backlogs_oldest"][0]["age_ms"]),
            (&9.into(), &9.into())
        );
        let text = all.text();
        assert!(text.contains("10              2             20              2  a\n"), "{text}");
        assert!(text.ends_with("\n1 shards have not answered in time\n"), "{text}");
    }

    #[test]
    fn answers_are_bounded() {
        let topics = |from: usize| (from..from + TOP_MAX).map(|at| busy(&format!("t{at}"), at as u64)).collect();
        let backlogs = |shard| vec![backlog(shard, 1, 1); 2 * TOP_MAX];
        let tops = vec![
            Top { topics: topics(0), backlogs: backlogs(0) },
            Top { topics: topics(TOP_MAX), backlogs: backlogs(1) },
        ];
        let all = AllShards::merge(tops, 0);
        assert_eq!([all.topics.len(), all.largest.len(), all.oldest.len()], [TOP_MAX; 3]);
        assert_eq!(all.topics[0].topic.as_str(), "t127");
    }
}
