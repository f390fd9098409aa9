//! The ring on real sockets, one test for each thing that could go wrong without being seen.

use std::{
    io::{ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::*;
use crate::sys::net;

/// A server's socket and its client.
fn pair(send_buffer: Option<usize>) -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = OwnedFd::from(listener.accept().unwrap().0);
    net::prepare_connection(&server, send_buffer).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_nodelay(true).unwrap();
    (server, client)
}

/// A pair with as little room on both sides as the kernel allows.
fn small_pair() -> (OwnedFd, TcpStream) {
    let (server, client) = pair(Some(4_096));
    socket2::SockRef::from(&client).set_recv_buffer_size(4_096).unwrap();
    (server, client)
}

/// A pair whose server's socket takes nothing more, and how many bytes it took.
fn full_pair() -> (OwnedFd, TcpStream, usize) {
    let (server, client) = small_pair();
    let mut taken = 0;
    // Room may appear once more when the client's kernel has moved something on.
    loop {
        match net::send_now(&server, &[7; 65_536]) {
            Ok(count) => taken += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(5));
                if net::send_now(&server, &[7]).map(|count| taken += count).is_err() {
                    return (server, client, taken);
                }
            }
        }
    }
}

fn key(slot: u32, generation: u32) -> Key {
    Key { slot, generation }
}

fn send_one(ring: &mut HotRing, socket: &OwnedFd, bytes: &[&[u8]]) -> Option<io::Result<usize>> {
    let pieces: Vec<IoSlice<'_>> = bytes.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut refused = Vec::new();
    ring.send(&[SendEntry { socket, pieces: &pieces }], &mut refused);
    assert!(refused.len() <= 1 && refused.iter().all(|entry| entry.index == 0));
    refused.pop().map(|entry| entry.sent)
}

fn receive_one(ring: &mut HotRing, socket: &OwnedFd, room: usize) -> (io::Result<usize>, BytesMut) {
    let mut buffer = BytesMut::with_capacity(room);
    let mut batch = [Receive::new(socket, &mut buffer)];
    ring.receive(&mut batch);
    let [Receive { result, .. }] = batch;
    (result, buffer)
}

