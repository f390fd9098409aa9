//! Tests of the ring on real sockets, one for each fault that nobody would notice otherwise.

use std::{
    io::{ErrorKind, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::*;
use crate::sys::testing::*;

/// Reaps until every poll has ended. Running out of patience fails the test.
fn reap_until_unarmed(ring: &mut HotRing) {
    let end = Instant::now() + PATIENCE;
    while ring.armed() > 0 {
        assert!(Instant::now() < end, "{} polls do not end", ring.armed());
        ring.reap(&mut Vec::new());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An armed poll holds the socket open although its descriptor is closed: the peer waits for an end that never comes.
#[test]
fn an_armed_poll_holds_its_socket() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    ring.arm(key(0, 0), &server);
    ring.submit();
    drop(server);
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "this is the trap");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    ring.disarm(key(0, 0));
    ring.submit();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(reap_briefly(&mut ring), [], "a cancelled poll reports nothing");
}

/// A poll that is cancelled must end even if it is being woken at that moment, because input has just arrived. So the
/// peers go on writing while the server's sockets are polled and the polls are cancelled. Each peer must see the end of
/// its connection.
#[test]
fn polls_end_while_their_sockets_are_written_to() {
    const ROUNDS: u32 = 10_000;
    let mut ring = HotRing::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let begun = AtomicU32::new(0);
    let (peers, to_write_to) = channel::<TcpStream>();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut without_end = 0;
            for mut peer in to_write_to {
                peer.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut outcome = peer.write_all(b"x");
                begun.fetch_add(1, Ordering::Release);
                while outcome.is_ok() {
                    outcome = peer.write_all(b"x");
                }
                // The buffers of a socket that nobody reads and nobody ends are full at last.
                without_end += u32::from(outcome.unwrap_err().kind() == ErrorKind::WouldBlock);
            }
            without_end
        });
        for round in 0..ROUNDS {
            let peer = TcpStream::connect(address).unwrap();
            let server = Transport::from(OwnedFd::from(listener.accept().unwrap().0));
            peers.send(peer).unwrap();
            while begun.load(Ordering::Acquire) <= round {
                std::thread::yield_now();
            }
            ring.arm(key(round, 0), &server);
            ring.submit();
            ring.disarm(key(round, 0));
            drop(server);
            ring.submit();
        }
        drop(peers);
        reap_until_unarmed(&mut ring);
        assert_eq!(writer.join().unwrap(), 0, "sockets are kept open although their descriptors are closed");
    });
}

/// If the kernel has no memory for requests, it leaves entries in the queue. These entries borrow, so they are
/// withdrawn.
#[test]
fn without_memory_a_batch_is_refused() {
    let mut ring = HotRing::new().unwrap();
    let mut pairs: Vec<(Transport, TcpStream)> = (0..300).map(|_| pair(None)).collect();
    for memory in [0, 1, 100, 256, 299] {
        let texts: Vec<String> = (0..pairs.len()).map(|index| format!("{memory:03} {index:03}")).collect();
        let pieces: Vec<[IoSlice<'_>; 2]> = texts
            .iter()
            .map(|text| [IoSlice::new(&text.as_bytes()[..3]), IoSlice::new(&text.as_bytes()[3..])])
            .collect();
        let batch: Vec<SendEntry<'_, Transport>> = pairs
            .iter()
            .zip(&pieces)
            .enumerate()
            .map(|(index, ((socket, _), pieces))| SendEntry { socket, pieces: &pieces[..1 + index % 2] })
            .collect();
        ring.memory = Some(memory);
        let mut refused = Vec::new();
        ring.send(&batch, &mut refused);
        refused.sort_unstable_by_key(|entry| entry.index);
        let untried: Vec<usize> = refused.iter().map(|entry| entry.index).collect();
        assert_eq!(untried, (memory as usize..pairs.len()).collect::<Vec<_>>(), "memory for {memory}");
        assert!(refused.iter().all(|entry| entry.sent.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)));
        drop(batch);
        drop(pieces);
        drop(texts);

        // Withdrawn entries do not come later, when there is memory.
        ring.memory = None;
        let later = [IoSlice::new(b"later")];
        let again: Vec<SendEntry<'_, Transport>> =
            pairs.iter().map(|(socket, _)| SendEntry { socket, pieces: &later }).collect();
        let mut refused = Vec::new();
        ring.send(&again, &mut refused);
        assert!(refused.is_empty());
        for (index, (_, client)) in pairs.iter_mut().enumerate() {
            let first = match index {
                _ if index >= memory as usize => String::new(),
                _ if index % 2 == 0 => format!("{memory:03}"),
                _ => format!("{memory:03} {index:03}"),
            };
            let mut received = vec![0; first.len() + later[0].len()];
            client.read_exact(&mut received).unwrap();
            assert_eq!(String::from_utf8(received).unwrap(), first + "later", "entry {index}, memory for {memory}");
        }
    }
}

