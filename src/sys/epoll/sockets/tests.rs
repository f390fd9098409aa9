//! Tests of what no other backend has: watches that the kernel refuses, and lists of edges.

use std::io::{Read as _, Write as _};

use super::*;
use crate::sys::testing::*;

/// The limit of watches belongs to the user, not to the process, so any other program may have used it up.
#[test]
fn a_socket_that_cannot_be_watched_is_polled() {
    let mut epoll = Epoll::new().unwrap();
    let (watched, _client) = pair(None);
    let (refused, mut client) = pair(None);
    epoll.watches_left = Some(1);
    epoll.arm(key(0, 0), &watched);
    epoll.arm(key(1, 4), &refused);
    assert_eq!((epoll.armed(), epoll.has_reports()), (1, true), "the shard would sleep");
    for _ in 0..3 {
        let report = reap_one(&mut epoll);
        assert_eq!((report.key, report.readable, report.disarmed), (key(1, 4), true, true));
        // The shard answers such a report with `arm`.
        epoll.arm(key(1, 4), &refused);
    }
    epoll.await_room(key(1, 4), &refused);
    assert!(reap_one(&mut epoll).writable, "it is tried again and again");
    epoll.watches_left = None;
    epoll.arm(key(1, 4), &refused);
    assert_eq!((epoll.armed(), epoll.has_reports()), (2, false));
    client.write_all(b"x").unwrap();
    assert_eq!(reap_one(&mut epoll).key, key(1, 4));
    epoll.watches_left = Some(0);
    epoll.arm(key(2, 0), &refused);
    epoll.disarm(key(2, 0));
    assert!(!epoll.has_reports(), "nothing is reported of a connection that has ended");
}

/// A send that failed for want of memory was not tried: no edge follows it.
#[test]
fn a_wait_behind_an_untried_send_looks_at_the_socket() {
    let mut epoll = Epoll::new().unwrap();
    let (server, _client) = pair(None);
    epoll.arm(key(0, 0), &server);
    reap_briefly(&mut epoll);
    epoll.has_untried = true;
    epoll.await_room(key(0, 0), &server);
    let report = reap_one(&mut epoll);
    assert_eq!((report.readable, report.writable), (false, true));
    assert!(!epoll.has_untried);
    // The socket cannot be looked at again, and must not be forgotten.
    epoll.has_untried = true;
    epoll.watches_left = Some(0);
    epoll.await_room(key(0, 0), &server);
    assert!(epoll.has_reports() && reap_one(&mut epoll).writable);
}

/// The runtime sees an edge of the instance only when the instance becomes readable: what is left in it is lost unless
/// the shard comes back by itself.
#[test]
fn edges_that_are_left_keep_the_shard_awake() {
    let mut epoll = Epoll::new().unwrap();
    let (server, _client) = pair(None);
    // The table counts one watched socket, so each `reap` takes one list.
    epoll.arm(key(0, 0), &server);
    let copy = || Transport::from(server.socket().try_clone().unwrap());
    let copies: Vec<Transport> = (0..2 * EVENTS_MAX + 10).map(|_| copy()).collect();
    for copy in &copies {
        epoll.add(key(0, 0), copy).unwrap();
    }
    let mut ready = Vec::new();
    // The server's socket has room, which nobody waits for: the lists are full of events that are not reported.
    epoll.reap(&mut ready);
    assert!(epoll.has_reports(), "a list was full");
    epoll.reap(&mut ready);
    epoll.reap(&mut ready);
    assert!(!epoll.has_reports() && ready.is_empty());
}

/// A hang-up without input counts as readable. A socket that was never connected has one.
#[test]
fn a_hang_up_alone_is_readable() {
    let mut epoll = Epoll::new().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let socket = Transport::from(OwnedFd::from(socket));
    epoll.arm(key(0, 0), &socket);
    let report = reap_one(&mut epoll);
    assert!(report.readable && report.hung_up);
    assert!(receive_one(&mut epoll, &socket, 10).0.is_err());
}

/// The same descriptor under another key: the kernel has the socket already, and looks at it again.
#[test]
fn a_socket_that_is_watched_already_changes_its_key() {
    let mut epoll = Epoll::new().unwrap();
    let (server, mut client) = pair(None);
    epoll.arm(key(0, 0), &server);
    client.write_all(b"x").unwrap();
    assert!(reap_one(&mut epoll).readable);
    epoll.disarm(key(0, 0));
    client.write_all(b"y").unwrap();
    assert_eq!(reap_briefly(&mut epoll), [], "the key has no owner any more");
    epoll.arm(key(5, 1), &server);
    assert_eq!(reap_one(&mut epoll).key, key(5, 1));
    assert_eq!(epoll.armed(), 1);
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