/// Reaps until `is_enough` says so. Running out of patience fails the test.
fn reap_until(ring: &mut HotRing, mut is_enough: impl FnMut(&[Readiness]) -> bool) -> Vec<Readiness> {
    let mut ready = Vec::new();
    let end = Instant::now() + PATIENCE;
    loop {
        ring.reap(&mut ready);
        if is_enough(&ready) {
            return ready;
        }
        assert!(Instant::now() < end, "after {PATIENCE:?} there are only {} reports", ready.len());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn reap_one(ring: &mut HotRing) -> Readiness {
    *reap_until(ring, |ready| !ready.is_empty()).last().unwrap()
}

/// What is reported within a moment.
fn reap_briefly(ring: &mut HotRing) -> Vec<Readiness> {
    let mut ready = Vec::new();
    for _ in 0..20 {
        ring.reap(&mut ready);
        std::thread::sleep(Duration::from_millis(1));
    }
    ready
}

/// Reaps until every poll has ended. Running out of patience fails the test.
fn reap_until_unarmed(ring: &mut HotRing) {
    let end = Instant::now() + PATIENCE;
    while ring.armed() > 0 {
        assert!(Instant::now() < end, "{} polls do not end", ring.armed());
        ring.reap(&mut Vec::new());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 251 + index) as u8).collect()
}

/// Without `MSG_WAITALL` a short send counts as success, `CQE_SKIP_SUCCESS` hides it, and the rest is lost in silence.
#[test]
fn a_short_send_reports_its_exact_count() {
    for parts in [1, 2, 1_000] {
        let mut ring = HotRing::new().unwrap();
        let (server, mut client) = pair(Some(4_096));
        let message = pattern(8 << 20);
        let pieces: Vec<&[u8]> = message.chunks(message.len().div_ceil(parts)).collect();
        let sent = send_one(&mut ring, &server, &pieces).expect("8 MiB do not fit").unwrap();
        assert!(sent > 0 && sent < message.len() - REST, "{sent}");
        let mut received = vec![0; sent];
        client.read_exact(&mut received).unwrap();
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "exactly the prefix");
        client.set_nonblocking(false).unwrap();
        let (mut at, end) = (sent, sent + REST);
        while at < end {
            match send_one(&mut ring, &server, &[&message[at..end]]) {
                None => at = end,
                Some(Ok(count)) => at += count,
                Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            let begin = received.len();
            received.resize(at, 0);
            client.read_exact(&mut received[begin..]).unwrap();
        }
        assert!(received == message[..end], "the rest follows the prefix");
    }
}

/// Sent behind the first, short send.
const REST: usize = 20_000;

#[test]
fn a_full_socket_refuses() {
    let mut ring = HotRing::new().unwrap();
    let (server, _client, _) = full_pair();
    for pieces in [&[b"a".as_slice()][..], &[b"a", b"b"]] {
        let refusal = send_one(&mut ring, &server, pieces).expect("there is no room");
        assert_eq!(refusal.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_peer_that_is_gone_is_an_error() {
    let mut ring = HotRing::new().unwrap();
    let (server, client) = pair(None);
    drop(client);
    let end = Instant::now() + PATIENCE;
    loop {
        match send_one(&mut ring, &server, &[b"hello"]) {
            Some(Err(error)) => {
                assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
                return;
            }
            other => assert!(other.is_none() && Instant::now() < end, "{other:?}"),
        }
    }
}

#[test]
fn pieces_arrive_in_order() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    for count in [1, 2, 3, SendEntry::<OwnedFd>::PIECES_MAX] {
        let message = pattern(count * 7);
        let pieces: Vec<&[u8]> = message.chunks(7).collect();
        assert!(send_one(&mut ring, &server, &pieces).is_none());
        let mut received = vec![0; message.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == message, "{count} pieces");
    }
}

#[test]
#[should_panic(expected = "a send entry has 1 to 1 024 pieces")]
fn more_pieces_than_the_kernel_takes() {
    let mut ring = HotRing::new().unwrap();
    let (server, _client) = pair(None);
    drop(send_one(&mut ring, &server, &[b"a".as_slice(); SendEntry::<OwnedFd>::PIECES_MAX + 1]));
}

/// Refusals carry the index in the whole batch, not in the part that was submitted.
#[test]
fn a_batch_larger_than_a_submission() {
    assert!(net::raise_descriptor_limit() > 2_000, "this test needs descriptors");
    let mut ring = HotRing::new().unwrap();
    let mut pairs: Vec<(OwnedFd, TcpStream)> = (0..2 * HotRing::BATCH_MAX + 70).map(|_| pair(None)).collect();
    let full = [0, 10, HotRing::BATCH_MAX - 1, HotRing::BATCH_MAX, 2 * HotRing::BATCH_MAX + 69];
    for index in full {
        let (server, client, _) = full_pair();
        pairs[index] = (server, client);
    }
    let texts: Vec<String> = (0..pairs.len()).map(|index| format!("{index:08}")).collect();
    let pieces: Vec<[IoSlice<'_>; 1]> = texts.iter().map(|text| [IoSlice::new(text.as_bytes())]).collect();
    let batch: Vec<SendEntry<'_, OwnedFd>> =
        pairs.iter().zip(&pieces).map(|((socket, _), pieces)| SendEntry { socket, pieces }).collect();
    let mut refused = Vec::new();
    ring.send(&batch, &mut refused);
    let mut indices: Vec<usize> = refused.iter().map(|entry| entry.index).collect();
    indices.sort_unstable();
    assert_eq!(indices, full);
    for (index, ((_, client), text)) in pairs.iter_mut().zip(&texts).enumerate() {
        if !full.contains(&index) {
            let mut received = [0; 8];
            client.read_exact(&mut received).unwrap();
            assert_eq!(received, text.as_bytes());
            client.write_all(text.as_bytes()).unwrap();
        }
    }
    let mut buffers: Vec<BytesMut> = pairs.iter().map(|_| BytesMut::with_capacity(100)).collect();
    let mut batch: Vec<Receive<'_, OwnedFd>> =
        pairs.iter().zip(&mut buffers).map(|((socket, _), buffer)| Receive::new(socket, buffer)).collect();
    ring.receive(&mut batch);
    for (index, entry) in batch.iter().enumerate() {
        match &entry.result {
            Ok(count) => assert_eq!((*count, &entry.buffer[..]), (8, texts[index].as_bytes())),
            Err(error) => assert!(error.kind() == ErrorKind::WouldBlock && full.contains(&index), "{index}: {error}"),
        }
    }
}

#[test]
fn receives_append_within_the_room() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    client.write_all(b"0123456789").unwrap();
    let mut buffer = BytesMut::with_capacity(8);
    buffer.extend_from_slice(b"left ");
    let room = buffer.capacity() - buffer.len();
    let mut batch = [Receive::new(&server, &mut buffer)];
    ring.receive(&mut batch);
    assert_eq!(*batch[0].result.as_ref().unwrap(), room);
    assert_eq!(buffer, [b"left ", &b"0123456789"[..room]].concat());
    assert_eq!(buffer.len(), buffer.capacity());
    assert_eq!(receive_one(&mut ring, &server, 64).1, b"0123456789"[room..]);
}

#[test]
#[should_panic(expected = "a receive entry needs room")]
fn a_receive_without_room() {
    let mut ring = HotRing::new().unwrap();
    let (server, _client) = pair(None);
    drop(receive_one(&mut ring, &server, 0));
}

#[test]
fn one_batch_of_receives_with_every_outcome() {
    let mut ring = HotRing::new().unwrap();
    let mut pairs: Vec<(OwnedFd, TcpStream)> = (0..5).map(|_| pair(None)).collect();
    pairs[1].1.write_all(b"data").unwrap();
    pairs[2].1.shutdown(Shutdown::Write).unwrap();
    pairs[3].1.write_all(b"last").unwrap();
    pairs[3].1.shutdown(Shutdown::Write).unwrap();
    let (reset, client) = pairs.pop().unwrap();
    assert!(send_one(&mut ring, &reset, &[b"never read"]).is_none());
    // Closing with something unread resets the connection.
    client.set_nonblocking(true).unwrap();
    while client.peek(&mut [0; 1]).is_err() {}
    drop(client);
    let mut sockets: Vec<OwnedFd> = Vec::new();
    let mut clients = Vec::new();
    for (server, client) in pairs {
        sockets.push(server);
        clients.push(client);
    }
    sockets.push(reset);
    let mut buffers: Vec<BytesMut> = sockets.iter().map(|_| BytesMut::with_capacity(16)).collect();
    let mut batch: Vec<Receive<'_, OwnedFd>> =
        sockets.iter().zip(&mut buffers).map(|(socket, buffer)| Receive::new(socket, buffer)).collect();
    ring.receive(&mut batch);
    let kinds: Vec<Result<usize, ErrorKind>> =
        batch.iter().map(|entry| entry.result.as_ref().copied().map_err(io::Error::kind)).collect();
    let expected = [Err(ErrorKind::WouldBlock), Ok(4), Ok(0), Ok(4), Err(ErrorKind::ConnectionReset)];
    assert_eq!(kinds, expected);
    assert_eq!(receive_one(&mut ring, &sockets[3], 16).0.unwrap(), 0, "the end comes behind the data");
}

#[test]
fn a_poll_reports_again_and_again() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    ring.arm(key(3, 9), &server);
    for _ in 0..100 {
        client.write_all(b"x").unwrap();
        let Readiness { key: reported, readable, hung_up, writable, disarmed } = reap_one(&mut ring);
        assert_eq!((reported, readable, hung_up, writable, disarmed), (key(3, 9), true, false, false, false));
        assert_eq!(receive_one(&mut ring, &server, 16).0.unwrap(), 1);
    }
    assert_eq!(reap_briefly(&mut ring), []);
}

#[test]
fn what_came_before_the_poll_is_reported() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    client.write_all(b"early").unwrap();
    ring.arm(key(0, 0), &server);
    assert!(reap_one(&mut ring).readable);
}

#[test]
fn readiness_seen_in_a_batch_is_kept() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    let (full, _reader, _) = full_pair();
    ring.arm(key(5, 0), &server);
    ring.submit();
    client.write_all(b"x").unwrap();
    for _ in 0..3 {
        assert!(send_one(&mut ring, &full, &[b"x"]).is_some());
    }
    assert!(ring.has_completions());
    assert_eq!(reap_one(&mut ring).key, key(5, 0));
}

