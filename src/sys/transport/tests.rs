//! Transports of sockets that a task uses alone, on real sockets.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use super::{
    xor::{Side, XorStream, sealed},
    *,
};
use crate::sys::{Records as _, SendLimits, UNSENT_BYTES_MAX};

/// Returns both kinds of transport over sockets with little room, each with its client.
fn pairs() -> [(Transport, XorStream); 2] {
    [false, true].map(|is_sealed| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_recv_buffer_size(4_096).unwrap();
        client.connect(&listener.local_addr().unwrap().into()).unwrap();
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_nodelay(true).unwrap();
        let server = listener.accept().unwrap().0;
        server.set_nonblocking(true).unwrap();
        let socket = OwnedFd::from(server);
        net::prepare_connection(&socket, SendLimits { send_buffer_bytes: Some(4_096), ..SendLimits::default() })
            .unwrap();
        let transport = if is_sealed { sealed(socket, Side::Server) } else { socket.into() };
        (transport, XorStream::new(client))
    })
}

/// Reads from the client, as plain bytes or from records.
fn read(transport: &Transport, client: &mut XorStream, buffer: &mut [u8]) -> usize {
    if transport.sealed().is_some() { client.read(buffer).unwrap() } else { client.stream.read(buffer).unwrap() }
}

fn write(transport: &Transport, client: &mut XorStream, bytes: &[u8]) {
    if transport.sealed().is_some() {
        client.write_all(bytes).unwrap();
    } else {
        client.stream.write_all(bytes).unwrap();
    }
}

/// Waits until input has arrived, and receives it into a buffer of `room` bytes.
fn receive(transport: &Transport, room: usize) -> Result<BytesMut, ErrorKind> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut buffer = BytesMut::with_capacity(room);
        match transport.receive_now(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => std::thread::yield_now(),
            outcome => {
                let count = outcome.map_err(|error| error.kind())?;
                assert_eq!(buffer.len(), count);
                return Ok(buffer);
            }
        }
    }
}

/// A transport with records keeps the bytes for which the socket has no room, up to a bound, and sends these bytes
/// before all later bytes. The end of the output comes after all bytes.
#[test]
fn a_long_answer_is_sent_to_its_end() {
    let bytes: Vec<u8> = (0..200_000).map(|at| (at % 251) as u8).collect();
    for (transport, mut client) in pairs() {
        let (mut rest, mut is_finished, mut raw, mut refusals) = (&bytes[..], false, Vec::new(), 0);
        while !is_finished {
            let outcome = match rest {
                [] => transport.finish_now().map(|()| is_finished = true),
                _ => transport.send_now(rest).map(|count| rest = &rest[count..]),
            };
            assert!(transport.sealed().map_or(0, SealedSocket::kept_bytes) <= UNSENT_BYTES_MAX);
            if let Err(error) = outcome {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refusals += 1;
                let mut chunk = [0; 3_000];
                let count = client.stream.read(&mut chunk).unwrap();
                raw.extend_from_slice(&chunk[..count]);
            }
        }
        assert!(refusals > 10, "{refusals} refusals");
        client.stream.read_to_end(&mut raw).unwrap();
        if transport.sealed().is_some() {
            let mut opened = BytesMut::new();
            let outcome = client.records.open(&mut raw, &mut opened, &mut Vec::new()).unwrap();
            assert!(outcome.is_last && outcome.bytes == raw.len(), "the goodbye comes last");
            raw = opened.to_vec();
        }
        assert!(raw == bytes, "{} bytes are read", raw.len());
    }
}

/// The bytes that a transport keeps count as not acknowledged.
#[test]
fn kept_bytes_are_not_acknowledged() {
    let [_, (transport, client)] = pairs();
    while transport.flush_now().is_ok() {
        transport.send_now(&[7; 1_000]).unwrap();
    }
    let kept = transport.sealed().unwrap().kept_bytes();
    assert!(kept > 0);
    assert_eq!(transport.unacknowledged().unwrap(), net::unacknowledged(&transport).unwrap() + kept);
    drop(client);
}

/// Input is received in order into buffers of any size. Input that a transport has opened can be received, although the
/// socket does not report it.
#[test]
fn input_is_received_in_parts() {
    for (transport, mut client) in pairs() {
        let is_sealed = transport.sealed().is_some();
        assert_eq!(transport.receive_now(&mut BytesMut::with_capacity(5)).unwrap_err().kind(), ErrorKind::WouldBlock);
        write(&transport, &mut client, b"hello there");
        assert_eq!(receive(&transport, 5).unwrap()[..], b"hello"[..]);
        assert_eq!(transport.has_opened(), is_sealed);
        assert_eq!(receive(&transport, 100).unwrap()[..], b" there"[..]);
        assert!(!transport.has_opened());
        // The socket goes on to another owner. The opened input goes with the socket.
        write(&transport, &mut client, b"and on");
        assert_eq!(receive(&transport, 3).unwrap()[..], b"and"[..]);
        let transport = transport.try_map(Ok).unwrap();
        assert_eq!(receive(&transport, 100).unwrap()[..], b" on"[..]);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(receive(&transport, 10).unwrap().is_empty() && receive(&transport, 10).unwrap().is_empty());
    }
}

/// While a transport receives input, it answers the questions of the peer's transport.
#[test]
fn questions_are_answered() {
    let [_, (transport, mut client)] = pairs();
    client.ask().unwrap();
    write(&transport, &mut client, b"x");
    assert_eq!(receive(&transport, 10).unwrap()[..], b"x"[..]);
    transport.send_now(b"y").unwrap();
    assert_eq!(read(&transport, &mut client, &mut [0; 10]), 1);
    assert_eq!(client.records.answered, 1);
}

/// The input before a failure of the records or of the socket is received first. Then the failure is reported once.
#[test]
fn failures_stand_after_the_input() {
    let [_, (transport, mut client)] = pairs();
    write(&transport, &mut client, b"good");
    client.stream.write_all(&[0; 3]).unwrap();
    while net::unread(&transport).unwrap() < 10 {
        std::thread::yield_now();
    }
    assert_eq!(receive(&transport, 10).unwrap()[..], b"good"[..]);
    assert!(transport.has_opened(), "the failure waits, and the socket does not report it");
    assert_eq!(receive(&transport, 10), Err(ErrorKind::InvalidData));
    assert_eq!(receive(&transport, 10), Ok(BytesMut::new()));

    let [_, (transport, mut client)] = pairs();
    write(&transport, &mut client, b"good");
    while net::unread(&transport).unwrap() < 7 {
        std::thread::yield_now();
    }
    net::reset_when_closed(&client.stream);
    drop(client);
    assert_eq!(receive(&transport, 10).unwrap()[..], b"good"[..]);
    assert_eq!(receive(&transport, 10), Err(ErrorKind::ConnectionReset));
    let sent = transport.send_now(b"more").map_err(|error| error.kind());
    assert_eq!(sent, Err(ErrorKind::BrokenPipe));
    assert_eq!(transport.sealed().unwrap().kept_bytes(), 0, "bytes that nobody will take are not kept");
}

/// The time after which a test that hangs fails. No test measures time.
const PATIENCE: Duration = Duration::from_secs(20);
