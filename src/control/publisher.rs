//! The one task that sends requests to shards for all other tasks, and receives the replies.

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use slab::Slab;
use tokio::sync::{
    Notify,
    mpsc::{self, error::TrySendError},
    oneshot, watch,
};

use super::{
    feed::{Departures, Queue, QueueLimits, Subscription},
    waits::{HomeIsBehind, Wait, Waits},
};
use crate::{
    clock::Clock,
    hub::{
        Arrival, Command, ConnectionId, ExternalEnd, HistoryPage, HistoryQuery, Place, Posted, Presence, Publication,
        PublishError, PublishOutcome, Published, Reply, SubscribeOutcome, TopicName, home,
    },
    metrics::{Counter, Counters},
};

/// Sends requests to shards from any task of any thread. A clone is another handle to the same [`PublisherTask`].
///
/// Each shard has its own queue: the callers of a shard that is behind hold up no other callers.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    queues: watch::Receiver<Option<Queues>>,
    waits: Waits,
    /// The subscriptions in process that have been dropped.
    departures: Arc<Departures>,
}

/// The reason for which a body is not published.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotPublished {
    /// The server leaves.
    Leaving,
    /// Too many bodies wait for the home of the topic.
    HomeIsBehind,
    /// The home of the topic has refused the message.
    Refused(PublishError),
}

/// The queues of the requests to each shard, which exist from the start of a server.
type Queues = Arc<[mpsc::Sender<Submission>]>;

#[derive(Debug)]
struct Submission {
    request: ShardRequest,
    answer: oneshot::Sender<Reply>,
}

#[derive(Debug)]
enum ShardRequest {
    Publish {
        topic: TopicName,
        source: Option<ConnectionId>,
        publication: Publication,
        /// The bytes of a request's body that is published. The body counts as received once the message has its
        /// offset.
        body_bytes: Option<u64>,
    },
    Command {
        shard: u16,
        command: Command,
    },
    /// Begin a subscription in process. The answer comes when it is live.
    Read {
        topic: TopicName,
        reader: u64,
        queue: Arc<Queue>,
    },
}

/// The requests of [`Publisher`]s, for [`PublisherTask`].
#[derive(Debug)]
pub(crate) struct Requests {
    queues: watch::Sender<Option<Queues>>,
    departures: Arc<Departures>,
}

impl Requests {
    /// Returns the receivers of the requests to each of `shards` shards.
    fn start(&self, shards: u16) -> Box<[mpsc::Receiver<Submission>]> {
        let each = (REQUESTS_MAX / usize::from(shards)).max(REQUESTS_MIN);
        let (queues, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(each)).unzip();
        self.queues.send_replace(Some(queues.into()));
        receivers.into()
    }
}

impl Publisher {
    /// Returns a publisher, and the receiver of its requests. Callers wait until the server starts.
    pub(crate) fn new() -> (Publisher, Requests) {
        let (requests, queues) = watch::channel(None);
        let departures: Arc<Departures> = Arc::default();
        let waits = Waits::new(1, usize::MAX, usize::MAX);
        let publisher = Publisher { queues, waits, departures: Arc::clone(&departures) };
        (publisher, Requests { queues: requests, departures })
    }

    /// Returns a publisher of the same requests that lets only so many bodies wait for each home.
    pub(super) fn with_waits(self, waits: Waits) -> Publisher {
        Publisher { waits, ..self }
    }

    /// Returns the bytes of memory of the messages in the queues of all subscriptions in process.
    pub(super) fn queued_bytes(&self) -> usize {
        self.departures.queued_bytes()
    }

    /// Publishes and waits for the answer of the topic's home. Returns `None` if the server leaves and has not
    /// published the publication.
    pub(crate) async fn publish(
        &self,
        topic: TopicName,
        source: Option<ConnectionId>,
        publication: Publication,
    ) -> Option<PublishOutcome> {
        let reply = self.request(ShardRequest::Publish { topic, source, publication, body_bytes: None }).await?;
        reply.published()
    }

    /// Publishes a message that came as the body of a request to a server that has started. The body is counted when
    /// its topic's home has given it a place, even if the returned future has been dropped meanwhile.
    ///
    /// # Errors
    ///
    /// See [`NotPublished`].
    pub(super) fn publish_body(
        &self,
        topic: TopicName,
        publication: Publication,
    ) -> impl Future<Output = Result<Published, NotPublished>> + Send + use<> {
        let begun = self.begin_body(topic, publication);
        async move {
            let (_wait, requested) = begun?;
            requested.published().await
        }
    }

