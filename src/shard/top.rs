//! The answer of a shard about its busiest topics and largest backlogs.

use std::cmp::Reverse;

use super::state::Shard;
use crate::{
    hub::{LargeBacklog, TOP_MAX, Top},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Returns the busiest topics, and the largest and the oldest backlogs.
    pub(super) fn top(&mut self) -> Top {
        let now = self.hub.now();
        let topics = self.walk_samples.busiest.list(now);
        let seen = self.laggards.iter().take(LAGGARDS_SEEN_MAX).filter_map(|&id| {
            let output = self.hub.connections.get(id)?.io.output.as_ref()?;
            let age = output.marked.map_or(0, |marked| marked.waited(now).as_millis() as u64);
            Some(LargeBacklog {
                id,
                peer: None,
                bytes: output.counted.bytes,
                messages: output.counted.messages,
                age_ms: age,
            })
        });
        let mut backlogs = most(seen.collect());
        for backlog in &mut backlogs {
            // The address takes a system call, so only these few are asked for.
            backlog.peer = self.peer(backlog.id).map(|peer| peer.to_string().into());
        }
        Top { topics, backlogs }
    }
}

/// Returns the [`TOP_MAX`] largest backlogs and the [`TOP_MAX`] oldest ones, each once.
fn most(mut all: Vec<LargeBacklog>) -> Vec<LargeBacklog> {
    all.sort_unstable_by_key(|backlog| Reverse(backlog.bytes));
    let mut others = all.split_off(all.len().min(TOP_MAX));
    others.extend_from_slice(&all);
    others.sort_unstable_by_key(|backlog| Reverse(backlog.age_ms));
    others.truncate(TOP_MAX);
    others.retain(|other| !all.iter().any(|one| one.id == other.id));
    all.append(&mut others);
    all
}

/// The most connections with a backlog that are looked at for an answer, which takes them some milliseconds. Which ones
/// are left out is random.
const LAGGARDS_SEEN_MAX: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::ConnectionId;

    fn backlog(number: u32, bytes: u64, age_ms: u64) -> LargeBacklog {
        LargeBacklog { id: ConnectionId::new(0, number, 0), peer: None, bytes, messages: 1, age_ms }
    }

    #[test]
    fn the_largest_and_the_oldest_are_there_once() {
        // The larger a backlog, the younger; and one that is both the largest and the oldest.
        let mut all: Vec<LargeBacklog> = (0..500).map(|at| backlog(at, at.into(), 1_000 - u64::from(at))).collect();
        all.push(backlog(500, 10_000, 10_000));
        let top = most(all);
        let mut numbers: Vec<u32> = top.iter().map(|backlog| backlog.id.slot()).collect();
        numbers.sort_unstable();
        let expected: Vec<u32> = (0..TOP_MAX as u32 - 1).chain(500 - (TOP_MAX as u32 - 1)..=500).collect();
        assert_eq!(numbers, expected);
        assert_eq!(most(vec![backlog(1, 2, 3)]), [backlog(1, 2, 3)]);
        assert!(most(Vec::new()).is_empty());
    }
}
