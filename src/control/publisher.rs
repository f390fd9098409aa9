//! The one task that speaks with the shards: what others ask goes out by it, and the answers come in.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    hub::{Command, ConnectionId, Outside, Published, Reply, TopicName},
    metrics::{Counter, Counters},
    proto::PreparedMessage,
};

/// Asks shards from any task of any thread. A clone is another handle to the same task.
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

impl Publisher {
    /// A publisher whose task nobody runs yet.
    pub(crate) fn new() -> (Publisher, Requests) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        (Publisher { requests }, Requests(receiver))
    }

    /// Publishes a message and waits for its place in the topic's order. `None` if the server has ended meanwhile.
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

/// What publishers ask.
#[derive(Debug)]
pub(crate) struct Requests(mpsc::Receiver<Asked>);

/// The task that publishers speak with. `woken` is notified when a shard has put something into a lane.
pub(super) async fn serve(
    mut outside: Outside,
    woken: Arc<Notify>,
    counters: Arc<Counters>,
    Requests(mut requests): Requests,
) {
    let mut waiting: HashMap<u64, oneshot::Sender<Reply>> = HashMap::new();
    let mut ticket = 0;
    let mut submit = |outside: &mut Outside, waiting: &mut HashMap<_, _>, Asked { what, answer }: Asked| {
        ticket += 1;
        waiting.insert(ticket, answer);
        match what {
            What::Publish { topic, source, message } => outside.submit(topic, source, message, ticket),
            What::Command { shard, command } => outside.command(shard, command, ticket),
        }
    };
    loop {
        // The mesh counts what finds no room: while something waits nothing is added to it.
        while !outside.is_congested()
            && let Ok(asked) = requests.try_recv()
        {
            submit(&mut outside, &mut waiting, asked);
        }
        outside.send_out();
        while let Some((ticket, reply)) = outside.next_answer() {
            if let Some(answer) = waiting.remove(&ticket) {
                // Who asked may have gone meanwhile.
                _ = answer.send(reply);
            }
        }
        counters.set(Counter::LaneOverflow, outside.overflowed());
        if outside.may_sleep() {
            tokio::select! {
                () = woken.notified() => {}
                asked = requests.recv(), if !outside.is_congested() => {
                    let Some(asked) = asked else { return };
                    submit(&mut outside, &mut waiting, asked);
                }
            }
        } else {
            // Others have their turn, who may want to publish too.
            tokio::task::yield_now().await;
        }
        outside.awake();
    }
}

/// What waits to be asked, over all connections and handles. Beyond it publishers wait.
const REQUESTS_MAX: usize = 1_024;
