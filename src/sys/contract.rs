//! Tests the contract of [`Io`], on real sockets, for every backend.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{
    HotRing,
    backend::{Backend, BackendKind},
    io::{Io, Readiness, Receive, SendEntry},
    net,
    testing::*,
    transport::Transport,
};

/// Makes a module of tests for a backend: each is a function below that takes the backend.
macro_rules! keeps {
    ($module:ident, $backend:expr, { $($(#[$attribute:meta])* $name:ident)* }) => {
        mod $module {
            use crate::sys::BackendKind;
            $(
                #[test]
                $(#[$attribute])*
                fn $name() {
                    super::$name($backend);
                }
            )*
        }
    };
}

macro_rules! real_backend_keeps {
    ($module:ident, $backend:expr) => {
        keeps!($module, $backend, {
            a_short_send_reports_its_exact_count
            a_full_socket_refuses
            a_peer_that_is_gone_is_an_error
            pieces_arrive_in_order
            #[should_panic(expected = "a send entry has 1 to 1 024 pieces")]
            more_pieces_than_the_kernel_takes
            a_batch_larger_than_a_submission
            receives_append_within_the_room
            #[should_panic(expected = "a receive entry needs room")]
            a_receive_without_room
            one_batch_of_receives_with_every_outcome
            input_is_dropped_without_a_copy
            a_receive_that_ends_at_an_urgent_byte_is_followed_by_another
            a_receive_tells_that_the_end_of_input_is_there
            urgent_bytes_that_came_before_the_poll_are_all_received
            many_urgent_bytes_cost_no_more_than_small_segments
            a_poll_reports_again_and_again
            input_that_waits_is_reported_once
            what_came_before_the_poll_is_reported
            readiness_seen_in_a_batch_is_kept
            a_hang_up_is_reported
            room_is_reported_once_and_only_when_there_is_some
            input_is_no_room
            room_is_reported_however_fast_the_peer_reads
            a_wait_for_room_ends_with_its_owner
            many_reports_at_once_all_come
            finishing_ends_only_what_we_send
            disarming_releases_the_socket
            a_connection_that_was_reset_holds_nothing
            a_reset_gives_up_what_is_unsent
            bytes_that_were_not_received_are_counted
            what_is_dropped_before_it_was_submitted_leaves_nothing_behind
            the_runtime_is_woken
            the_runtime_is_woken_again_and_again
            input_in_front_of_a_reset_is_received_after_a_failed_send
        });
    };
}

real_backend_keeps!(uring, BackendKind::Uring);
real_backend_keeps!(epoll, BackendKind::Epoll);

/// The tests that hold for a backend although it is slow, short and spurious.
macro_rules! faulty_backend_keeps {
    ($module:ident, $over:expr) => {
        keeps!($module, BackendKind::Faulty { over: &$over, seed: 6_455 }, {
            a_short_send_reports_its_exact_count
            a_full_socket_refuses
            a_peer_that_is_gone_is_an_error
            what_came_before_the_poll_is_reported
            room_is_reported_however_fast_the_peer_reads
            many_reports_at_once_all_come
            disarming_releases_the_socket
            a_connection_that_was_reset_holds_nothing
            the_runtime_is_woken
        });
    };
}

faulty_backend_keeps!(faulty_uring, BackendKind::Uring);
faulty_backend_keeps!(faulty_epoll, BackendKind::Epoll);

/// Without `MSG_WAITALL` a short send counts as success, `CQE_SKIP_SUCCESS` hides it, and the rest is lost in silence.
fn a_short_send_reports_its_exact_count(backend: BackendKind) {
    for parts in [1, 2, 1_000] {
        let mut io = Backend::new(backend).unwrap();
        let (server, mut client) = pair(Some(4_096));
        let message = pattern(8 << 20);
        let pieces: Vec<&[u8]> = message.chunks(message.len().div_ceil(parts)).collect();
        let sent = send_one(&mut io, &server, &pieces).expect("8 MiB do not fit").unwrap();
        assert!(sent > 0 && sent < message.len() - REST, "{sent}");
        let mut received = vec![0; sent];
        client.read_exact(&mut received).unwrap();
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "exactly the prefix");
        client.set_nonblocking(false).unwrap();
        let (mut at, end) = (sent, sent + REST);
        while at < end {
            match send_one(&mut io, &server, &[&message[at..end]]) {
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

/// The number of bytes that are sent after the first, short send.
const REST: usize = 20_000;

fn a_full_socket_refuses(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, _client, _) = full_pair();
    for pieces in [&[b"a".as_slice()][..], &[b"a", b"b"]] {
        let refusal = send_one(&mut io, &server, pieces).expect("there is no room");
        assert_eq!(refusal.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

fn a_peer_that_is_gone_is_an_error(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, client) = pair(None);
    drop(client);
    let end = Instant::now() + PATIENCE;
    loop {
        match send_one(&mut io, &server, &[b"hello"]) {
            Some(Err(error)) => {
                assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
                return;
            }
            other => assert!(other.is_none() && Instant::now() < end, "{other:?}"),
        }
    }
}

fn pieces_arrive_in_order(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    for count in [1, 2, 3, SendEntry::<Transport>::PIECES_MAX] {
        let message = pattern(count * 7);
        let pieces: Vec<&[u8]> = message.chunks(7).collect();
        assert!(send_one(&mut io, &server, &pieces).is_none());
        let mut received = vec![0; message.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == message, "{count} pieces");
    }
}

#[should_panic(expected = "a send entry has 1 to 1 024 pieces")]
fn more_pieces_than_the_kernel_takes(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, _client) = pair(None);
    drop(send_one(&mut io, &server, &[b"a".as_slice(); SendEntry::<Transport>::PIECES_MAX + 1]));
}

/// Refusals carry the index in the whole batch, not in the part that was submitted.
fn a_batch_larger_than_a_submission(backend: BackendKind) {
    assert!(net::raise_descriptor_limit() > 2_000, "this test needs descriptors");
    let mut io = Backend::new(backend).unwrap();
    let mut pairs: Vec<(Transport, TcpStream)> = (0..2 * HotRing::BATCH_MAX + 70).map(|_| pair(None)).collect();
    let full = [0, 10, HotRing::BATCH_MAX - 1, HotRing::BATCH_MAX, 2 * HotRing::BATCH_MAX + 69];
    for index in full {
        let (server, client, _) = full_pair();
        pairs[index] = (server, client);
    }
    let texts: Vec<String> = (0..pairs.len()).map(|index| format!("{index:08}")).collect();
    let pieces: Vec<[IoSlice<'_>; 1]> = texts.iter().map(|text| [IoSlice::new(text.as_bytes())]).collect();
    let batch: Vec<SendEntry<'_, Transport>> =
        pairs.iter().zip(&pieces).map(|((socket, _), pieces)| SendEntry { socket, pieces }).collect();
    let mut refused = Vec::new();
    io.send(&batch, &mut refused);
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
    let mut batch: Vec<Receive<'_, Transport>> =
        pairs.iter().zip(&mut buffers).map(|((socket, _), buffer)| Receive::new(socket, buffer)).collect();
    io.receive(&mut batch);
    for (index, entry) in batch.iter().enumerate() {
        match &entry.result {
            Ok(count) => assert_eq!((*count, &entry.buffer[..]), (8, texts[index].as_bytes())),
            Err(error) => assert!(error.kind() == ErrorKind::WouldBlock && full.contains(&index), "{index}: {error}"),
        }
    }
}

fn receives_append_within_the_room(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    client.write_all(b"0123456789").unwrap();
    let mut buffer = BytesMut::with_capacity(8);
    buffer.extend_from_slice(b"left ");
    let room = buffer.capacity() - buffer.len();
    let mut batch = [Receive::new(&server, &mut buffer)];
    io.receive(&mut batch);
    assert_eq!(*batch[0].result.as_ref().unwrap(), room);
    assert_eq!(buffer, [b"left ", &b"0123456789"[..room]].concat());
    assert_eq!(buffer.len(), buffer.capacity());
    assert_eq!(receive_one(&mut io, &server, 64).1, b"0123456789"[room..]);
}

#[should_panic(expected = "a receive entry needs room")]
fn a_receive_without_room(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, _client) = pair(None);
    drop(receive_one(&mut io, &server, 0));
}

fn one_batch_of_receives_with_every_outcome(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let mut pairs: Vec<(Transport, TcpStream)> = (0..5).map(|_| pair(None)).collect();
    pairs[1].1.write_all(b"data").unwrap();
    pairs[2].1.shutdown(Shutdown::Write).unwrap();
    pairs[3].1.write_all(b"last").unwrap();
    pairs[3].1.shutdown(Shutdown::Write).unwrap();
    let (reset, client) = pairs.pop().unwrap();
    assert!(send_one(&mut io, &reset, &[b"never read"]).is_none());
    // Closing with something unread resets the connection.
    client.set_nonblocking(true).unwrap();
    while client.peek(&mut [0; 1]).is_err() {}
    drop(client);
    let mut sockets: Vec<Transport> = Vec::new();
    let mut clients = Vec::new();
    for (server, client) in pairs {
        sockets.push(server);
        clients.push(client);
    }
    sockets.push(reset);
    let mut buffers: Vec<BytesMut> = sockets.iter().map(|_| BytesMut::with_capacity(16)).collect();
    let mut batch: Vec<Receive<'_, Transport>> =
        sockets.iter().zip(&mut buffers).map(|(socket, buffer)| Receive::new(socket, buffer)).collect();
    io.receive(&mut batch);
    let kinds: Vec<Result<usize, ErrorKind>> =
        batch.iter().map(|entry| entry.result.as_ref().copied().map_err(io::Error::kind)).collect();
    let expected = [Err(ErrorKind::WouldBlock), Ok(4), Ok(0), Ok(4), Err(ErrorKind::ConnectionReset)];
    assert_eq!(kinds, expected);
    assert_eq!(receive_one(&mut io, &sockets[3], 16).0.unwrap(), 0, "the end comes after the data");
}

/// No report comes for the bytes that such a receive leaves in the socket.
fn a_receive_that_ends_at_an_urgent_byte_is_followed_by_another(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    for is_watched in [true, false] {
        let (server, client) = pair(None);
        if is_watched {
            io.arm(key(1, 0), &server);
        }
        for rest in ["", " and more"] {
            send_urgent(&client, b"urgent");
            (&client).write_all(rest.as_bytes()).unwrap();
            while net::unread(&server).unwrap() < 6 + rest.len() {}
            reap_briefly(&mut io);
            assert_eq!(receive_bytes(&mut io, &server), (b"urgen".to_vec(), true), "watched: {is_watched}");
            assert_eq!(reap_briefly(&mut io), [], "a report does without the answer");
            assert_eq!(receive_bytes(&mut io, &server), (format!("t{rest}").into_bytes(), false));
            assert_eq!(receive_one(&mut io, &server, 64).0.unwrap_err().kind(), ErrorKind::WouldBlock);
            assert_eq!(reap_briefly(&mut io), [], "the urgent byte is reported on and on");
        }
        // An ordinary receive has no other after it.
        (&client).write_all(b"plain").unwrap();
        while net::unread(&server).unwrap() < 5 {}
        assert_eq!(receive_bytes(&mut io, &server), (b"plain".to_vec(), false));
        io.disarm(key(1, 0));
    }
}

/// The kernel itself tells this with each receive from a watched socket: nobody has to ask for it by another call.
fn a_receive_tells_that_the_end_of_input_is_there(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    io.arm(key(0, 0), &server);
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    while !net::has_left(&server) {}
    assert_eq!(receive_bytes(&mut io, &server), (b"last".to_vec(), true));
    assert_eq!(receive_bytes(&mut io, &server).0, b"");
}

fn urgent_bytes_that_came_before_the_poll_are_all_received(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, client) = pair(None);
    send_urgent(&client, b"early");
    while net::unread(&server).unwrap() < 5 {}
    io.arm(key(0, 0), &server);
    assert!(reap_one(&mut io).readable);
    assert_eq!(receive_bytes(&mut io, &server), (b"earl".to_vec(), true));
    assert_eq!(receive_bytes(&mut io, &server), (b"y".to_vec(), false));
}

/// The kernel knows one urgent byte of a socket at a time. So at most two receives take a segment with one.
fn many_urgent_bytes_cost_no_more_than_small_segments(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, client) = pair(None);
    io.arm(key(0, 0), &server);
    for _ in 0..100 {
        send_urgent(&client, b"abc");
    }
    while net::unread(&server).unwrap() < 300 {}
    let reports = reap_briefly(&mut io).len();
    assert!((1..=100).contains(&reports), "{reports} reports");
    assert_eq!(receive_bytes(&mut io, &server), (b"abc".repeat(100)[..299].to_vec(), true));
    assert_eq!(receive_bytes(&mut io, &server), (b"c".to_vec(), false));
    let mut reports = 0;
    for _ in 0..100 {
        send_urgent(&client, b"abc");
        while net::unread(&server).unwrap() < 3 {}
        let mut ready = Vec::new();
        io.reap(&mut ready);
        reports += ready.len();
        assert_eq!(receive_bytes(&mut io, &server), (b"ab".to_vec(), true));
        assert_eq!(receive_bytes(&mut io, &server), (b"c".to_vec(), false));
    }
    assert!(reports <= 100 && reap_briefly(&mut io).is_empty(), "{reports} reports");
}

fn a_poll_reports_again_and_again(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    io.arm(key(3, 9), &server);
    for _ in 0..100 {
        client.write_all(b"x").unwrap();
        let Readiness { key: reported, readable, hung_up, writable, disarmed } = reap_one(&mut io);
        assert_eq!((reported, readable, hung_up, writable, disarmed), (key(3, 9), true, false, false, false));
        assert_eq!(receive_one(&mut io, &server, 16).0.unwrap(), 1);
    }
    assert_eq!(reap_briefly(&mut io), []);
}

fn what_came_before_the_poll_is_reported(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    client.write_all(b"early").unwrap();
    io.arm(key(0, 0), &server);
    assert!(reap_one(&mut io).readable);
}

fn readiness_seen_in_a_batch_is_kept(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let _pairs = see_readiness_in_a_batch(&mut io, key(5, 0));
    assert_eq!(reap_one(&mut io).key, key(5, 0));
}

fn a_hang_up_is_reported(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, client) = pair(None);
    io.arm(key(0, 0), &server);
    io.submit();
    client.shutdown(Shutdown::Write).unwrap();
    let Readiness { readable, hung_up, .. } = reap_one(&mut io);
    assert!(readable && hung_up);

    let (server, client) = pair(None);
    client.shutdown(Shutdown::Both).unwrap();
    drop(client);
    io.arm(key(1, 0), &server);
    let ready = reap_until(&mut io, |ready| ready.iter().any(|report| report.key == key(1, 0)));
    assert!(ready.iter().all(|report| report.readable && report.hung_up), "{ready:?}");
}

fn room_is_reported_once_and_only_when_there_is_some(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client, taken) = full_pair();
    io.arm(key(2, 1), &server);
    assert_eq!(reap_briefly(&mut io), []);
    assert!(send_one(&mut io, &server, &[b"x"]).is_some());
    io.await_room(key(2, 1), &server);
    assert_eq!(reap_briefly(&mut io), []);
    client.read_exact(&mut vec![0; taken]).unwrap();
    let Readiness { key: reported, readable, writable, disarmed, .. } = reap_one(&mut io);
    assert_eq!((reported, readable, writable, disarmed), (key(2, 1), false, true, false));
    assert_eq!(reap_briefly(&mut io), []);
}

fn finishing_ends_only_what_we_send(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    assert!(send_one(&mut io, &server, &[b"last"]).is_none());
    io.finish(&server);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"last");
    client.write_all(b"answer").unwrap();
    assert_eq!(receive_one(&mut io, &server, 16).1, b"answer"[..]);
    io.finish(&server);
}

/// The kernel still counts the bytes that a connection had not sent when its peer reset it, although no peer will take
/// them. If the peer's end came before the reset, no receive reports the reset either.
fn a_connection_that_was_reset_holds_nothing(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, client) = pair(None);
    drop(client);
    assert!(send_one(&mut io, &server, &[b"to nobody"]).is_none());
    io.finish(&server);
    let begin = Instant::now();
    while io.has_unsent(&server) {
        assert!(begin.elapsed() < PATIENCE, "what was sent is kept");
    }
}

/// A reset drops the bytes that the peer has not taken, and not only the descriptor.
fn a_reset_gives_up_what_is_unsent(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    for is_finished in [false, true] {
        let (server, mut client, taken) = full_pair();
        io.arm(key(0, 0), &server);
        io.submit();
        if is_finished {
            io.finish(&server);
        }
        assert!(io.has_unsent(&server));
        io.reset(&server);
        io.disarm(key(0, 0));
        drop(server);
        io.submit();
        let mut received = Vec::new();
        assert_eq!(client.read_to_end(&mut received).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(received.len() < taken);
    }
    let (server, mut client) = pair(None);
    assert!(send_one(&mut io, &server, &[b"taken"]).is_none());
    let begin = Instant::now();
    while io.has_unsent(&server) {
        assert!(begin.elapsed() < PATIENCE, "the peer's kernel takes nothing");
    }
    drop(server);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"taken");
}

/// The end of the input does not count as a byte.
fn bytes_that_were_not_received_are_counted(backend: BackendKind) {
    let io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    assert_eq!(io.unread(&server), 0);
    client.write_all(&[7; 1_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let begin = Instant::now();
    while !net::has_left(&server) {
        assert!(begin.elapsed() < PATIENCE, "the end does not arrive");
    }
    assert_eq!(io.unread(&server), 1_000);
    assert_eq!(net::receive_now(server.socket(), &mut [0; 400]).unwrap(), 400);
    assert_eq!(io.unread(&server), 600);
    assert_eq!(net::receive_now(server.socket(), &mut [0; 1_000]).unwrap(), 600);
    assert_eq!(io.unread(&server), 0);
}

fn what_is_dropped_before_it_was_submitted_leaves_nothing_behind(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    io.arm(key(0, 0), &server);
    io.disarm(key(0, 0));
    drop(server);
    // The next socket is likely to get the same descriptor.
    let (next, mut next_client) = pair(None);
    io.arm(key(0, 1), &next);
    io.submit();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    next_client.write_all(b"x").unwrap();
    let ready = reap_until(&mut io, |ready| ready.iter().any(|report| report.key == key(0, 1)));
    assert!(ready.iter().all(|report| report.key == key(0, 1) || report.hung_up || report.disarmed), "{ready:?}");
    io.disarm(key(0, 1));
    drop(next);
    io.submit();
    assert_eq!(next_client.read(&mut [0; 1]).unwrap_or(0), 0);
}

fn the_runtime_is_woken(backend: BackendKind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut io = Backend::new(backend).unwrap();
        let watched = io.watch().unwrap();
        let (server, mut client) = pair(None);
        io.arm(key(0, 0), &server);
        io.submit();
        let writer = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(20));
            client.write_all(b"x").unwrap();
            client
        });
        tokio::time::timeout(PATIENCE, watched.readable()).await.expect("woken").unwrap().clear_ready();
        assert!(reap_one(&mut io).readable);
        drop(writer.await.unwrap());
    });
}

