//! A watch over the turns of all shards.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::metrics::{Counter, Counters};

/// A watch over the turns of all shards. The watch finds each shard that is stuck: in a handler that does not return,
/// or in the kernel.
///
/// A shard without work sleeps, and has no turns. So each look wakes all shards. The next look sees whether the shards
/// have had a turn.
///
/// ```no_run
/// use std::{thread, time::Duration};
/// # use ringhub::server::Server;
/// # let running = Server::builder().topics().build()?.start()?;
/// let mut watch = running.watch_turns();
/// loop {
///     thread::sleep(Duration::from_secs(5));
///     let stuck = watch.look();
///     if !stuck.is_empty() {
///         eprintln!("no turn for five seconds on the shards {stuck:?}");
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TurnWatch {
    shards: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    counters: Arc<Counters>,
    woken: Arc<Notify>,
    /// How many turns the shard had finished at the last look.
    turns: u64,
}

impl TurnWatch {
    /// Notes how many turns each shard has had until now, and wakes all shards.
    pub(super) fn new(counters: &[Arc<Counters>], woken: &[Arc<Notify>]) -> TurnWatch {
        let shards = counters.iter().zip(woken).map(|(counters, woken)| {
            woken.notify_one();
            Watched { counters: Arc::clone(counters), woken: Arc::clone(woken), turns: counters.get(Counter::Turns) }
        });
        TurnWatch { shards: shards.collect() }
    }

    /// Returns the shards, by number, that have not finished a turn since the last look, and wakes all shards. A turn
    /// takes milliseconds. Leave the shards time for a turn between two looks.
    pub fn look(&mut self) -> Vec<usize> {
        let mut stuck = Vec::new();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let turns = shard.counters.get(Counter::Turns);
            if turns == shard.turns {
                stuck.push(number);
            }
            shard.turns = turns;
            shard.woken.notify_one();
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_without_a_turn_is_stuck_and_all_are_woken() {
        let counters: Vec<Arc<Counters>> = (0..3).map(|_| Arc::default()).collect();
        let woken: Vec<Arc<Notify>> = (0..3).map(|_| Arc::default()).collect();
        let turn = |shard: usize| counters[shard].add(Counter::Turns, 1);
        turn(0);
        let mut watch = TurnWatch::new(&counters, &woken);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // A `Notify` keeps a wake-up for which no task waits yet.
        let wait_for_all = || {
            runtime.block_on(async {
                for woken in &woken {
                    woken.notified().await;
                }
            });
        };
        wait_for_all();
        (0..3).for_each(turn);
        assert_eq!(watch.look(), [0; 0]);
        wait_for_all();
        turn(1);
        assert_eq!(watch.look(), [0, 2]);
        turn(0);
        turn(2);
        assert_eq!(watch.look(), [1]);
    }
}
