//! A lane hop: messages from one thread to another, through a queue with room for 1 024.
//!
//! Both threads spin while they wait, and the queue's consumer begins with each call. An entry is a request of the
//! mesh with a shared message. The hub's lane also weighs its entries, and signals the other end for every batch.

use super::{Case, OURS, REFERENCE};
use ringhub::hub::{MeshEnd, MeshLimits, Posted, Request};
use ringhub::{Publication, TopicName};
use std::collections::VecDeque;
use std::sync::mpsc::{self, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("lane hop", ENTRIES, "entries")
            .side(OURS, mesh())
            .side(REFERENCE, locked())
            .side("rtrb", rtrb())
            .side("crossbeam-channel", crossbeam())
            .side("std", standard()),
    ]
}

/// Sends entries with `send`, which returns an entry that found no room, and takes them in another thread with `take`.
/// Returns the number of bytes that arrived.
fn hop(mut send: impl FnMut(Request) -> Option<Request>, mut take: impl FnMut() -> Option<Request> + Send) -> u64 {
    let entry = Request::Publish(Arc::new(Posted {
        topic: TopicName::new("bench").expect("a name of a topic"),
        source: None,
        publication: Publication::binary(&[7; 128]),
    }));
    thread::scope(|scope| {
        let taker = scope.spawn(move || {
            let mut bytes = 0;
            for _ in 0..ENTRIES {
                let Request::Publish(posted) = spin(&mut take) else { panic!("only publications are sent") };
                bytes += posted.publication.payload().len() as u64;
            }
            bytes
        });
        for _ in 0..ENTRIES {
            let mut unsent = Some(entry.clone());
            spin(|| {
                unsent = send(unsent.take()?);
                unsent.is_none().then_some(())
            });
        }
        taker.join().expect("the taker counts")
    })
}

/// Calls `attempt` until it succeeds. Gives way to other threads now and then, for the two may share a CPU.
fn spin<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    for tries in 1_u32.. {
        if let Some(value) = attempt() {
            return value;
        }
        if tries.is_multiple_of(256) { thread::yield_now() } else { std::hint::spin_loop() }
    }
    unreachable!("the tries are more than there is time for")
}

fn mesh() -> impl FnMut() -> u64 {
    let limits = MeshLimits { lane_entries_max: ROOM, ..MeshLimits::default() };
    let mut ends = MeshEnd::connect(vec![Arc::new(|| {}), Arc::new(|| {})], &limits);
    let (mut to, mut from) = (ends.pop().expect("two ends"), ends.pop().expect("two ends"));
    move || {
        let mut sent = 0;
        let send = |entry| {
            if !from.has_room_for_requests(1) {
                return Some(entry);
            }
            from.request(1, entry);
            sent += 1;
            if sent % BATCH == 0 {
                from.send_out();
            }
            None
        };
        hop(send, || to.next_request().map(|(_, request)| request))
    }
}

fn locked() -> impl FnMut() -> u64 {
    let queue = Mutex::new(VecDeque::with_capacity(ROOM));
    move || {
        let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
        let send = |entry| {
            let mut queue = lock();
            if queue.len() == ROOM {
                return Some(entry);
            }
            queue.push_back(entry);
            None
        };
        hop(send, || lock().pop_front())
    }
}

fn rtrb() -> impl FnMut() -> u64 {
    let (mut to, mut from) = rtrb::RingBuffer::new(ROOM);
    move || {
        let send = |entry| to.push(entry).err().map(|rtrb::PushError::Full(entry)| entry);
        hop(send, || from.pop().ok())
    }
}

fn crossbeam() -> impl FnMut() -> u64 {
    let (to, from) = crossbeam_channel::bounded(ROOM);
    move || {
        hop(|entry| to.try_send(entry).err().map(crossbeam_channel::TrySendError::into_inner), || from.try_recv().ok())
    }
}

fn standard() -> impl FnMut() -> u64 {
    let (to, mut from) = mpsc::sync_channel(ROOM);
    move || {
        let send = |entry| match to.try_send(entry) {
            Ok(()) => None,
            Err(TrySendError::Full(entry) | TrySendError::Disconnected(entry)) => Some(entry),
        };
        let from = &mut from;
        hop(send, move || from.try_recv().ok())
    }
}

const ENTRIES: usize = 16 * 1_024;
const ROOM: usize = 1_024;

/// How many entries the hub's end sends before it signals the other end.
const BATCH: u32 = 64;