/// Linux keeps the input before a reset readable, also after a send has failed. The end comes after this input.
fn input_in_front_of_a_reset_is_received_after_a_failed_send(backend: BackendKind) {
    let leaves: [fn(TcpStream); 2] = [
        |client| net::reset_when_closed(&OwnedFd::from(client)),
        // Nothing that is sent has a reader: each send is answered with a reset.
        drop,
    ];
    for leave in leaves {
        let mut io = Backend::new(backend).unwrap();
        let (server, mut client) = pair(None);
        client.write_all(b"the last words").unwrap();
        leave(client);
        let end = Instant::now() + PATIENCE;
        while send_one(&mut io, &server, &[b"too late"]).is_none() {
            assert!(Instant::now() < end, "no send fails");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(send_one(&mut io, &server, &[b"too late"]).is_some_and(|sent| sent.is_err()));
        let (count, received) = receive_one(&mut io, &server, 9);
        assert_eq!((count.unwrap(), &received[..]), (9, &b"the last "[..]));
        let (count, received) = receive_one(&mut io, &server, 100);
        assert_eq!((count.unwrap(), &received[..]), (5, &b"words"[..]));
        assert_eq!(receive_one(&mut io, &server, 100).0.unwrap(), 0);
    }
}

/// The calls ask for input before it has come, for more input than the kernel has, and for input at its end.
fn input_is_dropped_without_a_copy(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    assert_eq!(io.discard(&server, 100).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.write_all(&pattern(10_000)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let begin = Instant::now();
    while !net::has_left(&server) {
        assert!(begin.elapsed() < PATIENCE, "the end does not arrive");
    }
    assert_eq!(io.discard(&server, 4_000).unwrap(), 4_000);
    assert_eq!(receive_one(&mut io, &server, 100).1, pattern(10_000)[4_000..4_100]);
    let mut dropped = 4_100;
    while dropped < 10_000 {
        dropped += io.discard(&server, 1 << 20).unwrap();
    }
    assert_eq!((dropped, io.discard(&server, 100).unwrap()), (10_000, 0));
}

/// A shard that is full leaves input where it is, and must be able to sleep meanwhile.
fn input_that_waits_is_reported_once(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(None);
    io.arm(key(0, 0), &server);
    client.write_all(b"first").unwrap();
    assert!(reap_one(&mut io).readable);
    assert_eq!(reap_briefly(&mut io), []);
    assert!(!io.has_reports(), "the shard could not sleep");
    client.write_all(b"second").unwrap();
    assert!(reap_one(&mut io).readable);
    assert_eq!(receive_one(&mut io, &server, 100).1, b"firstsecond"[..]);
}

/// Input that comes to a socket which is full must not look like room.
fn input_is_no_room(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client, taken) = full_pair();
    io.arm(key(4, 0), &server);
    reap_briefly(&mut io);
    assert!(send_one(&mut io, &server, &[b"x"]).is_some());
    io.await_room(key(4, 0), &server);
    for _ in 0..3 {
        client.write_all(b"input").unwrap();
        let ready = reap_until(&mut io, |ready| !ready.is_empty());
        assert!(ready.iter().all(|report| report.readable && !report.writable), "{ready:?}");
    }
    client.read_exact(&mut vec![0; taken]).unwrap();
    assert!(reap_until(&mut io, |ready| ready.iter().any(|report| report.writable)).len() < 10);
}

/// The peer takes everything between the refusal and the wait for room, or while input comes in, or much later.
fn room_is_reported_however_fast_the_peer_reads(backend: BackendKind) {
    const BYTES: usize = 4 << 20;
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client) = pair(Some(4_096));
    io.arm(key(1, 7), &server);
    let reader = std::thread::spawn(move || {
        let (mut received, mut buffer) = (Vec::new(), vec![0; 100_000]);
        while received.len() < BYTES {
            let count = client.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..count]);
            if received.len() % 7 == 0 {
                client.write_all(b"x").unwrap();
            }
        }
        received
    });
    let (message, mut sent, mut waits) = (pattern(BYTES), 0, 0);
    while sent < BYTES {
        match send_one(&mut io, &server, &[&message[sent..]]) {
            None => sent = BYTES,
            Some(Ok(count)) => sent += count,
            Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if sent < BYTES {
            io.await_room(key(1, 7), &server);
            let ready = reap_until(&mut io, |ready| ready.iter().any(|report| report.writable));
            assert!(ready.iter().all(|report| report.key == key(1, 7)));
            waits += 1;
        }
    }
    assert!(reader.join().unwrap() == message);
    assert!(waits > 10, "{waits} waits for {BYTES} bytes");
}

