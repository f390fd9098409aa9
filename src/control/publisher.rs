//! The one task that speaks with the shards: what is published goes out by it, and the answers come in.

use std::{collections::HashMap, future::Future, sync::Arc};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    hub::{Outside, Published, TopicName},
    metrics::{Counter, Counters},
    proto::PreparedMessage,
};

/// Publishes from any task of any thread. A clone is another handle to the same task.
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
    /// Publishes a message and waits for its place in the topic's order. `None` if the server has ended meanwhile.
    pub(crate) async fn publish(&self, topic: TopicName, message: PreparedMessage) -> Option<Published> {
        let (answer, published) = oneshot::channel();
        self.requests.send(Publish { topic, message, answer }).await.ok()?;
        published.await.ok()
    }
}

/// A publisher, and the task that it speaks with. `woken` is notified when a shard has put something into a lane.
pub(super) fn start(
    outside: Outside,
    woken: Arc<Notify>,
    counters: Arc<Counters>,
) -> (Publisher, impl Future<Output = ()> + Send) {
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    (Publisher { requests }, serve(outside, woken, counters, receiver))
}

async fn serve(
    mut outside: Outside,
    woken: Arc<Notify>,
    counters: Arc<Counters>,
    mut requests: mpsc::Receiver<Publish>,
) {
    let mut waiting: HashMap<u64, oneshot::Sender<Published>> = HashMap::new();
    let mut ticket = 0;
    let mut submit = |outside: &mut Outside, waiting: &mut HashMap<_, _>, publish: Publish| {
        let Publish { topic, message, answer } = publish;
        ticket += 1;
        waiting.insert(ticket, answer);
        outside.submit(topic, message, ticket);
    };
    loop {
        // The mesh counts what finds no room: while something waits nothing is added to it.
        while !outside.is_congested()
            && let Ok(publish) = requests.try_recv()
        {
            submit(&mut outside, &mut waiting, publish);
        }
        outside.send_out();
        while let Some((ticket, published)) = outside.next_answer() {
            if let Some(answer) = waiting.remove(&ticket) {
                // Who asked may have gone meanwhile.
                _ = answer.send(published);
            }
        }
        counters.set(Counter::LaneOverflow, outside.overflowed());
        if outside.may_sleep() {
            tokio::select! {
                () = woken.notified() => {}
                publish = requests.recv(), if !outside.is_congested() => {
                    let Some(publish) = publish else { return };
                    submit(&mut outside, &mut waiting, publish);
                }
            }
        } else {
            // Others have their turn, who may want to publish too.
            tokio::task::yield_now().await;
        }
        outside.awake();
    }
}

/// What waits to be published, over all connections. Beyond it publishers wait.
const REQUESTS_MAX: usize = 1_024;
