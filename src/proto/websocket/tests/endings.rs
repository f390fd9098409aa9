//! RFC 6455 7.1.4 (closed cleanly), 7.1.5 (the close code): what is known of a connection that has ended

use super::*;

/// The facts that `WebSocket` tells: the state, the peer's code, our code, and whether the end was clean.
type Ending = (State, CloseCode, CloseCode, bool);

/// Checks the ending of a server that may close first and then receives these bytes, and the reason that the peer
/// gives.
fn check(we_close: Option<CloseCode>, received: &[u8], reason: Option<&str>, ending: Ending) {
    for piece_bytes in [1, 2, 3, 1000] {
        let (mut websocket, mut replies) = (WebSocket::new(Role::Server, Tick(0)), Vec::new());
        if let Some(code) = we_close {
            websocket.close(Tick(0), code, "", &mut replies);
        }
        let (mut kept, mut told) = (BytesMut::new(), None);
        for piece in received.chunks(piece_bytes) {
            kept.extend_from_slice(piece);
            let mut input = Input::new(kept);
            while let Ok(Some(event)) = websocket.receive(Tick(0), &mut input, &LIMITS, &mut replies) {
                if let Event::Close(frame) = event {
                    assert!(websocket.closed_cleanly() && told.is_none());
                    told = Some(frame.reason.to_string());
                }
            }
            kept = input.into_rest();
        }
        let known =
            (websocket.state(), websocket.close_code(), websocket.sent_close_code(), websocket.closed_cleanly());
        assert_eq!((known, told.as_deref()), (ending, reason), "in pieces of {piece_bytes}");
    }
}

const NONE: CloseCode = CloseCode::ABNORMAL;

#[test]
fn the_peer_closes_first() {
    let (going, empty) = (CloseCode::GOING_AWAY, CloseCode::NO_STATUS);
    let close = masked(OpCode::Close, true, hex("03e9 627965"));
    check(None, &close, Some("bye"), (State::Closed, going, going, true));
    check(None, &masked(OpCode::Close, true, ""), Some(""), (State::Closed, empty, empty, true));
}

#[test]
fn we_close_first() {
    let (normal, going, empty) = (CloseCode::NORMAL, CloseCode::GOING_AWAY, CloseCode::NO_STATUS);
    let answer = masked(OpCode::Close, true, hex("03e8 6f6b"));
    check(Some(going), &answer, Some("ok"), (State::Closed, normal, going, true));
    check(Some(empty), &masked(OpCode::Close, true, ""), Some(""), (State::Closed, empty, empty, true));
    check(Some(going), b"", None, (State::Closing, NONE, going, false));
}

#[test]
fn the_protocol_is_broken() {
    let (wrong, going) = (CloseCode::PROTOCOL_ERROR, CloseCode::GOING_AWAY);
    check(None, &hex("c1"), None, (State::Closed, NONE, wrong, false));
    check(Some(going), &hex("c1"), None, (State::Closed, NONE, going, false));
    let bad_close = masked(OpCode::Close, true, hex("03ed"));
    check(None, &bad_close, None, (State::Closed, NONE, wrong, false));
    check(Some(going), &bad_close, None, (State::Closed, NONE, going, false));
}

#[test]
fn the_socket_is_lost() {
    check(None, b"", None, (State::Open, NONE, NONE, false));
    check(None, &masked(OpCode::Close, true, hex("03e8"))[..7], None, (State::Open, NONE, NONE, false));
}

#[test]
fn the_peer_is_silent() {
    let keep_alive = KeepAlive::default();
    let (mut websocket, mut replies) = (WebSocket::new(Role::Server, Tick(0)), Vec::new());
    for now in [300, 400] {
        websocket.handle_timeout(Tick(now), &keep_alive, b"", &mut replies);
    }
    assert_eq!((websocket.close_code(), websocket.sent_close_code()), (NONE, CloseCode::INTERNAL_ERROR));
    assert!(websocket.state() == State::Closed && !websocket.closed_cleanly());
}