#[test]
fn a_hang_up_is_reported() {
    let mut ring = HotRing::new().unwrap();
    let (server, client) = pair(None);
    ring.arm(key(0, 0), &server);
    ring.submit();
    client.shutdown(Shutdown::Write).unwrap();
    let Readiness { readable, hung_up, .. } = reap_one(&mut ring);
    assert!(readable && hung_up);

    let (server, client) = pair(None);
    client.shutdown(Shutdown::Both).unwrap();
    drop(client);
    ring.arm(key(1, 0), &server);
    let ready = reap_until(&mut ring, |ready| ready.iter().any(|report| report.key == key(1, 0)));
    assert!(ready.iter().all(|report| report.readable && report.hung_up), "{ready:?}");
}

#[test]
fn room_is_reported_once_and_only_when_there_is_some() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client, taken) = full_pair();
    ring.await_room(key(2, 1), &server);
    assert_eq!(reap_briefly(&mut ring), []);
    client.read_exact(&mut vec![0; taken]).unwrap();
    let Readiness { key: reported, readable, writable, disarmed, .. } = reap_one(&mut ring);
    assert_eq!((reported, readable, writable, disarmed), (key(2, 1), false, true, false));
    assert_eq!(reap_briefly(&mut ring), []);
}

#[test]
fn finishing_ends_only_what_we_send() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    assert!(send_one(&mut ring, &server, &[b"last"]).is_none());
    ring.finish(&server);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"last");
    client.write_all(b"answer").unwrap();
    assert_eq!(receive_one(&mut ring, &server, 16).1, b"answer"[..]);
    ring.finish(&server);
}

