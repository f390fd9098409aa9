//! Urgent bytes (`MSG_OOB`): a receive of the kernel ends in front of such a byte, and nothing reports what stands
//! behind. For the server an urgent byte is a byte like all others.

use std::{io::Read as _, net::TcpStream};

use ringhub::proto::OpCode;
use rustix::net::SendFlags;

use crate::support::{Client, Received, Server, close, dial, frame, is_on_epoll, text, upgrade_request};

/// Sends bytes of which the last one is urgent.
fn send_urgent(stream: &TcpStream, bytes: &[u8]) {
    assert_eq!(rustix::net::send(stream, bytes, SendFlags::OOB).unwrap(), bytes.len());
}

/// Calls `check` with a server on each backend, or on epoll alone if the tests are to run on epoll.
fn on_each_backend(flags: &[&str], check: impl Fn(&Server)) {
    check(&Server::start(&[flags, &["--io", "epoll"]].concat()));
    if !is_on_epoll() {
        check(&Server::start(flags));
    }
}

/// Nothing arrives after the urgent byte, so the message would wait for ever.
#[test]
fn a_frame_with_an_urgent_byte_arrives_at_once() {
    on_each_backend(&["--shards", "2"], |server| {
        let mut subscriber = server.connect("/t/x");
        let mut publisher = server.connect("/t/x");
        for number in 0..20 {
            let message = number.to_string();
            send_urgent(publisher.stream(), &frame(OpCode::Text, true, message.as_bytes()));
            subscriber.expect(text(&message));
        }
        // The frame comes together with the opening request.
        let early = dial(server.address());
        send_urgent(&early, &[upgrade_request("/t/x").as_bytes(), &frame(OpCode::Text, true, b"early")].concat());
        subscriber.expect(text("early"));
        send_urgent(publisher.stream(), &frame(OpCode::Close, true, b"\x03\xe8"));
        while let received = publisher.receive()
            && received != close(1000, "")
        {
            assert!(matches!(received, Received::Text(_)), "{received:?}");
        }
    });
}

/// The opening request itself ends with an urgent byte.
#[test]
fn an_opening_request_with_an_urgent_byte_is_answered_at_once() {
    on_each_backend(&["--shards", "2"], |server| {
        let mut stream = dial(server.address());
        send_urgent(&stream, upgrade_request("/t/x").as_bytes());
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"HTTP/1.1 101");
    });
}

/// Input that nobody receives would make the server wait for it.
#[test]
fn a_message_with_an_urgent_byte_has_its_time() {
    on_each_backend(&["--message-timeout", "500ms", "--close-timeout", "1s"], |server| {
        let message = frame(OpCode::Text, true, &[b'x'; 300]);
        let mut clients = Vec::new();
        for begun in [2, 9, message.len() / 2] {
            let late = server.connect("/t/x");
            send_urgent(late.stream(), &message[..begun]);
            let early = Client::open(dial(server.address()), "/t/x", &message[..1]).unwrap();
            send_urgent(early.stream(), &message[1..begun]);
            clients.extend([late, early]);
        }
        let is_late = close(1008, "a message did not arrive in time");
        clients.iter_mut().for_each(|client| client.expect(is_late.clone()));
        server.expect_counts(&[("message_timeout_total", 6)]);
    });
}

/// A closed connection drops all that its client sends on, and then sees the client's end.
#[test]
fn a_closed_client_may_send_urgent_bytes() {
    on_each_backend(&["--close-timeout", "1h"], |server| {
        let mut client = server.connect("/t/x");
        client.never_answer();
        client.send_raw(b"\xc1\x80\0\0\0\0");
        while !matches!(client.receive(), Received::Close(Some(1002), _)) {}
        let sent = server.counts().get("bytes_in_total");
        (0..3).for_each(|_| send_urgent(client.stream(), &[0; 100]));
        server.counts_until("all is dropped", |counts| counts.get("bytes_in_total") == sent + 300);
    });
}