/// A wait for room does not pass to the slot's next owner.
fn a_wait_for_room_ends_with_its_owner(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, _client, _) = full_pair();
    io.arm(key(2, 1), &server);
    assert!(send_one(&mut io, &server, &[b"x"]).is_some());
    io.await_room(key(2, 1), &server);
    io.submit();
    io.disarm(key(2, 1));
    drop(server);
    let (server, mut client) = pair(None);
    io.arm(key(2, 2), &server);
    client.write_all(b"x").unwrap();
    let ready = reap_until(&mut io, |ready| ready.iter().any(|report| report.key == key(2, 2)));
    assert!(ready.iter().all(|report| report.key == key(2, 2) && !report.writable), "{ready:?}");
}

/// There are more reports at once than one call to the kernel returns.
fn many_reports_at_once_all_come(backend: BackendKind) {
    const SOCKETS: u32 = 2_500;
    assert!(net::raise_descriptor_limit() > 2 * u64::from(SOCKETS) + 1_000, "this test needs descriptors");
    let mut io = Backend::new(backend).unwrap();
    let mut pairs: Vec<(Transport, TcpStream)> = (0..SOCKETS).map(|_| pair(None)).collect();
    for (slot, (server, _)) in pairs.iter().enumerate() {
        io.arm(key(slot as u32, 3), server);
    }
    io.submit();
    for round in 0..2 {
        pairs.iter_mut().for_each(|(_, client)| client.write_all(b"x").unwrap());
        let mut reported = vec![false; SOCKETS as usize];
        reap_until(&mut io, |ready| {
            ready.iter().filter(|report| report.readable).for_each(|report| reported[report.key.slot as usize] = true);
            reported.iter().all(|&is_reported| is_reported)
        });
        for (server, _) in &pairs {
            // A faulty backend may take a while.
            let begin = Instant::now();
            while receive_one(&mut io, server, 10).0.is_err() {
                assert!(begin.elapsed() < PATIENCE, "the byte of round {round} is not there");
            }
        }
    }
}

