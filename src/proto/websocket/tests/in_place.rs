//! A large message becomes an outgoing frame in its receive buffer; a small message is copied, and its buffer is free.

use super::*;

const LENGTHS: [usize; 9] = [0, 125, 126, LARGE_FRAME - 1, LARGE_FRAME, LARGE_FRAME + 1, 65_535, 65_536, 200_000];

#[test]
fn frames_of_every_header_length() {
    for len in LENGTHS {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let before = masked(OpCode::Ping, true, "before");
        let after = masked(OpCode::Text, true, "after");
        let frames = [before, masked(OpCode::Binary, true, &payload), after];
        let events = [Seen::Ping(b"before".into()), Seen::Binary(payload), text("after")];
        check(SERVER, &frames.concat(), &events, &unmasked(OpCode::Pong, "before"), State::Open);
    }
}

#[test]
fn assembled_messages_of_every_header_length() {
    for len in LENGTHS {
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let (first, rest) = payload.split_at(len / 3);
        let frames = [masked(OpCode::Binary, false, first), masked(OpCode::Continuation, true, rest)].concat();
        check(SERVER, &frames, &[Seen::Binary(payload)], &[], State::Open);
    }
}

#[test]
fn a_large_frame_is_not_copied() {
    for role in [SERVER.role, CLIENT.role] {
        let frame = match role {
            Role::Server => masked(OpCode::Text, true, vec![b'x'; LARGE_FRAME]),
            Role::Client { .. } => unmasked(OpCode::Text, vec![b'x'; LARGE_FRAME]),
        };
        let received = BytesMut::from(&[&frame[..], &frame[..5]].concat()[..]);
        let arrived_at = received[frame.len() - LARGE_FRAME..].as_ptr();
        with_message(role, received, |message| {
            assert_eq!(message.payload().as_ptr(), arrived_at);
            let prepared = message.prepare();
            assert_eq!(prepared.payload().as_ptr(), arrived_at);
            assert_eq!(prepared.clone().frame().as_ptr(), prepared.frame().as_ptr());
            assert_eq!(prepared.frame()[..4], hex("81 7e 4000"));
        });
    }
}

#[test]
fn a_large_assembled_message_is_not_copied() {
    let frames = [masked(OpCode::Text, false, [b'x'; 70_000]), masked(OpCode::Continuation, true, "y")].concat();
    with_message(Role::Server, frames[..].into(), |message| {
        let assembled_at = message.payload().as_ptr();
        let prepared = message.prepare();
        assert_eq!(prepared.payload().as_ptr(), assembled_at);
        assert_eq!(prepared.frame()[..10], hex("81 7f 0000000000011171"));
    });
}

/// While a small message lives on, the buffer that it came in belongs to the caller alone again, with its whole
/// capacity.
#[test]
fn a_small_frame_does_not_pin_its_buffer() {
    let mut received = BytesMut::with_capacity(1 << 16);
    received.extend_from_slice(&masked(OpCode::Binary, true, [7; LARGE_FRAME - 1]));
    let (buffer_at, capacity) = (received.as_ptr(), received.capacity());
    let mut input = Input::new(received);
    let mut websocket = WebSocket::new(Role::Server, Tick(0));
    let event = websocket.receive(Tick(0), &mut input, &LIMITS, &mut Vec::new());
    let Ok(Some(Event::Message(message))) = event else { panic!("{event:?}") };
    let prepared = message.prepare();
    let rest = input.into_rest();
    assert_eq!((rest.as_ptr(), rest.capacity(), rest.len()), (buffer_at, capacity, 0));
    assert_eq!(prepared.payload(), [7; LARGE_FRAME - 1]);
}

/// The bytes after a large frame stay in order, whether or not the frame was prepared.
#[test]
fn what_follows_a_large_frame() {
    let frames =
        [masked(OpCode::Binary, true, [1; 20_000]), masked(OpCode::Binary, true, [2; 30_000]), hex("81 85 37fa")];
    for prepare in [true, false] {
        let (mut websocket, mut input) =
            (WebSocket::new(Role::Server, Tick(0)), Input::new(frames.concat()[..].into()));
        let mut prepared = Vec::new();
        for len in [20_000, 30_000] {
            let event = websocket.receive(Tick(0), &mut input, &LIMITS, &mut Vec::new());
            let Ok(Some(Event::Message(message))) = event else { panic!("{event:?}") };
            assert_eq!(message.payload().len(), len);
            prepared.extend(prepare.then(|| message.prepare()));
        }
        assert_eq!(input.rest(), frames[2]);
        assert_eq!(input.into_rest(), frames[2]);
        assert!(
            prepared.iter().zip([1, 2]).all(|(message, octet)| message.payload().iter().all(|&other| other == octet))
        );
    }
}

fn with_message(role: Role, received: BytesMut, check: impl FnOnce(Message<'_>)) {
    let (mut websocket, mut input) = (WebSocket::new(role, Tick(0)), Input::new(received));
    match websocket.receive(Tick(0), &mut input, &LIMITS, &mut Vec::new()) {
        Ok(Some(Event::Message(message))) => check(message),
        other => panic!("{other:?}"),
    }
}
