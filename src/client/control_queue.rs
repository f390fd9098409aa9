//! The control frames that a connection's reading half hands to its writing half.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use bytes::BytesMut;
use fastwebsockets::OpCode;
use tokio::sync::Notify;

/// A queue of control frames, which the writing half writes before every entry of the send queue.
#[derive(Default)]
pub(super) struct ControlQueue {
    frames: Mutex<VecDeque<(OpCode, BytesMut)>>,
    arrived: Notify,
}

impl ControlQueue {
    /// Queues a pong, a ping of the keep-alive, or a close, which is the last frame. A full queue loses its oldest
    /// frame: a server that does not read is owed the latest pong only (RFC 6455 5.5.3).
    pub(super) fn push(&self, opcode: OpCode, payload: BytesMut) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() == FRAMES_MAX {
            frames.pop_front();
        }
        frames.push_back((opcode, payload));
        drop(frames);
        self.arrived.notify_one();
    }

    /// Takes the oldest frame.
    pub(super) fn pop(&self) -> Option<(OpCode, BytesMut)> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Waits until a frame has been pushed since the last call.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// The length of the queue. The queue is full when a server sends pings and does not read.
const FRAMES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_keeps_the_latest_pongs() {
        let control = ControlQueue::default();
        for number in 0..=FRAMES_MAX as u8 {
            control.push(OpCode::Pong, BytesMut::from(&[number][..]));
        }
        let first = control.pop().unwrap();
        assert_eq!(first.1[..], [1]);
        assert_eq!(std::iter::from_fn(|| control.pop()).count(), FRAMES_MAX - 1);
    }
}