/// The descriptor is closed although the socket is watched, and awaits room.
fn disarming_releases_the_socket(backend: BackendKind) {
    let mut io = Backend::new(backend).unwrap();
    let (server, mut client, taken) = full_pair();
    io.arm(key(0, 1), &server);
    let more = send_one(&mut io, &server, &[b"x"]).expect("there is no room");
    assert_eq!(more.unwrap_err().kind(), ErrorKind::WouldBlock);
    io.await_room(key(0, 1), &server);
    io.submit();
    io.disarm(key(0, 1));
    drop(server);
    io.submit();
    client.read_exact(&mut vec![0; taken]).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let late = reap_briefly(&mut io);
    assert!(late.iter().all(|report| report.readable && !report.writable), "{late:?}");
}

/// If the runtime did not forget a readiness, it would wake the shard for nothing, for ever. If it forgot a readiness
/// too late, together with a newer one, the shard would stay asleep.
fn the_runtime_is_woken_again_and_again(backend: BackendKind) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut io = Backend::new(backend).unwrap();
        let watched = io.watch().unwrap();
        let (server, mut client) = pair(None);
        io.arm(key(0, 0), &server);
        io.submit();
        let (write, to_write) = channel::<()>();
        let writer = std::thread::spawn(move || {
            for () in to_write {
                client.write_all(b"x").unwrap();
            }
        });
        let mut ready = Vec::new();
        // Takes the report of what the socket had when it was armed.
        io.reap(&mut ready);
        for round in 0..300 {
            ready.clear();
            write.send(()).unwrap();
            while ready.is_empty() {
                tokio::time::timeout(PATIENCE, watched.readable()).await.expect("woken").unwrap().clear_ready();
                io.reap(&mut ready);
            }
            assert!(ready.iter().all(|report| report.readable), "round {round}: {ready:?}");
            assert_eq!(receive_one(&mut io, &server, 16).0.unwrap(), 1, "round {round}");
        }
        // Only reports that came while the shard was awake are left. Then the shard sleeps, although the input of a
        // further message waits: this input has been reported.
        write.send(()).unwrap();
        let mut wakes = 0;
        while let Ok(woken) = tokio::time::timeout(Duration::from_millis(100), watched.readable()).await {
            woken.unwrap().clear_ready();
            io.reap(&mut ready);
            wakes += 1;
            assert!(wakes < 5, "the shard does not come to rest");
        }
        drop(write);
        writer.join().unwrap();
    });
}
