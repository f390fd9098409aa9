//! Helpers of tests on real sockets.

use std::{
    io::{self, ErrorKind, IoSlice, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rustix::net::SendFlags;

use super::{
    io::{Io, Key, Readiness, Receive, SendEntry, SendLimits},
    net,
    transport::Transport,
};

/// Returns a server's socket and its client.
pub(super) fn pair(send_buffer: Option<usize>) -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = Transport::from(OwnedFd::from(listener.accept().unwrap().0));
    net::prepare_connection(server.socket(), SendLimits { send_buffer_bytes: send_buffer, ..SendLimits::default() })
        .unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_nodelay(true).unwrap();
    (server, client)
}

/// Returns a pair with as little room on both sides as the kernel allows.
fn small_pair() -> (Transport, TcpStream) {
    let (server, client) = pair(Some(4_096));
    socket2::SockRef::from(&client).set_recv_buffer_size(4_096).unwrap();
    (server, client)
}

/// Returns a pair whose server's socket takes nothing more, and the number of bytes that it took.
pub(super) fn full_pair() -> (Transport, TcpStream, usize) {
    let (server, client) = small_pair();
    let mut taken = 0;
    // Room may appear once more when the client's kernel has moved something on.
    loop {
        match net::send_now(server.socket(), &[7; 65_536]) {
            Ok(count) => taken += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(5));
                if net::send_now(server.socket(), &[7]).map(|count| taken += count).is_err() {
                    return (server, client, taken);
                }
            }
        }
    }
}

pub(super) fn key(slot: u32, generation: u32) -> Key {
    Key { slot, generation }
}

pub(super) fn send_one(
    io: &mut impl Io<Socket = Transport>,
    socket: &Transport,
    bytes: &[&[u8]],
) -> Option<io::Result<usize>> {
    let pieces: Vec<IoSlice<'_>> = bytes.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut refused = Vec::new();
    io.send(&[SendEntry { socket, pieces: &pieces }], &mut refused);
    assert!(refused.len() <= 1 && refused.iter().all(|entry| entry.index == 0));
    refused.pop().map(|entry| entry.sent)
}

pub(super) fn receive_one(
    io: &mut impl Io<Socket = Transport>,
    socket: &Transport,
    room: usize,
) -> (io::Result<usize>, BytesMut) {
    let mut buffer = BytesMut::with_capacity(room);
    let mut batch = [Receive::new(socket, &mut buffer)];
    io.receive(&mut batch);
    let [Receive { result, .. }] = batch;
    (result, buffer)
}

/// Receives from one socket. Returns the bytes, and whether the socket has more input.
pub(super) fn receive_bytes(io: &mut impl Io<Socket = Transport>, socket: &Transport) -> (Vec<u8>, bool) {
    let mut buffer = BytesMut::with_capacity(1_024);
    let mut batch = [Receive::new(socket, &mut buffer)];
    io.receive(&mut batch);
    let [Receive { result, has_more, .. }] = batch;
    assert_eq!(result.unwrap(), buffer.len());
    (buffer.to_vec(), has_more)
}

/// Sends bytes of which the last one is urgent.
pub(super) fn send_urgent(client: &TcpStream, bytes: &[u8]) {
    assert_eq!(rustix::net::send(client, bytes, SendFlags::OOB).unwrap(), bytes.len());
}

/// Lets the readiness of a socket, which is armed with the key, come in the midst of batches for another socket that
/// takes nothing. Returns the sockets with their clients.
pub(super) fn see_readiness_in_a_batch(io: &mut impl Io<Socket = Transport>, key: Key) -> [(Transport, TcpStream); 2] {
    let (server, mut client) = pair(None);
    let (full, reader, _) = full_pair();
    io.arm(key, &server);
    io.submit();
    client.write_all(b"x").unwrap();
    for _ in 0..3 {
        assert!(send_one(io, &full, &[b"x"]).is_some());
    }
    [(server, client), (full, reader)]
}

/// Reaps until `is_enough` says so. Running out of patience fails the test.
pub(super) fn reap_until(
    io: &mut impl Io<Socket = Transport>,
    mut is_enough: impl FnMut(&[Readiness]) -> bool,
) -> Vec<Readiness> {
    let mut ready = Vec::new();
    let end = Instant::now() + PATIENCE;
    loop {
        io.reap(&mut ready);
        if is_enough(&ready) {
            return ready;
        }
        assert!(Instant::now() < end, "after {PATIENCE:?} there are only {} reports", ready.len());
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn reap_one(io: &mut impl Io<Socket = Transport>) -> Readiness {
    *reap_until(io, |ready| !ready.is_empty()).last().unwrap()
}

/// Returns the reports of a short time.
pub(super) fn reap_briefly(io: &mut impl Io<Socket = Transport>) -> Vec<Readiness> {
    let mut ready = Vec::new();
    for _ in 0..20 {
        io.reap(&mut ready);
        std::thread::sleep(Duration::from_millis(1));
    }
    ready
}

pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 251 + index) as u8).collect()
}

/// The time after which a test that hangs fails. No test measures time.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
