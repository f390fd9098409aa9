//! Subscriptions in process: the queues between the control thread and those who read topics on other threads.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use tokio::sync::Notify;

use crate::hub::{ConnectionId, Place, Posted, Publication, TopicName, pinned};

/// A subscription to a topic in the process of the server: a stream of the topic's messages in their order, each once.
///
/// The messages wait in a queue of the subscription's own. If the reader lets the queue fill, the subscription ends:
/// the stream yields the messages of the queue, then [`Lagged`], then nothing more. The hub never waits for a reader.
/// The stream ends without an error when the server has ended. A drop ends the subscription.
pub struct Subscription {
    topic: TopicName,
    reader: u64,
    queue: Arc<Queue>,
    departures: Arc<Departures>,
}

/// A message of a topic, as a [`Subscription`] gets it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TopicMessage {
    /// The place in the topic's order. The first message of a subscription may have any place.
    pub place: Place,
    /// The connection that has sent the message.
    pub source: Option<ConnectionId>,
    /// The message.
    pub publication: Publication,
}

/// The end of a subscription whose reader was too slow: its queue was full when another message came.
///
/// ```
/// assert_eq!(ringhub::server::Lagged.to_string(), "the reader of a topic was too slow, and its queue was full");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged;

impl fmt::Display for Lagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of a topic was too slow, and its queue was full")
    }
}

impl std::error::Error for Lagged {}

/// The limits of the queue of a [`Subscription`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// The most messages in the queue, at least one.
    pub messages_max: usize,
    /// The most bytes of memory that all messages in the queue keep. A message of 16 KiB or more keeps the buffer that
    /// it was received into, 64 KiB or up to twice the message. A message of any size finds room in an empty queue.
    pub bytes_max: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        QueueLimits { messages_max: 1_024, bytes_max: 4 << 20 }
    }
}

impl Subscription {
    /// Returns a subscription that has not begun, and its queue for the control thread.
    pub(super) fn new(topic: TopicName, limits: QueueLimits, departures: Arc<Departures>) -> (Self, Arc<Queue>) {
        let queue = Arc::new(Queue { limits, state: Mutex::default(), of_all: Arc::clone(&departures.queued) });
        let reader = departures.next_reader();
        (Subscription { topic, reader, queue: Arc::clone(&queue), departures }, queue)
    }

    /// Returns the number that no other subscription has.
    pub(super) fn reader(&self) -> u64 {
        self.reader
    }

    /// Returns the topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Waits for the next message. `None` means that the subscription has ended. A call that is dropped before it
    /// returns loses no message.
    pub async fn next(&mut self) -> Option<Result<TopicMessage, Lagged>> {
        poll_fn(|context| self.queue.poll_next(context)).await
    }
}

impl Stream for Subscription {
    type Item = Result<TopicMessage, Lagged>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_next(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.close();
        self.departures.leave(self.reader);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The queue of a subscription: the control thread puts messages in, and the reader takes them out.
#[derive(Debug)]
pub(super) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    /// The bytes of all queues of the server.
    of_all: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<TopicMessage>,
    bytes: usize,
    end: Option<End>,
    /// Wakes the reader.
    waker: Option<Waker>,
}

/// The end of a queue, which follows its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// A message has found no room.
    Lagged,
    /// The server has ended, or the reader has been told of its lag.
    Over,
    /// The reader has dropped its subscription.
    Dropped,
}

impl Queue {
    /// Puts a message into the queue. Returns whether the queue takes further messages.
    pub(super) fn push(&self, posted: &Posted, place: Place) -> bool {
        let mut state = self.lock();
        if state.end.is_some() {
            return false;
        }
        let bytes = weight(&posted.publication);
        let is_full = state.messages.len() >= self.limits.messages_max
            || !state.messages.is_empty() && state.bytes + bytes > self.limits.bytes_max;
        if is_full && !state.messages.is_empty() {
            state.end = Some(End::Lagged);
        } else {
            state.bytes += bytes;
            self.of_all.fetch_add(bytes, Ordering::Relaxed);
            let Posted { source, publication, .. } = posted;
            state.messages.push_back(TopicMessage { place, source: *source, publication: publication.clone() });
        }
        let (is_open, waker) = (state.end.is_none(), state.waker.take());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        is_open
    }

    /// Ends the queue after its messages, since the server has ended.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.end.get_or_insert(End::Over);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Returns whether the reader has dropped its subscription.
    pub(super) fn is_dropped(&self) -> bool {
        self.lock().end == Some(End::Dropped)
    }

