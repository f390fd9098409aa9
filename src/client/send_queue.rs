//! The bounded queue of messages that handles send on one open connection.

use std::sync::Arc;

use bytes::BytesMut;
use fastwebsockets::OpCode;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot},
    time::Instant,
};

use super::{config::ClientLimits, error::SendError};

/// The sending end of the queue. The connection's writing half has the receiving end.
pub(super) struct SendQueue {
    connection_id: u64,
    queue: mpsc::Sender<Queued>,
    /// One permit for each byte that may be queued.
    room: Arc<Semaphore>,
    room_bytes: u32,
}

/// An entry of the queue.
pub(super) struct Queued {
    pub(super) outgoing: Outgoing,
    /// The time of the call that made the entry.
    pub(super) since: Instant,
    /// The payload's permits, which return to the queue's `room` when the entry is dropped.
    room: Option<OwnedSemaphorePermit>,
}

pub(super) enum Outgoing {
    /// A frame to write.
    Frame(OpCode, BytesMut),
    /// A request to flush the socket after the entries before this one. The writing half answers through the sender.
    Flush(oneshot::Sender<()>),
}

impl SendQueue {
    /// Returns both ends of a new queue.
    pub(super) fn new(connection_id: u64, limits: &ClientLimits) -> (Self, mpsc::Receiver<Queued>) {
        let (queue, receiver) = mpsc::channel(limits.queue_messages_max);
        let room = Arc::new(Semaphore::new(limits.queue_bytes_max as usize));
        (Self { connection_id, queue, room, room_bytes: limits.queue_bytes_max }, receiver)
    }

    pub(super) fn connection_id(&self) -> u64 {
        self.connection_id
    }

    /// Queues an entry, waiting for room. At the connection's end the receiver drops all entries, which makes room:
    /// each caller that waits then reaches the closed channel and fails there.
    pub(super) async fn send(&self, mut queued: Queued) -> Result<(), SendError> {
        let bytes = self.bytes(&queued)?;
        let room = self.room.clone().acquire_many_owned(bytes).await;
        queued.room = Some(room.map_err(|_| SendError::NotOpen)?);
        self.queue.send(queued).await.map_err(|_| SendError::NotOpen)
    }

    /// Queues an entry if there is room now.
    pub(super) fn try_send(&self, mut queued: Queued) -> Result<(), SendError> {
        let bytes = self.bytes(&queued)?;
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|error| match error {
            TryAcquireError::NoPermits => SendError::QueueFull,
            TryAcquireError::Closed => SendError::NotOpen,
        });
        queued.room = Some(room?);
        self.queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => SendError::NotOpen,
        })
    }

    /// Queues a flush and waits for the writing half's answer.
    pub(super) async fn flush(&self) -> Result<(), SendError> {
        let (done, flushed) = oneshot::channel();
        let queued = Queued { outgoing: Outgoing::Flush(done), since: Instant::now(), room: None };
        self.queue.send(queued).await.map_err(|_| SendError::NotOpen)?;
        flushed.await.map_err(|_| SendError::NotOpen)
    }

    /// Returns the number of bytes that an entry takes of `room`.
    fn bytes(&self, queued: &Queued) -> Result<u32, SendError> {
        let Outgoing::Frame(_, payload) = &queued.outgoing else { return Ok(0) };
        let bytes = u32::try_from(payload.len()).ok().filter(|&bytes| bytes <= self.room_bytes);
        bytes.ok_or(SendError::TooLarge)
    }
}

impl Queued {
    /// Returns an entry for a frame, made now and without permits.
    pub(super) fn frame(opcode: OpCode, payload: BytesMut) -> Self {
        Self { outgoing: Outgoing::Frame(opcode, payload), since: Instant::now(), room: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> ClientLimits =
        || ClientLimits { queue_messages_max: 2, queue_bytes_max: 10, ..ClientLimits::default() };

    fn message(bytes: usize) -> Queued {
        Queued::frame(OpCode::Binary, BytesMut::zeroed(bytes))
    }

    #[test]
    fn the_queue_is_bounded_in_messages_and_bytes() {
        let (queue, mut receiver) = SendQueue::new(1, &LIMITS());
        assert_eq!(queue.try_send(message(11)), Err(SendError::TooLarge));
        assert_eq!(queue.try_send(message(6)), Ok(()));
        assert_eq!(queue.try_send(message(5)), Err(SendError::QueueFull));
        assert_eq!(queue.try_send(message(4)), Ok(()));
        assert_eq!(queue.try_send(message(0)), Err(SendError::QueueFull));
        drop(receiver.try_recv());
        assert_eq!(queue.try_send(message(6)), Ok(()));
        drop(receiver);
        assert_eq!(queue.try_send(message(0)), Err(SendError::NotOpen));
    }
}
