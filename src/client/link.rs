//! What leads from handles to an open connection, with its limits, and from its reading half to its writing half.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;
use fastwebsockets::OpCode;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot},
    time::Instant,
};

use super::{config::ClientLimits, error::SendError};

/// The sending end of an open connection.
pub(super) struct Link {
    connection_id: u64,
    queue: mpsc::Sender<Outgoing>,
    /// One permit for each byte that may wait.
    room: Arc<Semaphore>,
    room_bytes: u32,
}

/// What waits to be sent.
pub(super) struct Outgoing {
    pub(super) what: What,
    pub(super) since: Instant,
    /// Given back when it is sent.
    room: Option<OwnedSemaphorePermit>,
}

pub(super) enum What {
    Frame(OpCode, BytesMut),
    /// Everything before is to be handed to the socket, and this told so.
    Flush(oneshot::Sender<()>),
}

impl Link {
    pub(super) fn new(connection_id: u64, limits: &ClientLimits) -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, receiver) = mpsc::channel(limits.queue_messages_max);
        let room = Arc::new(Semaphore::new(limits.queue_bytes_max as usize));
        (Self { connection_id, queue, room, room_bytes: limits.queue_bytes_max }, receiver)
    }

    pub(super) fn connection_id(&self) -> u64 {
        self.connection_id
    }

    /// Waits for room. When the connection ends, what waits in the queue is dropped and makes room, so everybody comes
    /// as far as the queue, which is closed then.
    pub(super) async fn send(&self, mut outgoing: Outgoing) -> Result<(), SendError> {
        let bytes = self.bytes(&outgoing)?;
        let room = self.room.clone().acquire_many_owned(bytes).await;
        outgoing.room = Some(room.map_err(|_| SendError::NotOpen)?);
        self.queue.send(outgoing).await.map_err(|_| SendError::NotOpen)
    }

    pub(super) fn try_send(&self, mut outgoing: Outgoing) -> Result<(), SendError> {
        let bytes = self.bytes(&outgoing)?;
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|error| match error {
            TryAcquireError::NoPermits => SendError::QueueFull,
            TryAcquireError::Closed => SendError::NotOpen,
        });
        outgoing.room = Some(room?);
        self.queue.try_send(outgoing).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => SendError::NotOpen,
        })
    }

    pub(super) async fn flush(&self) -> Result<(), SendError> {
        let (done, flushed) = oneshot::channel();
        let outgoing = Outgoing { what: What::Flush(done), since: Instant::now(), room: None };
        self.queue.send(outgoing).await.map_err(|_| SendError::NotOpen)?;
        flushed.await.map_err(|_| SendError::NotOpen)
    }

    fn bytes(&self, outgoing: &Outgoing) -> Result<u32, SendError> {
        let What::Frame(_, payload) = &outgoing.what else { return Ok(0) };
        let bytes = u32::try_from(payload.len()).ok().filter(|&bytes| bytes <= self.room_bytes);
        bytes.ok_or(SendError::TooLarge)
    }
}

impl Outgoing {
    pub(super) fn new(opcode: OpCode, payload: BytesMut) -> Self {
        Self { what: What::Frame(opcode, payload), since: Instant::now(), room: None }
    }
}

/// What the reading half wants sent before anything that waits in the queue.
#[derive(Default)]
pub(super) struct Urgent {
    frames: Mutex<VecDeque<(OpCode, BytesMut)>>,
    arrived: Notify,
}

impl Urgent {
    /// A pong, a ping of the keep-alive, or the last frame of all, a close. If the server does not take the pongs that
    /// it asks for, it misses the oldest (RFC 6455 5.5.3 asks for the latest only).
    pub(super) fn push(&self, opcode: OpCode, payload: BytesMut) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() == URGENT_MAX {
            frames.pop_front();
        }
        frames.push_back((opcode, payload));
        drop(frames);
        self.arrived.notify_one();
    }

    pub(super) fn pop(&self) -> Option<(OpCode, BytesMut)> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// How many pongs may wait for a server that does not read.
const URGENT_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> ClientLimits =
        || ClientLimits { queue_messages_max: 2, queue_bytes_max: 10, ..ClientLimits::default() };

    fn message(bytes: usize) -> Outgoing {
        Outgoing::new(OpCode::Binary, BytesMut::zeroed(bytes))
    }

    #[test]
    fn limits_of_what_waits() {
        let (link, mut queue) = Link::new(1, &LIMITS());
        assert_eq!(link.try_send(message(11)), Err(SendError::TooLarge));
        assert_eq!(link.try_send(message(6)), Ok(()));
        assert_eq!(link.try_send(message(5)), Err(SendError::QueueFull));
        assert_eq!(link.try_send(message(4)), Ok(()));
        assert_eq!(link.try_send(message(0)), Err(SendError::QueueFull));
        drop(queue.try_recv());
        assert_eq!(link.try_send(message(6)), Ok(()));
        drop(queue);
        assert_eq!(link.try_send(message(0)), Err(SendError::NotOpen));
    }

    #[test]
    fn the_latest_pongs_are_kept() {
        let urgent = Urgent::default();
        for number in 0..=URGENT_MAX as u8 {
            urgent.push(OpCode::Pong, BytesMut::from(&[number][..]));
        }
        let first = urgent.pop().unwrap();
        assert_eq!(first.1[..], [1]);
        assert_eq!(std::iter::from_fn(|| urgent.pop()).count(), URGENT_MAX - 1);
    }
}