    /// Drops the messages, since their reader is gone.
    fn close(&self) {
        let mut state = self.lock();
        self.of_all.fetch_sub(state.bytes, Ordering::Relaxed);
        *state = State { end: Some(End::Dropped), ..State::default() };
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<TopicMessage, Lagged>>> {
        let mut state = self.lock();
        if let Some(message) = state.messages.pop_front() {
            let bytes = weight(&message.publication);
            state.bytes -= bytes;
            self.of_all.fetch_sub(bytes, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(message)));
        }
        match state.end {
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(End::Lagged) => {
                state.end = Some(End::Over);
                Poll::Ready(Some(Err(Lagged)))
            }
            Some(End::Over | End::Dropped) => Poll::Ready(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the memory that a message in a queue keeps, without its names.
fn weight(publication: &Publication) -> usize {
    size_of::<TopicMessage>() + pinned(publication.frame())
}

/// The readers that have dropped their subscriptions, on their way to the control thread.
#[derive(Debug, Default)]
pub(super) struct Departures {
    next: AtomicU64,
    /// Whether the list has a reader, so that the control thread need not lock it in every round.
    has_readers: AtomicBool,
    readers: Mutex<Vec<u64>>,
    /// The bytes of the messages in the queues of all readers.
    queued: Arc<AtomicUsize>,
    /// Wakes the control thread's task, once there is one.
    woken: OnceLock<Arc<Notify>>,
}

impl Departures {
    /// Lets departures wake the control thread's task.
    pub(super) fn wake_by(&self, woken: Arc<Notify>) {
        assert!(self.woken.set(woken).is_ok(), "a server has one task for its shards");
    }

    /// Takes the readers that have left since the last call.
    pub(super) fn take(&self) -> Vec<u64> {
        // Pairs with the store in `leave`, which follows the entry in the list; the swap comes before the list is read.
        if !self.has_readers.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.readers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the bytes of memory of the messages in all queues.
    pub(super) fn queued_bytes(&self) -> usize {
        // Relaxed: the sum is only shown, and compared with a budget.
        self.queued.load(Ordering::Relaxed)
    }

    fn next_reader(&self) -> u64 {
        // Relaxed: only the numbers have to differ.
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn leave(&self, reader: u64) {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        self.has_readers.store(true, Ordering::Release);
        if let Some(woken) = self.woken.get() {
            woken.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(text: &str) -> Posted {
        let topic = TopicName::new("topic").unwrap();
        Posted { topic, source: None, publication: Publication::text(text) }
    }

    fn place(offset: u64) -> Place {
        Place { epoch: 1, offset, previous: offset - 1 }
    }

    fn begun(limits: QueueLimits) -> (Subscription, Arc<Queue>, Arc<Departures>) {
        let departures: Arc<Departures> = Arc::default();
        let (subscription, queue) = Subscription::new(posted("").topic, limits, Arc::clone(&departures));
        (subscription, queue, departures)
    }

    /// Takes what the stream has: texts, `lagged`, `end`, or `wait`.
    fn take(subscription: &mut Subscription) -> String {
        match Pin::new(subscription).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => "wait".into(),
            Poll::Ready(None) => "end".into(),
            Poll::Ready(Some(Err(Lagged))) => "lagged".into(),
            Poll::Ready(Some(Ok(message))) => String::from_utf8_lossy(message.publication.payload()).into(),
        }
    }

    #[test]
    fn a_full_queue_ends_behind_its_messages() {
        let (mut subscription, queue, _) = begun(QueueLimits { messages_max: 2, ..QueueLimits::default() });
        assert_eq!(take(&mut subscription), "wait");
        assert!(queue.push(&posted("a"), place(1)) && queue.push(&posted("b"), place(2)));
        assert_eq!(take(&mut subscription), "a");
        assert!(queue.push(&posted("c"), place(3)), "there is room again");
        assert!(!queue.push(&posted("d"), place(4)) && !queue.push(&posted("e"), place(5)));
        let all: Vec<String> = (0..5).map(|_| take(&mut subscription)).collect();
        assert_eq!(all, ["b", "c", "lagged", "end", "end"]);
    }

    #[test]
    fn bytes_have_a_limit_and_one_message_always_has_room() {
        let (mut subscription, queue, _) = begun(QueueLimits { bytes_max: 1_000, ..QueueLimits::default() });
        let (large, small) = (posted(&"x".repeat(2_000)), posted("y"));
        assert!(queue.push(&large, place(1)));
        assert_eq!(take(&mut subscription).len(), 2_000);
        assert!(queue.push(&small, place(2)) && !queue.push(&large, place(3)));
        assert_eq!((take(&mut subscription), take(&mut subscription)), ("y".into(), "lagged".into()));
    }

    /// A message of 16 KiB keeps the buffer of 64 KiB that it was received into. The budget of the server counts what
    /// all queues keep.
    #[test]
    fn a_message_weighs_what_it_keeps() {
        let departures: Arc<Departures> = Arc::default();
        let limits = QueueLimits { bytes_max: 200_000, ..QueueLimits::default() };
        let [(mut first, of_first), (second, of_second)] =
            [(), ()].map(|()| Subscription::new(posted("").topic, limits, Arc::clone(&departures)));
        let large = posted(&"x".repeat(20_000));
        for number in 1..=3 {
            assert!(of_first.push(&large, place(number)) && of_second.push(&large, place(number)));
        }
        let kept = departures.queued_bytes();
        assert!((6 * 65_536..6 * 66_000).contains(&kept), "{kept}");
        assert!(!of_first.push(&large, place(4)), "a fourth has no room");
        assert_eq!(take(&mut first).len(), 20_000);
        assert_eq!(departures.queued_bytes(), kept / 6 * 5);
        drop(second);
        assert_eq!(departures.queued_bytes(), kept / 6 * 2);
        of_first.end();
        drop(first);
        assert_eq!(departures.queued_bytes(), 0);
    }

    #[test]
    fn the_end_of_the_server_follows_the_messages() {
        let (mut subscription, queue, _) = begun(QueueLimits::default());
        assert!(queue.push(&posted("a"), place(1)));
        queue.end();
        assert!(!queue.push(&posted("b"), place(2)));
        assert_eq!((take(&mut subscription), take(&mut subscription)), ("a".into(), "end".into()));
    }

    #[test]
    fn a_dropped_subscription_is_told_to_the_control_thread() {
        let (subscription, queue, departures) = begun(QueueLimits::default());
        assert!(queue.push(&posted("a"), place(1)) && departures.take().is_empty());
        let reader = subscription.reader();
        drop(subscription);
        assert!(queue.is_dropped() && !queue.push(&posted("b"), place(2)));
        assert_eq!((departures.take(), departures.take()), (vec![reader], vec![]));
    }
}
