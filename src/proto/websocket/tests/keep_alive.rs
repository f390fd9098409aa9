//! RFC 6455 5.5.2 (pings as keep-alive) and 7.1.1 (how long to wait for a close frame)

use super::*;

const KEEP_ALIVE: KeepAlive = KeepAlive { ping_interval: 300, pong_timeout: 100, close_timeout: 50 };

/// A server at tick 1000, and what it has sent.
struct Peer {
    websocket: WebSocket,
    sent: Vec<u8>,
}

impl Peer {
    fn new() -> Self {
        Self { websocket: WebSocket::new(Role::Server, Tick(1000)), sent: Vec::new() }
    }

    fn receive(&mut self, now: u32, bytes: &[u8]) {
        let mut input = Input::new(bytes.into());
        while let Ok(Some(_)) = self.websocket.receive(Tick(now), &mut input, &LIMITS, &mut self.sent) {}
    }

    fn expect(&mut self, now: u32, keep_alive: &KeepAlive, timeout: Timeout, deadline: Option<u32>) {
        assert_eq!(self.websocket.handle_timeout(Tick(now), keep_alive, b"", &mut self.sent), timeout, "at {now}");
        assert_eq!(self.websocket.deadline(keep_alive), deadline.map(Tick), "after {now}");
    }
}

#[test]
fn silence_is_pinged_and_then_failed() {
    let mut peer = Peer::new();
    peer.expect(1000, &KEEP_ALIVE, Timeout::Nothing, Some(1300));
    peer.expect(1299, &KEEP_ALIVE, Timeout::Nothing, Some(1300));
    peer.expect(1301, &KEEP_ALIVE, Timeout::PingSent, Some(1401));
    assert_eq!(peer.sent, hex("89 00"));
    peer.expect(1400, &KEEP_ALIVE, Timeout::Nothing, Some(1401));
    peer.expect(1401, &KEEP_ALIVE, Timeout::PongTimeout, None);
    assert_eq!(peer.sent[2..6], hex("88 15 03f3"));
    assert_eq!(peer.websocket.state(), State::Closed);
    peer.expect(9999, &KEEP_ALIVE, Timeout::Nothing, None);
}

/// RFC 6455 5.5.2: a ping may carry application data, as much as a control frame can.
#[test]
fn pings_with_a_payload() {
    for payload in [&b"Hello"[..], &[7; 125]] {
        let mut peer = Peer::new();
        let timeout = peer.websocket.handle_timeout(Tick(1300), &KEEP_ALIVE, payload, &mut peer.sent);
        assert_eq!((timeout, peer.sent), (Timeout::PingSent, unmasked(OpCode::Ping, payload)));
    }
}

#[test]
#[should_panic(expected = "5.5 on control frames")]
fn a_ping_too_long() {
    let mut websocket = WebSocket::new(Role::Server, Tick(0));
    websocket.handle_timeout(Tick(0), &KEEP_ALIVE, &[7; 126], &mut Vec::new());
}

/// A pong, a part of a header, a part of a payload: any byte is a sign of life.
#[test]
fn any_byte_is_life() {
    for bytes in [&masked(OpCode::Pong, true, "")[..], b"\x82", &masked(OpCode::Binary, true, [0; 99])[..50]] {
        let mut peer = Peer::new();
        peer.expect(1300, &KEEP_ALIVE, Timeout::PingSent, Some(1400));
        peer.receive(1300, bytes);
        peer.expect(1400, &KEEP_ALIVE, Timeout::Nothing, Some(1600));
    }
    let mut peer = Peer::new();
    peer.receive(1200, &masked(OpCode::Text, true, "Hello"));
    peer.expect(1300, &KEEP_ALIVE, Timeout::Nothing, Some(1500));
    peer.receive(1250, b"");
    assert_eq!(peer.websocket.deadline(&KEEP_ALIVE), Some(Tick(1500)), "an empty input is no sign of life");
}

#[test]
fn silence_of_our_own_making_is_excused() {
    let mut peer = Peer::new();
    peer.expect(1300, &KEEP_ALIVE, Timeout::PingSent, Some(1400));
    peer.websocket.excuse_silence(Tick(1390));
    peer.expect(1400, &KEEP_ALIVE, Timeout::Nothing, Some(1690));
}

#[test]
fn a_close_frame_is_answered_in_time_or_not() {
    let mut peer = Peer::new();
    peer.websocket.close(Tick(1100), CloseCode::NORMAL, "", &mut peer.sent);
    peer.receive(1149, &masked(OpCode::Text, true, "no excuse"));
    peer.expect(1149, &KEEP_ALIVE, Timeout::Nothing, Some(1150));
    peer.expect(1150, &KEEP_ALIVE, Timeout::CloseTimeout, None);
    assert_eq!((peer.websocket.state(), &peer.sent[..]), (State::Closed, &hex("88 02 03e8")[..]));
}

#[test]
fn deadlines_turned_off() {
    let no_pings = KeepAlive { ping_interval: 0, ..KEEP_ALIVE };
    Peer::new().expect(5000, &no_pings, Timeout::Nothing, None);
    let no_failing = KeepAlive { pong_timeout: 0, ..KEEP_ALIVE };
    let mut peer = Peer::new();
    for now in [1300, 1600, 1900] {
        peer.expect(now, &no_failing, Timeout::PingSent, Some(now + 300));
    }
    let no_close = KeepAlive { close_timeout: 0, ..KEEP_ALIVE };
    peer.websocket.close(Tick(2000), CloseCode::NORMAL, "", &mut peer.sent);
    peer.expect(9999, &no_close, Timeout::Nothing, None);
}

#[test]
fn time_ends_without_wrapping() {
    assert_eq!(Tick(u32::MAX - 1).after(5), Tick(u32::MAX));
    assert_eq!((Tick(5).since(Tick(2)), Tick(2).since(Tick(5))), (3, 0));
}