/// A receive that was not tried does not count as `WouldBlock`, since its input is not reported a second time.
#[test]
fn without_memory_a_receive_was_interrupted() {
    let mut ring = HotRing::new().unwrap();
    let mut pairs: Vec<(Transport, TcpStream)> = (0..10).map(|_| pair(None)).collect();
    for (_, client) in &mut pairs {
        client.write_all(b"here").unwrap();
    }
    for (memory, expected) in [(Some(0), 0), (Some(4), 4), (None, 6)] {
        // The entries that the last round withdrew still stand in the queue, as entries that do nothing. They are
        // submitted first, so that they use up nothing of this round's memory.
        ring.memory = None;
        ring.submit();
        ring.memory = memory;
        let mut buffers: Vec<BytesMut> = pairs.iter().map(|_| BytesMut::with_capacity(100)).collect();
        let mut batch: Vec<Receive<'_, Transport>> =
            pairs.iter().zip(&mut buffers).map(|((socket, _), buffer)| Receive::new(socket, buffer)).collect();
        ring.receive(&mut batch);
        let results: Vec<Result<usize, ErrorKind>> =
            batch.iter().map(|entry| entry.result.as_ref().copied().map_err(io::Error::kind)).collect();
        let untried = |result: &&Result<usize, ErrorKind>| **result == Err(ErrorKind::Interrupted);
        assert_eq!(results.iter().filter(|&&result| result == Ok(4)).count(), expected, "{results:?}");
        assert_eq!(results.iter().filter(untried).count(), if memory.is_some() { 10 - expected } else { 0 });
    }
}

/// Polls and cancellations, more than the queue holds, wait until there is memory; nobody sleeps meanwhile.
#[test]
fn without_memory_polls_wait() {
    let mut ring = HotRing::new().unwrap();
    let mut pairs: Vec<(Transport, TcpStream)> = (0..300).map(|_| pair(None)).collect();
    ring.memory = Some(10);
    for (slot, (server, client)) in pairs.iter_mut().enumerate() {
        client.write_all(b"x").unwrap();
        ring.arm(key(slot as u32, 0), server);
    }
    ring.submit();
    assert!(ring.has_completions());
    assert_eq!(reap_until(&mut ring, |ready| ready.len() >= 10).len(), 10);
    assert!(ring.has_completions(), "the shard would sleep");
    assert!(send_one(&mut ring, &pairs[0].0, &[b"x"]).is_some_and(|sent| sent.is_err()), "polls stand in the queue");
    ring.memory = None;
    reap_until(&mut ring, |ready| ready.len() >= 290);
    ring.memory = Some(0);
    for slot in 0..pairs.len() {
        ring.disarm(key(slot as u32, 0));
    }
    ring.submit();
    assert!(ring.has_completions(), "the shard would sleep");
    let mut clients: Vec<TcpStream> = pairs.into_iter().map(|(_, client)| client).collect();
    ring.memory = None;
    ring.submit();
    for client in &mut clients {
        assert!(!matches!(client.read(&mut [0; 1]), Ok(1)), "there is nothing to read but the end");
    }
    reap_until_unarmed(&mut ring);
}

#[test]
fn a_late_report_carries_the_old_key() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    ring.arm(key(7, 1), &server);
    ring.submit();
    client.write_all(b"x").unwrap();
    let end = Instant::now() + PATIENCE;
    while !ring.has_completions() {
        assert!(Instant::now() < end, "nothing is reported");
        // Any system call lets the kernel post its completions.
        std::thread::sleep(Duration::from_millis(1));
    }
    ring.disarm(key(7, 1));
    drop(server);
    let (next, _next_client) = pair(None);
    ring.arm(key(7, 2), &next);
    let ready = reap_until(&mut ring, |ready| !ready.is_empty());
    assert!(ready.iter().all(|report| report.key == key(7, 1)), "{ready:?}");
}

/// More completions come at once than the completion queue holds. The kernel keeps the rest. It ends a poll whose
/// report finds no room, and the poll's last report says so (`disarmed`). Meanwhile a batch of sends fails whole.
#[test]
fn an_overflow_loses_nothing() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    let (full, _reader, _) = full_pair();
    let polls = COMPLETIONS + 2_000;
    for slot in 0..polls {
        ring.arm(key(slot, 1), &server);
    }
    ring.submit();
    for round in 0..3 {
        client.write_all(b"x").unwrap();
        let pieces = [IoSlice::new(b"x")];
        let batch: Vec<SendEntry<'_, Transport>> =
            (0..2 * HotRing::BATCH_MAX).map(|_| SendEntry { socket: &full, pieces: &pieces }).collect();
        let mut refused = Vec::new();
        ring.send(&batch, &mut refused);
        assert_eq!(refused.len(), batch.len(), "every refusal is reported, round {round}");
        let mut reported = vec![false; polls as usize];
        let mut ended = 0;
        let mut seen = 0;
        reap_until(&mut ring, |ready| {
            for report in &ready[seen..] {
                reported[report.key.slot as usize] = true;
            }
            seen = ready.len();
            reported.iter().all(|&reported| reported)
        })
        .iter()
        .filter(|report| report.disarmed)
        .for_each(|report| {
            ended += 1;
            ring.arm(report.key, &server);
        });
        assert!(ended > 0, "{polls} polls fit into {COMPLETIONS} completions");
        ring.submit();
    }
}

/// Completions of polls that are fetched with those of a batch keep the shard awake.
#[test]
fn readiness_seen_in_a_batch_keeps_the_shard_awake() {
    let mut ring = HotRing::new().unwrap();
    let _pairs = see_readiness_in_a_batch(&mut ring, key(5, 0));
    assert!(ring.has_completions());
}