    /// Publishes the messages of one body, those to one home in their order. The answers have the order of the
    /// messages. For each home the body waits once, with the bytes of all its messages to the home.
    pub(super) async fn publish_bodies(
        &self,
        messages: Vec<(TopicName, Publication)>,
    ) -> Vec<Result<Published, NotPublished>> {
        let Some(queues) = self.queues.borrow().clone() else {
            return messages.iter().map(|_| Err(NotPublished::Leaving)).collect();
        };
        let home_of = |topic: &TopicName| home(topic, queues.len() as u16);
        let mut bytes_of_homes: BTreeMap<u16, usize> = BTreeMap::new();
        for (topic, publication) in &messages {
            *bytes_of_homes.entry(home_of(topic)).or_default() += publication.payload().len();
        }
        let begin = |(home, bytes)| Some((home, self.waits.begin(home, bytes).ok()?));
        let waits: BTreeMap<u16, Wait> = bytes_of_homes.into_iter().filter_map(begin).collect();
        let mut begun: Vec<Result<Requested, NotPublished>> = Vec::with_capacity(messages.len());
        for (topic, publication) in messages {
            let home = home_of(&topic);
            if !waits.contains_key(&home) {
                begun.push(Err(NotPublished::HomeIsBehind));
                continue;
            }
            let mut requested = publish_to(&queues[usize::from(home)], topic, publication);
            // The next message must not find room that this one has waited for.
            requested.find_room().await;
            begun.push(Ok(requested));
        }
        let mut answers = Vec::with_capacity(begun.len());
        for begun in begun {
            answers.push(match begun {
                Ok(requested) => requested.published().await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    fn begin_body(&self, topic: TopicName, publication: Publication) -> Result<(Wait, Requested), NotPublished> {
        let queues = self.queues.borrow();
        let queues = queues.as_ref().ok_or(NotPublished::Leaving)?;
        let home = home(&topic, queues.len() as u16);
        let wait = self.waits.begin(home, publication.payload().len());
        let wait = wait.map_err(|HomeIsBehind| NotPublished::HomeIsBehind)?;
        Ok((wait, publish_to(&queues[usize::from(home)], topic, publication)))
    }

    /// Sends a command to a shard, and waits for the reply. Returns `None` if the server has ended meanwhile.
    pub(crate) async fn command(&self, shard: u16, command: Command) -> Option<Reply> {
        self.request(ShardRequest::Command { shard, command }).await
    }

    /// Reads a part of the history of a topic. Returns `None` if the server has ended meanwhile.
    pub(crate) async fn read_history(&self, topic: TopicName, query: HistoryQuery) -> Option<HistoryPage> {
        let shard = home(&topic, self.queues().await?.len() as u16);
        match self.command(shard, Command::ReadHistory { topic, query }).await? {
            Reply::History(page) => Some(*page),
            _ => None,
        }
    }

    /// Returns the members of a topic, or only how many they are: `Some(None)` if the topic's rules keep no presence,
    /// and `None` if the server has ended meanwhile.
    pub(crate) async fn read_presence(&self, topic: TopicName, has_members: bool) -> Option<Option<Presence>> {
        let shard = home(&topic, self.queues().await?.len() as u16);
        match self.command(shard, Command::ReadPresence { topic, has_members }).await? {
            Reply::Presence(presence) => Some(presence.map(|presence| *presence)),
            _ => None,
        }
    }

    /// Forgets the history of a topic, and returns how many messages were kept. Returns `None` if the server has ended
    /// meanwhile.
    pub(crate) async fn forget_history(&self, topic: TopicName) -> Option<u64> {
        let shard = home(&topic, self.queues().await?.len() as u16);
        match self.command(shard, Command::ForgetHistory(topic)).await? {
            Reply::Forgotten(messages) => Some(messages),
            _ => None,
        }
    }

    /// Sends a command to each of `shards` shards, and waits for the replies, which are in the order of the shards.
    /// Returns `None` if the server has ended meanwhile.
    pub(super) async fn command_each(&self, shards: u16, command: &Command) -> Option<Vec<Reply>> {
        if shards == 0 {
            return Some(Vec::new());
        }
        let queues = self.queues().await?;
        let begin = |shard: u16| {
            let request = ShardRequest::Command { shard, command: command.clone() };
            Requested::of(&queues[usize::from(shard)], request)
        };
        let begun: Vec<Requested> = (0..shards).map(begin).collect();
        let mut replies = Vec::with_capacity(begun.len());
        for requested in begun {
            replies.push(requested.reply().await?);
        }
        Some(replies)
    }

    /// Begins a subscription in process. When this returns, the subscription gets every later message of the topic.
    /// Returns `None` if the server leaves or has ended.
    pub(crate) async fn subscribe(&self, topic: TopicName, limits: QueueLimits) -> Option<Subscription> {
        // If this future is dropped, so is the subscription, and the task forgets its reader.
        let (subscription, queue) = Subscription::new(topic.clone(), limits, Arc::clone(&self.departures));
        let request = ShardRequest::Read { topic, reader: subscription.reader(), queue };
        match self.request(request).await? {
            Reply::Subscribed(SubscribeOutcome::Live) => Some(subscription),
            _ => None,
        }
    }

    async fn request(&self, request: ShardRequest) -> Option<Reply> {
        let queues = self.queues().await?;
        let shard = match &request {
            ShardRequest::Publish { topic, .. } | ShardRequest::Read { topic, .. } => home(topic, queues.len() as u16),
            ShardRequest::Command { shard, .. } => *shard,
        };
        Requested::of(&queues[usize::from(shard)], request).reply().await
    }

    /// Returns the queues of all shards once the server has started, or `None` if it never does.
    async fn queues(&self) -> Option<Queues> {
        if let Some(queues) = &*self.queues.borrow() {
            return Some(Arc::clone(queues));
        }
        let mut started = self.queues.clone();
        started.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// Requests that a message of a body is published.
fn publish_to(queue: &mpsc::Sender<Submission>, topic: TopicName, publication: Publication) -> Requested {
    let body_bytes = Some(publication.payload().len() as u64);
    Requested::of(queue, ShardRequest::Publish { topic, source: None, publication, body_bytes })
}

/// A request to a shard that is in the shard's queue, or waits for room in it.
struct Requested {
    answered: oneshot::Receiver<Reply>,
    /// The wait for room.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Requested {
    fn of(queue: &mpsc::Sender<Submission>, request: ShardRequest) -> Requested {
        let (answer, answered) = oneshot::channel();
        let waiting = match queue.try_send(Submission { request, answer }) {
            // Without the task at its other end, the queue drops the request, which then has no reply.
            Ok(()) | Err(TrySendError::Closed(_)) => None,
            Err(TrySendError::Full(submission)) => {
                let queue = queue.clone();
                Some(Box::pin(async move { drop(queue.send(submission).await) }) as Pin<Box<_>>)
            }
        };
        Requested { answered, waiting }
    }

    /// Waits until the request is in the shard's queue.
    async fn find_room(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.await;
        }
    }

    /// Waits for the reply. Returns `None` if the server ends meanwhile, or leaves and does not publish the message.
    async fn reply(mut self) -> Option<Reply> {
        self.find_room().await;
        self.answered.await.ok()
    }

    /// Waits for the answer to a message.
    async fn published(self) -> Result<Published, NotPublished> {
        let answer = self.reply().await.and_then(|reply| reply.published());
        answer.ok_or(NotPublished::Leaving)?.map_err(NotPublished::Refused)
    }
}

/// The other side of all [`Publisher`]s.
#[derive(Debug)]
pub(super) struct PublisherTask {
    outside: ExternalEnd,
    clock: Clock,
    woken: Arc<Notify>,
    counters: Arc<Counters>,
    leaving: watch::Receiver<bool>,
    /// Whether the barrier was sent, after which no publish follows.
    has_sent_barrier: bool,
    requests: Submissions,
    /// The requests that wait for an answer, by ticket.
    waiting: WaitingRequests,
    readers: Readers,
    departures: Arc<Departures>,
}

/// The subscriptions in process, by their numbers. They end with the task.
#[derive(Debug, Default)]
struct Readers(HashMap<u64, Reader>);

#[derive(Debug)]
struct Reader {
    topic: TopicName,
    queue: Arc<Queue>,
    /// The answer to the request, until the subscription is live.
    answer: Option<oneshot::Sender<Reply>>,
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.values().for_each(|reader| reader.queue.end());
    }
}

impl Reader {
    /// Tells the subscriber that its subscription is live.
    fn begin(&mut self) {
        if let Some(answer) = self.answer.take() {
            // The caller may have been dropped meanwhile.
            _ = answer.send(Reply::Subscribed(SubscribeOutcome::Live));
        }
    }
}

/// The requests to each shard, in the order in which they came.
#[derive(Debug)]
struct Submissions {
    by_shard: Box<[mpsc::Receiver<Submission>]>,
    /// The shard whose requests are looked at first, so that no shard is always the last.
    next: usize,
}

impl Submissions {
    /// Returns the next request to a shard that is not behind, if there is one. The shards take turns.
    fn try_next(&mut self, outside: &ExternalEnd) -> Option<Submission> {
        let found = self.open(outside).find_map(|shard| Some((shard, self.by_shard[shard].try_recv().ok()?)));
        found.map(|(shard, submission)| self.taken(shard, submission))
    }

    /// Polls for the next request to a shard that is not behind: `None` when no publisher is left.
    fn poll_next(&mut self, outside: &ExternalEnd, context: &mut Context<'_>) -> Poll<Option<Submission>> {
        for shard in self.open(outside) {
            match self.by_shard[shard].poll_recv(context) {
                Poll::Ready(Some(submission)) => return Poll::Ready(Some(self.taken(shard, submission))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// Returns the shards that are not behind, in the order in which they are looked at.
    fn open<'a>(&self, outside: &'a ExternalEnd) -> impl Iterator<Item = usize> + use<'a> {
        let (first, count) = (self.next, self.by_shard.len());
        (0..count).map(move |step| (first + step) % count).filter(|&shard| !outside.is_behind(shard as u16))
    }

    fn taken(&mut self, shard: usize, submission: Submission) -> Submission {
        self.next = shard + 1;
        submission
    }
}

/// A request to a shard.
#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Reply>,
    /// The bytes of a request's body that is published.
    body_bytes: Option<u64>,
}

/// The requests that wait for an answer. The lower half of a ticket is a place in the table; the upper half differs
/// from that of the request that had the place before.
#[derive(Debug, Default)]
struct WaitingRequests {
    places: Slab<(u64, Waiting)>,
    serial: u32,
}

impl WaitingRequests {
    /// Puts a request into the table, and returns its ticket.
    fn put(&mut self, waiting: Waiting) -> u64 {
        let entry = self.places.vacant_entry();
        self.serial = self.serial.wrapping_add(1);
        let ticket = u64::from(self.serial) << 32 | entry.key() as u64;
        entry.insert((ticket, waiting));
        ticket
    }

    /// Takes the request of a ticket out of the table.
    fn take(&mut self, ticket: u64) -> Option<Waiting> {
        let place = (ticket & u64::from(u32::MAX)) as usize;
        if self.places.get(place)?.0 != ticket {
            return None;
        }
        self.places.try_remove(place).map(|(_, waiting)| waiting)
    }
}

impl PublisherTask {
    /// Returns the task. Shards notify `woken` when they have put an entry into a lane.
    pub(super) fn new(
        outside: ExternalEnd,
        clock: Clock,
        woken: Arc<Notify>,
        counters: Arc<Counters>,
        leaving: watch::Receiver<bool>,
        requests: Requests,
    ) -> PublisherTask {
        let departures = Arc::clone(&requests.departures);
        departures.wake_by(Arc::clone(&woken));
        let requests = Submissions { by_shard: requests.start(outside.shards()), next: 0 };
        PublisherTask {
            outside,
            clock,
            woken,
            counters,
            leaving,
            has_sent_barrier: false,
            requests,
            waiting: WaitingRequests::default(),
            readers: Readers::default(),
            departures,
        }
    }

    /// Works until all shards have ended, or until no [`Publisher`] is left.
    ///
    /// The owner notifies `woken` after `leaving` has changed, and after the sender of `finishing` is dropped: a
    /// registration with each of the two channels in every round would cost more than the round.
    pub(super) async fn run(mut self, finishing: watch::Receiver<()>) {
        let woken = Arc::clone(&self.woken);
        loop {
            // Once the barrier is sent, `submit` refuses every publish, so none follows it.
            self.send_barrier();
            // A request that finds no room in its shard's lane waits beside the lane. Until it has found room,
            // `try_next` returns no other request to this shard.
            for _ in 0..REQUESTS_MAX {
                let Some(submission) = self.requests.try_next(&self.outside) else { break };
                self.submit(submission);
            }
            self.forget_departed();
            self.outside.send_out();
            self.take_arrivals(ARRIVALS_MAX);
            self.counters.set(Counter::LaneOverflow, self.outside.overflowed());
            if self.outside.may_sleep() {
                if finishing.has_changed().is_err() {
                    // Collect the replies and messages already in the lanes. Dropping the remaining senders answers all
                    // others with `None`.
                    return self.take_arrivals(usize::MAX);
                }
                tokio::select! {
                    biased;
                    submission = poll_fn(|context| self.poll_requests(context)) => {
                        let Some(submission) = submission else { return };
                        self.submit(submission);
                    }
                    () = woken.notified() => {}
                }
            } else {
                // Lets other tasks run, which may publish too.
                tokio::task::yield_now().await;
            }
            self.outside.awake();
        }
    }

    /// Sends the shards a barrier, after every publish, once the server leaves.
    fn send_barrier(&mut self) {
        if !self.has_sent_barrier && *self.leaving.borrow() {
            self.has_sent_barrier = true;
            self.outside.send_barrier();
        }
    }

    fn poll_requests(&mut self, context: &mut Context<'_>) -> Poll<Option<Submission>> {
        self.requests.poll_next(&self.outside, context)
    }

    fn submit(&mut self, Submission { request, answer }: Submission) {
        match request {
            // No publish follows the barrier.
            ShardRequest::Publish { .. } | ShardRequest::Read { .. } if self.has_sent_barrier => {}
            ShardRequest::Read { topic, reader, queue } => self.begin_reading(topic, reader, queue, answer),
            ShardRequest::Publish { topic, source, mut publication, body_bytes } => {
                let ticket = self.waiting.put(Waiting { answer, body_bytes });
                publication.stamp(self.clock.now());
                self.outside.submit(topic, source, publication, ticket);
            }
            ShardRequest::Command { shard, command } => {
                let ticket = self.waiting.put(Waiting { answer, body_bytes: None });
                self.outside.command(shard, command, ticket);
            }
        }
    }

    /// Begins a subscription in process, unless its subscriber has gone already.
    fn begin_reading(&mut self, topic: TopicName, reader: u64, queue: Arc<Queue>, answer: oneshot::Sender<Reply>) {
        if queue.is_dropped() {
            return;
        }
        let is_live = self.outside.read(&topic, reader);
        let mut begun = Reader { topic, queue, answer: Some(answer) };
        if is_live {
            begun.begin();
        }
        self.readers.0.insert(reader, begun);
    }

    /// Ends the subscriptions whose subscribers have dropped them.
    fn forget_departed(&mut self) {
        for reader in self.departures.take() {
            self.stop_reading(reader);
        }
    }

    /// Ends a subscription. Its number may be that of one that has ended, or has never begun.
    fn stop_reading(&mut self, reader: u64) {
        if let Some(Reader { topic, .. }) = self.readers.0.remove(&reader) {
            self.outside.stop_reading(&topic, reader);
        }
    }

    /// Takes up to `most` arrivals: a flood of messages leaves time for the other tasks of the thread.
    fn take_arrivals(&mut self, most: usize) {
        for _ in 0..most {
            match self.outside.next_arrival() {
                None => return,
                Some(Arrival::Answer { ticket, reply }) => self.answer(ticket, reply),
                Some(Arrival::Live { topic }) => {
                    for reader in self.outside.readers(&topic) {
                        if let Some(reader) = self.readers.0.get_mut(reader) {
                            reader.begin();
                        }
                    }
                }
                Some(Arrival::Message { posted, place }) => self.hand_out(&posted, place),
            }
        }
    }

    fn answer(&mut self, ticket: u64, reply: Reply) {
        if let Some(Waiting { answer, body_bytes }) = self.waiting.take(ticket) {
            if let (Some(bytes), Some(Ok(_))) = (body_bytes, reply.published()) {
                self.counters.add(Counter::MessagesIn, 1);
                self.counters.add(Counter::BytesIn, bytes);
            }
            // The caller may have been dropped meanwhile.
            _ = answer.send(reply);
        }
    }

    /// Puts a message into the queues of its topic's subscriptions. A subscription without room ends.
    fn hand_out(&mut self, posted: &Posted, place: Place) {
        let mut ended = Vec::new();
        for number in self.outside.readers(&posted.topic) {
            if let Some(reader) = self.readers.0.get(number)
                && !reader.queue.push(posted, place)
            {
                ended.push(*number);
            }
        }
        ended.into_iter().for_each(|reader| self.stop_reading(reader));
    }
}

/// The most arrivals that the task takes before other tasks of its thread go on.
const ARRIVALS_MAX: usize = 1_024;

/// The most requests that wait to be sent, over all connections and handles, with up to 64 shards. Each shard has an
/// equal part, of at least `REQUESTS_MIN`; when the part is used up, further callers wait.
const REQUESTS_MAX: usize = 1_024;

/// The smallest part of a shard.
const REQUESTS_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{EndRole, HubLimits, MeshEnd, MeshLimits, ShardHub, Wake};

    /// An answer finds its own request alone, also if a later request has the same place.
    #[test]
    fn a_ticket_is_for_one_request() {
        let mut waiting = WaitingRequests::default();
        let mut put = |bytes| waiting.put(Waiting { answer: oneshot::channel().0, body_bytes: Some(bytes) });
        let (first, second) = (put(1), put(2));
        let bytes_of = |waiting: Option<Waiting>| waiting.and_then(|waiting| waiting.body_bytes);
        assert_eq!(bytes_of(waiting.take(first)), Some(1));
        let third = waiting.put(Waiting { answer: oneshot::channel().0, body_bytes: Some(3) });
        assert_eq!((third as u32, third == first), (first as u32, false));
        assert_eq!(bytes_of(waiting.take(first)), None);
        assert_eq!((bytes_of(waiting.take(third)), bytes_of(waiting.take(second))), (Some(3), Some(2)));
        assert_eq!((bytes_of(waiting.take(third)), waiting.places.len()), (None, 0));
    }

    /// Returns the control thread's end of a mesh with one shard, the hub of the shard, and what the shard notifies to
    /// wake the end.
    fn one_shard(limits: &MeshLimits) -> (ExternalEnd, ShardHub, Arc<Notify>) {
        let woken: Arc<Notify> = Arc::default();
        let notified = Arc::clone(&woken);
        let wake: Vec<Wake> = vec![Arc::new(|| {}), Arc::new(move || notified.notify_one())];
        let mut ends = MeshEnd::connect_with(wake, &EndRole::shards_and_control(1), limits);
        let outside = ExternalEnd::new(ends.pop().unwrap());
        (outside, ShardHub::new(ends.pop().unwrap(), HubLimits::default(), 1), woken)
    }

    /// A body is counted exactly once, when it gets its place, even if its client has gone by then.
    #[test]
    fn a_body_counts_without_its_client() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (outside, mut hub, woken) = one_shard(&MeshLimits::default());
        let (publisher, requests) = Publisher::new();
        let counters: Arc<Counters> = Arc::default();
        let task = PublisherTask::new(
            outside,
            Clock::new(),
            Arc::clone(&woken),
            Arc::clone(&counters),
            watch::Sender::new(false).subscribe(),
            requests,
        );
        let counted = || (counters.get(Counter::MessagesIn), counters.get(Counter::BytesIn));
        runtime.block_on(async {
            let (finish, finishing) = watch::channel(());
            let task = tokio::spawn(task.run(finishing));
            let topic = || TopicName::new("x").unwrap();
            let (gone, other) = (publisher.clone(), publisher.clone());
            let gone = tokio::spawn(async move { gone.publish_body(topic(), Publication::text("abc")).await });
            let other = tokio::spawn(async move { other.publish(topic(), None, Publication::text("abcd")).await });
            while !hub.has_mail() {
                tokio::task::yield_now().await;
            }
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
            assert_eq!(counted(), (0, 0));
            let mut out = Vec::new();
            while !other.is_finished() {
                if hub.has_mail() {
                    hub.take_request(&mut out);
                    hub.send_out();
                }
                tokio::task::yield_now().await;
            }
            drop(finish);
            woken.notify_one();
            task.await.unwrap();
            // A message that an embedder's code publishes was not received.
            assert_eq!(other.await.unwrap().map(|published| published.unwrap().place.offset), Some(2));
            assert_eq!(counted(), (1, 3));
        });
    }

    /// The shards get the barrier after every publish that was submitted, and no publish after it, also if the task
    /// sleeps or its lanes are full.
    #[test]
    fn the_barrier_stands_behind_every_publish() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for count in [0, 1, 100] {
            let limits = MeshLimits { lane_entries_max: 2, ..MeshLimits::default() };
            let (outside, mut hub, woken) = one_shard(&limits);
            hub.send_barrier();
            let leaving = watch::Sender::new(false);
            let (publisher, requests) = Publisher::new();
            let task = PublisherTask::new(
                outside,
                Clock::new(),
                Arc::clone(&woken),
                Arc::default(),
                leaving.subscribe(),
                requests,
            );
            let topic = || TopicName::new("x").unwrap();
            let publish = || {
                let publisher = publisher.clone();
                tokio::spawn(async move { publisher.publish(topic(), None, Publication::text("x")).await })
            };
            runtime.block_on(async {
                let (_finish, finishing) = watch::channel(());
                let _task = tokio::spawn(task.run(finishing));
                let let_all_run = || async {
                    for _ in 0..1_000 {
                        tokio::task::yield_now().await;
                    }
                };
                let before: Vec<_> = (0..count).map(|_| publish()).collect();
                let_all_run().await;
                assert!(!hub.has_passed_barrier());
                leaving.send_replace(true);
                woken.notify_one();
                for _ in 0..1_000 {
                    hub.take_request(&mut Vec::new());
                    hub.send_out();
                    tokio::task::yield_now().await;
                    if hub.has_passed_barrier() {
                        break;
                    }
                }
                assert!(hub.has_passed_barrier(), "no barrier comes");
                let ordered = hub.offset(&topic());
                let behind = publish();
                let_all_run().await;
                assert!(behind.is_finished(), "it was submitted");
                assert!(behind.await.unwrap().is_none());
                let mut places = Vec::new();
                for before in before {
                    places.extend(before.await.unwrap().map(|published| published.unwrap().place.offset));
                }
                // Those that had no room were not submitted when the server began to leave.
                assert_eq!(places, (1..=ordered).collect::<Vec<_>>(), "of {count}");
                assert_eq!(ordered > 0, count > 0);
                assert!(!hub.has_mail(), "something stands behind the barrier");
            });
        }
    }

    /// A request beyond a shard's part of the limit waits in its task until another one is taken, and loses nothing by
    /// that. Requests to other shards have their own parts.
    #[test]
    fn requests_beyond_the_limit_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (publisher, requests) = Publisher::new();
            let ask = |name: String| {
                let (publisher, topic) = (publisher.clone(), TopicName::new(&name).unwrap());
                tokio::spawn(async move { publisher.publish(topic, None, Publication::text("x")).await })
            };
            let names_of = |shard: u16| {
                (0..).map(|number| format!("topic {number}")).filter(move |name| {
                    let topic = TopicName::new(name).unwrap();
                    home(&topic, 4) == shard
                })
            };
            let mut requests = requests.start(4);
            let mut asking: Vec<_> = names_of(1).take(REQUESTS_MAX / 4 + 1).map(ask).collect();
            let let_all_run = || async {
                for _ in 0..2 * REQUESTS_MAX {
                    tokio::task::yield_now().await;
                }
            };
            let_all_run().await;
            assert_eq!(requests[1].len(), REQUESTS_MAX / 4);
            let of_another = names_of(2).take(1).map(ask).next().unwrap();
            let_all_run().await;
            assert_eq!(requests[2].len(), 1);
            // Its answer is dropped.
            let Some(Submission { request: ShardRequest::Publish { topic, .. }, .. }) = requests[1].recv().await else {
                panic!("none has come");
            };
            assert_eq!(asking.remove(0).await.unwrap(), None);
            assert_eq!(Some(topic.as_str()), names_of(1).next().as_deref());
            let_all_run().await;
            assert_eq!(requests[1].len(), REQUESTS_MAX / 4, "the last one has come");
            assert!(asking.iter().all(|asking| !asking.is_finished()));
            drop(requests);
            for asking in asking.into_iter().chain([of_another]) {
                assert_eq!(asking.await.unwrap(), None);
            }
        });
    }

    /// A server of many shards has room for some requests to each.
    #[test]
    fn every_shard_has_a_part_of_the_limit() {
        for (shards, each) in [(1, REQUESTS_MAX), (4, REQUESTS_MAX / 4), (256, REQUESTS_MIN)] {
            let (publisher, requests) = Publisher::new();
            let receivers = requests.start(shards);
            assert_eq!(receivers.len(), usize::from(shards));
            assert!(receivers.iter().all(|receiver| receiver.max_capacity() == each), "{shards} shards");
            drop(publisher);
        }
    }

    /// A request waits for its server to start; if the server can never start, the wait ends.
    #[test]
    fn requests_wait_for_the_start() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for is_started in [true, false] {
                let (publisher, requests) = Publisher::new();
                let waiting = tokio::spawn(async move { publisher.command(0, Command::List).await.is_none() });
                tokio::task::yield_now().await;
                assert!(!waiting.is_finished());
                if is_started {
                    assert!(requests.start(1)[0].recv().await.is_some());
                } else {
                    drop(requests);
                }
                assert!(waiting.await.unwrap());
            }
        });
    }

    /// Requests to a shard that takes nothing wait for that shard alone, and keep their order.
    #[test]
    fn a_shard_that_is_behind_holds_up_no_other() {
        const REQUESTS: usize = 200;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let limits = MeshLimits { lane_entries_max: 2, ..MeshLimits::default() };
        let woken: Arc<Notify> = Arc::default();
        let notified = Arc::clone(&woken);
        let wake: Vec<Wake> = vec![Arc::new(|| {}), Arc::new(|| {}), Arc::new(move || notified.notify_one())];
        let mut ends = MeshEnd::connect_with(wake, &EndRole::shards_and_control(2), &limits);
        let outside = ExternalEnd::new(ends.pop().unwrap());
        let mut hubs: Vec<ShardHub> =
            ends.into_iter().map(|mesh| ShardHub::new(mesh, HubLimits::default(), 1)).collect();
        let (publisher, requests) = Publisher::new();
        let leaving = watch::Sender::new(false).subscribe();
        let task = PublisherTask::new(outside, Clock::new(), Arc::clone(&woken), Arc::default(), leaving, requests);
        runtime.block_on(async {
            let (finish, finishing) = watch::channel(());
            let task = tokio::spawn(task.run(finishing));
            let name_of = |shard: u16| {
                let mut names = (0..).map(|number| TopicName::new(&number.to_string()).unwrap());
                names.find(|name| home(name, 2) == shard).unwrap()
            };
            let (stuck, other) = (name_of(0), name_of(1));
            // The bodies of others have half of the places and bytes.
            let publisher = publisher.with_waits(Waits::new(2, 20, 1_000));
            let publish_body = |topic: &TopicName| {
                let (publisher, topic) = (publisher.clone(), topic.clone());
                let publication = Publication::text(&"x".repeat(100));
                tokio::spawn(async move { publisher.publish_body(topic, publication).await })
            };
            let bodies: Vec<_> = (0..30).map(|_| publish_body(&stuck)).collect();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let of_other = publish_body(&other);
            while !of_other.is_finished() {
                while hubs[1].take_request(&mut Vec::new()) {}
                hubs[1].send_out();
                tokio::task::yield_now().await;
            }
            assert_eq!(of_other.await.unwrap().map(|published| published.place.offset), Ok(1));
            let mut waiting_bodies = Vec::new();
            for body in bodies {
                if body.is_finished() {
                    assert_eq!(body.await.unwrap(), Err(NotPublished::HomeIsBehind));
                } else {
                    waiting_bodies.push(body);
                }
            }
            assert_eq!(waiting_bodies.len(), 5);
            let publish = |topic: &TopicName| {
                let (publisher, topic) = (publisher.clone(), topic.clone());
                tokio::spawn(async move { publisher.publish(topic, None, Publication::text("x")).await })
            };
            let waiting: Vec<_> = (0..REQUESTS).map(|_| publish(&stuck)).collect();
            let answered: Vec<_> = (0..REQUESTS).map(|_| publish(&other)).collect();
            while !answered.iter().all(tokio::task::JoinHandle::is_finished) {
                while hubs[1].take_request(&mut Vec::new()) {}
                hubs[1].send_out();
                tokio::task::yield_now().await;
            }
            assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
            while !waiting.iter().all(tokio::task::JoinHandle::is_finished) {
                while hubs[0].take_request(&mut Vec::new()) {}
                hubs[0].send_out();
                tokio::task::yield_now().await;
            }
            for (number, body) in waiting_bodies.into_iter().enumerate() {
                assert_eq!(body.await.unwrap().map(|published| published.place.offset), Ok(number as u64 + 1));
            }
            for (before, requests) in [(5, waiting), (1, answered)] {
                for (number, request) in requests.into_iter().enumerate() {
                    let place = request.await.unwrap().expect("the shard has given it a place");
                    assert_eq!(place.unwrap().place.offset, before + number as u64 + 1);
                }
            }
            drop(finish);
            woken.notify_one();
            task.await.unwrap();
        });
    }

    /// A batch of many messages waits for a home as one body does, so it leaves places to others.
    #[test]
    fn a_batch_waits_as_one_body() {
        const MESSAGES: u64 = 50;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (outside, mut hub, woken) = one_shard(&MeshLimits::default());
        let (publisher, requests) = Publisher::new();
        let leaving = watch::Sender::new(false).subscribe();
        let task = PublisherTask::new(outside, Clock::new(), Arc::clone(&woken), Arc::default(), leaving, requests);
        runtime.block_on(async {
            let (finish, finishing) = watch::channel(());
            let task = tokio::spawn(task.run(finishing));
            let topic = || TopicName::new("x").unwrap();
            let publisher = publisher.with_waits(Waits::new(1, 2, 1_000));
            let publish_batch = |messages: u64, length: usize| {
                let message = (topic(), Publication::text(&"x".repeat(length)));
                let (publisher, messages) = (publisher.clone(), (0..messages).map(|_| message.clone()).collect());
                tokio::spawn(async move { publisher.publish_bodies(messages).await })
            };
            let publish_body = || {
                let publisher = publisher.clone();
                tokio::spawn(async move { publisher.publish_body(topic(), Publication::text("x")).await })
            };
            let let_all_run = || async {
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
            };
            let batch = publish_batch(MESSAGES, 10);
            let_all_run().await;
            let too_large = publish_batch(MESSAGES, 11).await.unwrap();
            assert!(too_large.len() == MESSAGES as usize && too_large.iter().all(Result::is_err), "of all bytes");
            let single = publish_body();
            let_all_run().await;
            assert!(!batch.is_finished() && !single.is_finished(), "there is a place for another body");
            assert_eq!(publish_body().await.unwrap(), Err(NotPublished::HomeIsBehind));
            assert_eq!(publish_batch(1, 0).await.unwrap(), [Err(NotPublished::HomeIsBehind)]);
            while !single.is_finished() {
                while hub.take_request(&mut Vec::new()) {}
                hub.send_out();
                tokio::task::yield_now().await;
            }
            let offset = |answer: Result<Published, NotPublished>| answer.map(|published| published.place.offset);
            let offsets: Vec<_> = batch.await.unwrap().into_iter().map(offset).collect();
            assert_eq!(offsets, (1..=MESSAGES).map(Ok).collect::<Vec<_>>());
            assert_eq!(offset(single.await.unwrap()), Ok(MESSAGES + 1));
            drop(finish);
            woken.notify_one();
            task.await.unwrap();
        });
    }

    /// A request is answered by its place if the topic's home has taken it before the end, and by `None` if not.
    #[test]
    fn no_request_waits_for_shards_that_have_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for is_taken in [true, false] {
            let wake = (0..2).map(|_| Arc::new(|| {}) as Wake).collect();
            let mut ends = MeshEnd::connect_with(wake, &EndRole::shards_and_control(1), &MeshLimits::default());
            let outside = ExternalEnd::new(ends.pop().unwrap());
            let mut hub: ShardHub = ShardHub::new(ends.pop().unwrap(), HubLimits::default(), 1);
            let (publisher, requests) = Publisher::new();
            let woken: Arc<Notify> = Arc::default();
            let task = {
                let leaving = watch::Sender::new(false).subscribe();
                PublisherTask::new(outside, Clock::new(), Arc::clone(&woken), Arc::default(), leaving, requests)
            };
            runtime.block_on(async {
                let (finish, finishing) = watch::channel(());
                let task = tokio::spawn(task.run(finishing));
                let topic = TopicName::new("x").unwrap();
                let waiting = async move { publisher.publish(topic, None, Publication::text("x")).await };
                let waiting = tokio::spawn(waiting);
                while !hub.has_mail() {
                    tokio::task::yield_now().await;
                }
                if is_taken {
                    assert!(hub.take_request(&mut Vec::new()));
                    hub.send_out();
                }
                drop(finish);
                woken.notify_one();
                assert_eq!(
                    waiting.await.unwrap().map(|published| published.unwrap().place.offset),
                    is_taken.then_some(1)
                );
                task.await.unwrap();
            });
        }
    }
}
