//! The one task that speaks with the shards: what others ask goes out by it, and the answers come in.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    hub::{Command, ConnectionId, Outside, Published, Reply, TopicName},
    metrics::{Counter, Counters},
    proto::PreparedMessage,
};

/// Asks shards from any task of any thread. A clone is another handle to the same [`Publishing`].
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    requests: mpsc::Sender<Asked>,
}

#[derive(Debug)]
struct Asked {
    what: What,
    answer: oneshot::Sender<Reply>,
}

#[derive(Debug)]
enum What {
    Publish { topic: TopicName, source: Option<ConnectionId>, message: PreparedMessage },
    Command { shard: u16, command: Command },
}

/// What [`Publisher`]s ask, for [`Publishing`].
#[derive(Debug)]
pub(crate) struct Requests(mpsc::Receiver<Asked>);

impl Publisher {
    /// A publisher, and what it will have asked.
    pub(crate) fn new() -> (Publisher, Requests) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        (Publisher { requests }, Requests(receiver))
    }

    /// Publishes a message and waits for its place in the topic's order. `None` if the server leaves and has not
    /// published it.
    pub(crate) async fn publish(
        &self,
        topic: TopicName,
        source: Option<ConnectionId>,
        message: PreparedMessage,
    ) -> Option<Published> {
        match self.ask(What::Publish { topic, source, message }).await? {
            Reply::Published(published) => Some(published),
            _ => None,
        }
    }

    /// Asks a shard to do something. `None` if the server has ended meanwhile.
    pub(crate) async fn command(&self, shard: u16, command: Command) -> Option<Reply> {
        self.ask(What::Command { shard, command }).await
    }

    async fn ask(&self, what: What) -> Option<Reply> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Asked { what, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// The other side of all [`Publisher`]s.
#[derive(Debug)]
pub(super) struct Publishing {
    outside: Outside,
    woken: Arc<Notify>,
    counters: Arc<Counters>,
    leaving: Arc<AtomicBool>,
    requests: mpsc::Receiver<Asked>,
    /// Who waits for an answer, by ticket.
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
    ticket: u64,
}

impl Publishing {
    /// `woken` is notified when a shard has put something into a lane.
    pub(super) fn new(
        outside: Outside,
        woken: Arc<Notify>,
        counters: Arc<Counters>,
        leaving: Arc<AtomicBool>,
        Requests(requests): Requests,
    ) -> Publishing {
        Publishing { outside, woken, counters, leaving, requests, waiting: HashMap::new(), ticket: 0 }
    }

    /// Works until it is told that all shards have ended.
    pub(super) async fn run(mut self, mut finishing: watch::Receiver<()>) {
        loop {
            // The mesh counts what finds no room: while something waits nothing is added to it.
            while !self.outside.is_congested()
                && let Ok(asked) = self.requests.try_recv()
            {
                self.submit(asked);
            }
            self.outside.send_out();
            self.take_answers();
            self.counters.set(Counter::LaneOverflow, self.outside.overflowed());
            if self.outside.may_sleep() {
                tokio::select! {
                    () = self.woken.notified() => {}
                    asked = self.requests.recv(), if !self.outside.is_congested() => {
                        let Some(asked) = asked else { return };
                        self.submit(asked);
                    }
                    // What they have answered is in the lanes, and who is not among those is told by being dropped.
                    _ = finishing.changed() => return self.take_answers(),
                }
            } else {
                // Others have their turn, who may want to publish too.
                tokio::task::yield_now().await;
            }
            self.outside.awake();
        }
    }

    fn submit(&mut self, Asked { what, answer }: Asked) {
        self.ticket += 1;
        match what {
            // Relaxed: shards begin to leave only after they were told so. Subscribers may be gone by then, so this is
            // the last moment at which it can be said truly that the message was not published.
            What::Publish { .. } if self.leaving.load(Ordering::Relaxed) => return,
            What::Publish { topic, source, message } => self.outside.submit(topic, source, message, self.ticket),
            What::Command { shard, command } => self.outside.command(shard, command, self.ticket),
        }
        self.waiting.insert(self.ticket, answer);
    }

    fn take_answers(&mut self) {
        while let Some((ticket, reply)) = self.outside.next_answer() {
            if let Some(answer) = self.waiting.remove(&ticket) {
                // Who asked may have gone meanwhile.
                _ = answer.send(reply);
            }
        }
    }
}

/// What waits to be asked, over all connections and handles. Beyond it whoever asks waits.
const REQUESTS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Hub, HubLimits, MeshEnd, MeshLimits, Wake};

    /// What is submitted, and taken by the topic's home or not before everything ends, is answered so.
    #[test]
    fn nobody_waits_for_shards_that_have_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for is_taken in [true, false] {
            let wake = (0..2).map(|_| Arc::new(|| {}) as Wake).collect();
            let mut ends = MeshEnd::connect_with(wake, 1, &MeshLimits::default());
            let outside = Outside::new(ends.pop().unwrap());
            let mut hub = Hub::new(ends.pop().unwrap(), HubLimits::default(), 1);
            let (publisher, requests) = Publisher::new();
            let publishing = Publishing::new(outside, Arc::default(), Arc::default(), Arc::default(), requests);
            runtime.block_on(async {
                let (finish, finishing) = watch::channel(());
                let publishing = tokio::spawn(publishing.run(finishing));
                let topic = TopicName::new("x").unwrap();
                let waiting = async move { publisher.publish(topic, None, PreparedMessage::text("x")).await };
                let waiting = tokio::spawn(waiting);
                while !hub.has_mail() {
                    tokio::task::yield_now().await;
                }
                if is_taken {
                    assert!(hub.take_request(&mut Vec::new()));
                    hub.send_out();
                }
                drop(finish);
                assert_eq!(waiting.await.unwrap().map(|published| published.offset), is_taken.then_some(1));
                publishing.await.unwrap();
            });
        }
    }
}
