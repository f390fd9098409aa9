//! The one task that speaks with the shards: what is published goes out by it, and the answers come in.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    hub::{Outside, Published, TopicName},
    metrics::{Counter, Counters},
    proto::PreparedMessage,
};

/// Publishes from any task of any thread. A clone is another handle to the same [`Publishing`].
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    requests: mpsc::Sender<Publish>,
}

#[derive(Debug)]
struct Publish {
    topic: TopicName,
    message: PreparedMessage,
    answer: oneshot::Sender<Published>,
}

impl Publisher {
    /// Publishes a message and waits for its place in the topic's order. `None` if the server leaves and has not
    /// published it.
    pub(crate) async fn publish(&self, topic: TopicName, message: PreparedMessage) -> Option<Published> {
        let (answer, published) = oneshot::channel();
        self.requests.send(Publish { topic, message, answer }).await.ok()?;
        published.await.ok()
    }
}

/// The other side of all [`Publisher`]s.
#[derive(Debug)]
pub(super) struct Publishing {
    outside: Outside,
    woken: Arc<Notify>,
    counters: Arc<Counters>,
    leaving: Arc<AtomicBool>,
    requests: mpsc::Receiver<Publish>,
    /// Who waits for an answer, by ticket.
    waiting: HashMap<u64, oneshot::Sender<Published>>,
    ticket: u64,
}

impl Publishing {
    /// `woken` is notified when a shard has put something into a lane.
    pub(super) fn new(
        outside: Outside,
        woken: Arc<Notify>,
        counters: Arc<Counters>,
        leaving: Arc<AtomicBool>,
    ) -> (Publisher, Publishing) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let waiting = HashMap::new();
        let publishing = Publishing { outside, woken, counters, leaving, requests, waiting, ticket: 0 };
        (Publisher { requests: sender }, publishing)
    }

    /// Works until it is told that all shards have ended.
    pub(super) async fn run(mut self, mut finishing: watch::Receiver<()>) {
        loop {
            // The mesh counts what finds no room: while something waits nothing is added to it.
            while !self.outside.is_congested()
                && let Ok(publish) = self.requests.try_recv()
            {
                self.submit(publish);
            }
            self.outside.send_out();
            self.take_answers();
            self.counters.set(Counter::LaneOverflow, self.outside.overflowed());
            if self.outside.may_sleep() {
                tokio::select! {
                    () = self.woken.notified() => {}
                    publish = self.requests.recv(), if !self.outside.is_congested() => {
                        let Some(publish) = publish else { return };
                        self.submit(publish);
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

    fn submit(&mut self, publish: Publish) {
        // Relaxed: shards begin to leave only after they were told so. Subscribers may be gone by then, so this is the
        // last moment at which it can be said truly that the message was not published.
        if self.leaving.load(Ordering::Relaxed) {
            return;
        }
        let Publish { topic, message, answer } = publish;
        self.ticket += 1;
        self.waiting.insert(self.ticket, answer);
        self.outside.submit(topic, message, self.ticket);
    }

    fn take_answers(&mut self) {
        while let Some((ticket, published)) = self.outside.next_answer() {
            if let Some(answer) = self.waiting.remove(&ticket) {
                // Who asked may have gone meanwhile.
                _ = answer.send(published);
            }
        }
    }
}

/// What waits to be published, over all connections. Beyond it publishers wait.
const REQUESTS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Hub, MeshEnd, MeshLimits, Wake};

    /// What is submitted, and taken by the topic's home or not before everything ends, is answered so.
    #[test]
    fn nobody_waits_for_shards_that_have_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for is_taken in [true, false] {
            let wake = (0..2).map(|_| Arc::new(|| {}) as Wake).collect();
            let mut ends = MeshEnd::connect_with(wake, 1, &MeshLimits::default());
            let outside = Outside::new(ends.pop().unwrap());
            let mut hub = Hub::new(ends.pop().unwrap(), 1_000, 1);
            let (publisher, publishing) = Publishing::new(outside, Arc::default(), Arc::default(), Arc::default());
            runtime.block_on(async {
                let (finish, finishing) = watch::channel(());
                let publishing = tokio::spawn(publishing.run(finishing));
                let topic = TopicName::new("x").unwrap();
                let waiting = async move { publisher.publish(topic, PreparedMessage::text("x")).await };
                let waiting = tokio::spawn(waiting);
                while !hub.has_mail() {
                    tokio::task::yield_now().await;
                }
                if is_taken {
                    assert!(hub.take_request());
                    hub.send_out();
                }
                drop(finish);
                assert_eq!(waiting.await.unwrap().map(|published| published.offset), is_taken.then_some(1));
                publishing.await.unwrap();
            });
        }
    }
}
