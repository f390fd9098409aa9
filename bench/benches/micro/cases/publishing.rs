//! A message that is published to a topic: from the publication to what each of the subscribers is to be sent, without
//! the kernel.
//!
//! The hub gathers the messages of a turn in a run, and its walk hands each subscriber its share of the run. The
//! reference puts each message into a queue of each subscriber, and takes it out again. tokio's channel keeps the
//! messages once, and each receiver takes them one by one.

use super::{Case, OURS, REFERENCE};
use bytes::Bytes;
use ringhub::hub::{HubConnection, HubLimits, MeshEnd, ShardHub, Share};
use ringhub::{PreparedMessage, Publication, Scope, SubscribeOptions, TopicName};
use std::collections::VecDeque;
use tokio::sync::broadcast;

pub(super) fn cases() -> Vec<Case> {
    [(1, "1 message"), (16, "16 messages")].into_iter().map(|(messages, name)| case(messages, name)).collect()
}

fn case(messages: usize, name: &str) -> Case {
    Case::new(format!("topic publish, {name} to 1 000"), messages * SUBSCRIBERS, "deliveries")
        .side(OURS, ours(messages))
        .side(REFERENCE, reference(messages))
        .side("tokio", tokio(messages))
}

/// Every digest is the number of bytes that all subscribers together are to be sent.
fn ours(messages: usize) -> impl FnMut() -> u64 {
    let mut hub = ShardHub::<()>::new(MeshEnd::alone(), HubLimits::default(), 1);
    let topic = TopicName::new("bench").expect("a name of a topic");
    for _ in 0..SUBSCRIBERS {
        let id = hub.connections.insert(HubConnection::new(())).expect("the table has room");
        hub.subscribe(id, &topic, SubscribeOptions::default());
    }
    let mut walks = Vec::new();
    move || {
        for _ in 0..messages {
            hub.publish_by_name(&topic, None, Publication::binary(&PAYLOAD), Scope::Server);
        }
        let mut bytes = 0;
        hub.take_due(&mut walks);
        for walk in walks.drain(..) {
            while let Some(slot) = hub.next_member(walk) {
                let run = hub.run(walk);
                bytes += match run.share(slot) {
                    Share::Whole => run.bytes(),
                    Share::Part(pieces) => pieces.iter().map(|piece| piece.bytes.len()).sum(),
                    Share::Nothing => 0,
                };
            }
            hub.end_walk(walk);
        }
        bytes as u64
    }
}

fn reference(messages: usize) -> impl FnMut() -> u64 {
    let mut queues = vec![VecDeque::<Bytes>::new(); SUBSCRIBERS];
    move || {
        for _ in 0..messages {
            let frame = frame();
            queues.iter_mut().for_each(|queue| queue.push_back(frame.clone()));
        }
        queues.iter_mut().flat_map(|queue| queue.drain(..)).map(|frame| frame.len() as u64).sum()
    }
}

fn tokio(messages: usize) -> impl FnMut() -> u64 {
    let (sender, receiver) = broadcast::channel::<Bytes>(messages);
    let mut receivers: Vec<_> = (0..SUBSCRIBERS).map(|_| receiver.resubscribe()).collect();
    drop(receiver);
    move || {
        for _ in 0..messages {
            sender.send(frame()).expect("there are receivers");
        }
        let mut bytes = 0;
        for receiver in &mut receivers {
            while let Ok(frame) = receiver.try_recv() {
                bytes += frame.len() as u64;
            }
        }
        bytes
    }
}

fn frame() -> Bytes {
    PreparedMessage::binary(&PAYLOAD).into_frame()
}

const SUBSCRIBERS: usize = 1_000;
const PAYLOAD: [u8; 128] = [7; 128];