/// An armed poll holds the socket open although its descriptor is closed: the peer waits for an end that never comes.
#[test]
fn disarming_releases_the_socket() {
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

    let (server, mut client, taken) = full_pair();
    ring.arm(key(0, 1), &server);
    ring.await_room(key(0, 1), &server);
    ring.submit();
    ring.disarm(key(0, 1));
    drop(server);
    ring.submit();
    client.read_exact(&mut vec![0; taken]).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(reap_briefly(&mut ring), [], "what was removed says nothing");
}

/// A wake-up of a poll that is under way, because input has arrived a moment ago, must not keep it from ending: the
/// peers go on writing while their polls are armed and ended, and each sees the end of its connection.
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
            let server = OwnedFd::from(listener.accept().unwrap().0);
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

/// Without memory for requests the kernel leaves entries in the queue, which borrow: they are taken back.
#[test]
fn without_memory_a_batch_is_refused() {
    let mut ring = HotRing::new().unwrap();
    let mut pairs: Vec<(OwnedFd, TcpStream)> = (0..300).map(|_| pair(None)).collect();
    for memory in [0, 1, 100, 256, 299] {
        let texts: Vec<String> = (0..pairs.len()).map(|index| format!("{memory:03} {index:03}")).collect();
        let pieces: Vec<[IoSlice<'_>; 2]> = texts
            .iter()
            .map(|text| [IoSlice::new(&text.as_bytes()[..3]), IoSlice::new(&text.as_bytes()[3..])])
            .collect();
        let batch: Vec<SendEntry<'_, OwnedFd>> = pairs
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

        // What was taken back does not come later, when there is memory.
        ring.memory = None;
        let later = [IoSlice::new(b"later")];
        let again: Vec<SendEntry<'_, OwnedFd>> =
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

/// A receive that was not tried is no "would block": what is there is not reported a second time.
#[test]
fn without_memory_a_receive_was_interrupted() {
    let mut ring = HotRing::new().unwrap();
    let mut pairs: Vec<(OwnedFd, TcpStream)> = (0..10).map(|_| pair(None)).collect();
    for (_, client) in &mut pairs {
        client.write_all(b"here").unwrap();
    }
    for (memory, expected) in [(Some(0), 0), (Some(4), 4), (None, 6)] {
        // What was taken back needs some too.
        ring.memory = None;
        ring.submit();
        ring.memory = memory;
        let mut buffers: Vec<BytesMut> = pairs.iter().map(|_| BytesMut::with_capacity(100)).collect();
        let mut batch: Vec<Receive<'_, OwnedFd>> =
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
    let mut pairs: Vec<(OwnedFd, TcpStream)> = (0..300).map(|_| pair(None)).collect();
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

/// The kernel goes on counting what a connection had not sent when its peer reset it, though nobody will take it. Where
/// the peer's end came before, no receive tells of the reset either.
#[test]
fn a_connection_that_was_reset_holds_nothing() {
    let mut ring = HotRing::new().unwrap();
    let (server, client) = pair(None);
    drop(client);
    assert!(send_one(&mut ring, &server, &[b"to nobody"]).is_none());
    ring.finish(&server);
    let begin = Instant::now();
    while ring.has_unsent(&server) {
        assert!(begin.elapsed() < PATIENCE, "what was sent is kept");
    }
}

/// What the peer has not taken is gone with the socket, and not only its descriptor.
#[test]
fn a_reset_gives_up_what_is_unsent() {
    let mut ring = HotRing::new().unwrap();
    for is_finished in [false, true] {
        let (server, mut client, taken) = full_pair();
        ring.arm(key(0, 0), &server);
        ring.submit();
        if is_finished {
            ring.finish(&server);
        }
        assert!(ring.has_unsent(&server));
        ring.reset(&server);
        ring.disarm(key(0, 0));
        drop(server);
        ring.submit();
        let mut received = Vec::new();
        assert_eq!(client.read_to_end(&mut received).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(received.len() < taken);
    }
    let (server, mut client) = pair(None);
    assert!(send_one(&mut ring, &server, &[b"taken"]).is_none());
    let begin = Instant::now();
    while ring.has_unsent(&server) {
        assert!(begin.elapsed() < PATIENCE, "the peer's kernel takes nothing");
    }
    drop(server);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"taken");
}

/// The end behind them is no byte.
#[test]
fn bytes_that_were_not_received_are_counted() {
    let ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    assert_eq!(ring.unread(&server), 0);
    client.write_all(&[7; 1_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let begin = Instant::now();
    while !net::has_left(&server) {
        assert!(begin.elapsed() < PATIENCE, "the end does not arrive");
    }
    assert_eq!(ring.unread(&server), 1_000);
    assert_eq!(net::receive_now(&server, &mut [0; 400]).unwrap(), 400);
    assert_eq!(ring.unread(&server), 600);
    assert_eq!(net::receive_now(&server, &mut [0; 1_000]).unwrap(), 600);
    assert_eq!(ring.unread(&server), 0);
}

#[test]
fn what_is_dropped_before_it_was_submitted_leaves_nothing_behind() {
    let mut ring = HotRing::new().unwrap();
    let (server, mut client) = pair(None);
    ring.arm(key(0, 0), &server);
    ring.disarm(key(0, 0));
    drop(server);
    // It is likely to get the same descriptor.
    let (next, mut next_client) = pair(None);
    ring.arm(key(0, 1), &next);
    ring.submit();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    next_client.write_all(b"x").unwrap();
    let ready = reap_until(&mut ring, |ready| ready.iter().any(|report| report.key == key(0, 1)));
    assert!(ready.iter().all(|report| report.key == key(0, 1) || report.hung_up || report.disarmed), "{ready:?}");
    ring.disarm(key(0, 1));
    drop(next);
    ring.submit();
    assert_eq!(next_client.read(&mut [0; 1]).unwrap_or(0), 0);
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
        // Any system call lets the kernel post what it has.
        std::thread::sleep(Duration::from_millis(1));
    }
    ring.disarm(key(7, 1));
    drop(server);
    let (next, _next_client) = pair(None);
    ring.arm(key(7, 2), &next);
    let ready = reap_until(&mut ring, |ready| !ready.is_empty());
    assert!(ready.iter().all(|report| report.key == key(7, 1)), "{ready:?}");
}

/// More completions at once than the queue holds: the kernel keeps the rest, ends polls that it cannot report again,
/// and says so. Meanwhile a batch of sends fails whole.
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
        let batch: Vec<SendEntry<'_, OwnedFd>> =
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

#[test]
fn the_runtime_is_woken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut ring = HotRing::new().unwrap();
        let watched = ring.watch().unwrap();
        let (server, mut client) = pair(None);
        ring.arm(key(0, 0), &server);
        ring.submit();
        let writer = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(20));
            client.write_all(b"x").unwrap();
            client
        });
        tokio::time::timeout(PATIENCE, watched.readable()).await.expect("woken").unwrap().clear_ready();
        assert!(reap_one(&mut ring).readable);
        drop(writer.await.unwrap());
    });
}

