//! Topics whose interest waits for room in the lane to their home.

use std::collections::VecDeque;

use super::topic_id::TopicId;

/// Topics whose interest has not been sent yet, because the lane to their home has no room; each topic once. A home
/// without room costs one look, however many topics wait for it.
#[derive(Debug, Default)]
pub(super) struct Due {
    by_home: Vec<VecDeque<TopicId>>,
    count: usize,
}

impl Due {
    /// Returns whether no topic waits.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a topic of that home.
    pub(super) fn push(&mut self, home: u16, topic: TopicId) {
        let home = usize::from(home);
        if self.by_home.len() <= home {
            self.by_home.resize_with(home + 1, VecDeque::new);
        }
        self.by_home[home].push_back(topic);
        self.count += 1;
    }

    /// Calls `send` with each home's topics in order, and removes the topics for which `send` returns `true`. `false`
    /// means that the home has no room, so its other topics stay.
    pub(super) fn retry(&mut self, mut send: impl FnMut(TopicId) -> bool) {
        if self.is_empty() {
            return;
        }
        for topics in &mut self.by_home {
            while topics.front().is_some_and(|&topic| send(topic)) {
                topics.pop_front();
                self.count -= 1;
            }
            if topics.is_empty() {
                // Memory for a crowd of topics is not kept.
                topics.shrink_to(QUEUE_KEPT);
            }
        }
    }
}

/// Entries that an empty queue keeps room for.
const QUEUE_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_without_room_costs_one_look() {
        let mut due = Due::default();
        for number in 0..1_000 {
            due.push(2, TopicId(number));
            due.push(0, TopicId(10_000 + number));
        }
        let mut asked = Vec::new();
        due.retry(|topic| {
            asked.push(topic.0);
            topic.0 >= 10_000
        });
        // The topics of the home that has room, in their order, and the first of the other home.
        assert_eq!(asked, (10_000..11_000).chain([0]).collect::<Vec<_>>());
        assert!(!due.is_empty());
        asked.clear();
        let mut room = 3;
        due.retry(|topic| {
            asked.push(topic.0);
            room -= 1;
            room >= 0
        });
        assert_eq!(asked, [0, 1, 2, 3]);
        due.retry(|_| true);
        assert!(due.is_empty());
        due.retry(|_| panic!("no topic waits"));
    }
}
