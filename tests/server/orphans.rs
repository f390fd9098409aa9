//! How connections end for the kernel: nothing of them stays that the server does not know of.

use std::{
    env,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use ringhub::proto::OpCode;
use rustix::process::Signal;

use crate::support::{Client, KernelSocket, Received, Server, close, frame, pattern};

/// Clients that break the protocol and go on sending, until the server gives them up in mid-stream: its sockets are
/// gone for the kernel too, although input arrives at the very moment.
///
/// `RINGHUB_ORPHANS` says how many; `tests/orphans` asks for 20 000.
#[test]
fn connections_given_up_in_mid_stream() {
    const AT_A_TIME: usize = 64;
    let count: usize = env::var("RINGHUB_ORPHANS").map_or(1_000, |count| count.parse().expect("a number"));
    let server = Server::start(&["--close-timeout", "100ms", "--shards", "2"]);
    let address = server.address();
    let (begun, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while begun.fetch_add(1, Ordering::Relaxed) < count {
                    let mut stream = Client::connect(address, "/t/x").into_stream();
                    // A reserved bit, then whatever comes.
                    let mut outcome = stream.write_all(b"\xc1\x80\0\0\0\0");
                    while outcome.is_ok() {
                        outcome = stream.write_all(b"more");
                    }
                    let is_over = outcome.is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
                    refused.fetch_add(usize::from(is_over), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(refused.into_inner(), count, "a socket takes what it is sent and is not read");
    let is_over =
        |counts: &crate::support::Counts| counts.get("connections_open") == 0 && counts.get("polls_armed") == 0;
    let counts = server.counts_until("every poll has ended", is_over);
    assert_eq!((counts.get("protocol_errors_total"), counts.get("ended_total")), (count as u64, count as u64));
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    println!("{count} connections given up in mid-stream, 0 sockets without a descriptor");
}

/// Fifty subscribers that read nothing are closed as slow; when the time for that is over, the kernel keeps nothing.
#[test]
fn slow_consumers_leave_the_kernel_too() {
    const COUNT: u64 = 50;
    let server = Server::start(&["--max-message", "64KiB", "--max-backlog", "256KiB", "--close-timeout", "1s"]);
    let slow: Vec<Client> = (0..COUNT).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut trickling = server.connect("/t/x?mode=sub").into_stream();
    let trickler = thread::spawn(move || {
        // However it goes on, it gets no more time than the others.
        loop {
            match trickling.read(&mut [0; 64]) {
                Ok(1..) => thread::sleep(Duration::from_millis(1)),
                outcome => return outcome.map_err(|error| error.kind()),
            }
        }
    });
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_closed_total") <= COUNT {
        publisher.send_binary(&pattern(sent, 60_000));
        sent += 1;
        assert!(sent < 10_000, "backlogs have no limit");
    }
    server.expect_counts(&[
        ("close_timeout_total", COUNT + 1),
        ("reset_total", COUNT + 1),
        ("connections_open", 1),
        ("slow_consumers", 0),
    ]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    assert_eq!(trickler.join().unwrap(), Err(ErrorKind::ConnectionReset));
    for client in slow {
        let mut rest = Vec::new();
        assert_eq!(client.into_stream().read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    publisher.leave();
}

/// When a server that leaves runs out of time, it leaves nothing in the kernel; who took everything has an orderly end.
#[test]
fn a_drain_that_takes_too_long() {
    let mut server = Server::start(&[
        "--max-message",
        "64KiB",
        "--max-backlog",
        "1GiB",
        "--close-timeout",
        "60s",
        "--drain-timeout",
        "1s",
    ]);
    let slow: Vec<Client> = (0..10).map(|_| server.connect("/t/x?mode=sub")).collect();
    let mut quiet = server.connect("/t/y");
    quiet.never_answer();
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_consumers") < 10 {
        publisher.send_binary(&pattern(sent, 60_000));
        sent += 1;
        assert!(sent < 10_000, "a socket takes everything");
    }
    let port = server.address().port();
    server.signal(Signal::TERM);
    quiet.expect(close(1001, "the server is going away"));
    assert!(server.wait().success());
    quiet.expect(Received::End);
    let unsent = || KernelSocket::of_port(port).into_iter().filter(|socket| socket.unsent > 0).collect();
    KernelSocket::until_none("sockets that outlive the server with something unsent", unsent);
    for client in slow {
        let mut rest = Vec::new();
        assert_eq!(client.into_stream().read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// A client that ends its side without a closing handshake may still read what its socket was given. If it does not, it
/// is reset when the time for a close is over.
#[test]
fn clients_that_end_only_their_side() {
    let server = Server::start(&["--max-message", "64KiB", "--max-backlog", "1GiB", "--close-timeout", "2s"]);
    let mut reads = server.connect("/t/x?mode=sub").into_stream();
    let never_reads = server.connect("/t/x?mode=sub").into_stream();
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut sent = 0;
    while server.counts().get("slow_consumers") < 2 {
        publisher.send_binary(&pattern(sent, 60_000));
        sent += 1;
        assert!(sent < 10_000, "a socket takes everything");
    }
    reads.shutdown(Shutdown::Write).unwrap();
    never_reads.shutdown(Shutdown::Write).unwrap();
    server.expect_counts(&[("aborted_total", 2), ("slow_consumers", 0)]);
    let mut received = Vec::new();
    reads.read_to_end(&mut received).expect("an orderly end");
    assert!(received.len() > 60_000, "{} bytes", received.len());
    server.expect_counts(&[("reset_total", 1), ("close_timeout_total", 1), ("connections_open", 1)]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    let outcome = (&never_reads).read_to_end(&mut Vec::new());
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionReset);
    publisher.leave();
}

/// A message of 4 MiB more than is allowed is taken to its end and dropped: the close frame and the end behind it
/// arrive each time.
#[test]
fn a_close_for_a_size_arrives() {
    const TIMES: u64 = 60;
    let server = Server::start(&[]);
    let address = server.address();
    let whole = frame(OpCode::Binary, true, &vec![0; 5 << 20]);
    let begin = frame(OpCode::Binary, false, &vec![0; 1 << 20]);
    let next = frame(OpCode::Continuation, false, &vec![0; 1 << 20]);
    let last = frame(OpCode::Continuation, true, &vec![0; 1 << 20]);
    let in_pieces = [begin, next.repeat(3), last].concat();
    for message in [&whole, &in_pieces] {
        thread::scope(|scope| {
            let times: Vec<_> = (0..TIMES / 2).map(|_| scope.spawn(|| send_and_read(address, message))).collect();
            times.into_iter().for_each(|time| time.join().unwrap());
        });
    }
    server.expect_counts(&[("protocol_errors_total", TIMES), ("ended_total", TIMES), ("reset_total", 0)]);
}

/// Sends all of a message while the answer is read, and answers that.
fn send_and_read(address: SocketAddr, message: &[u8]) {
    let mut client = Client::connect(address, "/t/x");
    let mut stream = client.stream().try_clone().unwrap();
    thread::scope(|scope| {
        let sender = scope.spawn(move || stream.write_all(message));
        client.expect_close(1009, "a message is larger than 1048576 bytes");
        sender.join().unwrap().expect("the server takes all of it");
    });
}