/// No test measures time; this only ends one that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Linux keeps the input in front of a reset readable, also after a send has failed. The end shows behind it.
#[test]
fn input_in_front_of_a_reset_is_received_after_a_failed_send() {
    let leaves: [fn(TcpStream); 2] = [
        |client| net::reset_when_closed(&OwnedFd::from(client)),
        // Nothing that is sent has a reader: each send is answered with a reset.
        drop,
    ];
    for leave in leaves {
        let mut ring = HotRing::new().unwrap();
        let (server, mut client) = pair(None);
        client.write_all(b"the last words").unwrap();
        leave(client);
        let end = Instant::now() + PATIENCE;
        while send_one(&mut ring, &server, &[b"too late"]).is_none() {
            assert!(Instant::now() < end, "no send fails");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(send_one(&mut ring, &server, &[b"too late"]).is_some_and(|sent| sent.is_err()));
        let (count, received) = receive_one(&mut ring, &server, 9);
        assert_eq!((count.unwrap(), &received[..]), (9, &b"the last "[..]));
        let (count, received) = receive_one(&mut ring, &server, 100);
        assert_eq!((count.unwrap(), &received[..]), (5, &b"words"[..]));
        assert_eq!(receive_one(&mut ring, &server, 100).0.unwrap(), 0);
    }
}
