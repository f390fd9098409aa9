//! RFC 6455 5.4. Fragmentation

use super::*;

#[test]
fn fragments_become_one_message() {
    for fragments in [&["Hel", "lo"][..], &["", "Hello"], &["Hello", ""], &["H", "", "e", "l", "", "lo", ""], &["", ""]]
    {
        let stream: Vec<u8> =
            (fragments.iter().enumerate()).flat_map(|(i, part)| fragment(i, fragments.len(), part)).collect();
        check(SERVER, &stream, &[text(&fragments.concat())], &[], State::Open);
    }
}

/// "Control frames MAY be injected in the middle of a fragmented message."
#[test]
fn control_frames_between_fragments() {
    let stream = [
        masked(OpCode::Text, false, "Hel"),
        masked(OpCode::Ping, true, "!"),
        masked(OpCode::Continuation, false, "l"),
        masked(OpCode::Pong, true, ""),
        masked(OpCode::Continuation, true, "o"),
        masked(OpCode::Close, true, ""),
    ];
    let events = [Seen::Ping(b"!".into()), Seen::Pong(vec![]), text("Hello"), Seen::Close(None, String::new())];
    check(SERVER, &stream.concat(), &events, &hex("8a 01 21 88 00"), State::Closed);
}

/// A close frame may end the connection in the middle of a message.
#[test]
fn closed_between_fragments() {
    let stream = [masked(OpCode::Text, false, "Hel"), masked(OpCode::Close, true, hex("03e8"))].concat();
    check(SERVER, &stream, &[Seen::Close(Some(1000), String::new())], &hex("88 02 03e8"), State::Closed);
}

#[test]
fn fragments_out_of_order() {
    let (nothing, interrupted) = (ProtocolError::NothingToContinue, ProtocolError::MessageInterrupted);
    check_failing(SERVER, &hex("80"), &[], nothing, CloseCode::PROTOCOL_ERROR);
    check_failing(SERVER, &hex("00"), &[], nothing, CloseCode::PROTOCOL_ERROR);
    let hello = [masked(OpCode::Text, false, "Hel"), masked(OpCode::Continuation, true, "lo")].concat();
    check_failing(SERVER, &[hello, hex("80")].concat(), &[text("Hello")], nothing, CloseCode::PROTOCOL_ERROR);
    for first in ["81", "01", "82", "02"] {
        let stream = [masked(OpCode::Text, false, "Hel"), hex(first)].concat();
        check_failing(SERVER, &stream, &[], interrupted, CloseCode::PROTOCOL_ERROR);
    }
}

/// RFC 6455 10.4: the sum of the fragments, as soon as a header announces it.
#[test]
fn a_message_too_big() {
    let script = Script { limits: MessageLimits { message_bytes_max: 10, ..LIMITS }, ..SERVER };
    let begun = [masked(OpCode::Binary, false, "12345"), masked(OpCode::Continuation, false, "")].concat();
    let whole = [begun.clone(), masked(OpCode::Continuation, true, "67890")].concat();
    check(script, &whole, &[Seen::Binary(b"1234567890".into())], &[], State::Open);
    let stream = [begun, hex("80 86 00000000")].concat();
    check_failing(script, &stream, &[], ProtocolError::MessageTooBig, CloseCode::MESSAGE_TOO_BIG);
    check_failing(script, &hex("02 8b 00000000"), &[], ProtocolError::MessageTooBig, CloseCode::MESSAGE_TOO_BIG);
}

/// Empty fragments count, since a message could have any number of them.
#[test]
fn too_many_fragments() {
    let script = Script { limits: MessageLimits { fragments_max: 3, ..LIMITS }, ..SERVER };
    let begun = [masked(OpCode::Text, false, ""), masked(OpCode::Continuation, false, "")].concat();
    let whole = [begun.clone(), masked(OpCode::Continuation, true, "")].concat();
    check(script, &[whole.clone(), whole].concat(), &[text(""), text("")], &[], State::Open);
    let stream = [begun, masked(OpCode::Continuation, false, ""), hex("80 80 00000000")].concat();
    check_failing(script, &stream, &[], ProtocolError::TooManyFragments, CloseCode::MESSAGE_TOO_BIG);
}

/// A fragment is taken as it arrives: none of its bytes stay with the caller, and memory grows with the bytes that
/// arrive, not with the announced length.
#[test]
fn fragments_leave_the_input() {
    let mut websocket = WebSocket::new(Role::Server, Tick(0));
    let mut input = Input::new(masked(OpCode::Binary, false, vec![1; 1 << 20])[..5000].into());
    assert!(matches!(websocket.receive(Tick(0), &mut input, &LIMITS, &mut Vec::new()), Ok(None)));
    assert!(input.rest().is_empty());
    assert!(websocket.assembly.as_ref().unwrap().buffer_bytes() < 10_000);
}

/// `message_length` counts the bytes so far, whether messages are delivered whole or frame by frame.
#[test]
fn the_length_of_a_message_under_way() {
    let frames = [
        masked(OpCode::Text, false, "Hel"),
        masked(OpCode::Ping, true, "?"),
        masked(OpCode::Continuation, false, ""),
        masked(OpCode::Continuation, true, "lo"),
        masked(OpCode::Binary, true, "12"),
    ];
    // The length after each octet: a header has six octets, and the payload follows.
    let expected = [&[0; 6][..], &[1, 2, 3], &[3; 7], &[3; 6], &[3; 6], &[4, 0], &[0; 6], &[1, 0]].concat();
    for deliver in [Deliver::Messages, Deliver::Fragments] {
        let limits = MessageLimits { deliver, ..LIMITS };
        let (mut websocket, mut kept, mut seen) = (WebSocket::new(Role::Server, Tick(0)), BytesMut::new(), Vec::new());
        for octet in frames.concat() {
            kept.extend_from_slice(&[octet]);
            let mut input = Input::new(kept);
            while websocket.receive(Tick(0), &mut input, &limits, &mut Vec::new()).unwrap().is_some() {}
            kept = input.into_rest();
            seen.push(websocket.message_length());
        }
        assert_eq!(seen, expected, "{deliver:?}");
    }
}

proptest! {
    /// Messages in any fragments, with pings between them, arrive as they were.
    #[test]
    fn any_fragments(
        messages in prop::collection::vec((any::<bool>(), prop::collection::vec("\\PC{0,50}", 1..6)), 1..5),
        piece_bytes in 1usize..200,
    ) {
        let (mut stream, mut events) = (Vec::new(), Vec::new());
        for (is_text, fragments) in &messages {
            for (i, payload) in fragments.iter().enumerate() {
                let opcode = match (i, is_text) {
                    (0, true) => OpCode::Text,
                    (0, false) => OpCode::Binary,
                    _ => OpCode::Continuation,
                };
                stream.extend(masked(OpCode::Ping, true, [i as u8]));
                events.push(Seen::Ping(vec![i as u8]));
                stream.extend(masked(opcode, i + 1 == fragments.len(), payload));
            }
            let whole = fragments.concat();
            events.push(if *is_text { Seen::Text(whole) } else { Seen::Binary(whole.into()) });
        }
        let history = SERVER.run(&stream, piece_bytes);
        prop_assert_eq!((history.events, history.error), (events, None));
    }
}

fn fragment(i: usize, fragments: usize, payload: &str) -> Vec<u8> {
    masked(if i == 0 { OpCode::Text } else { OpCode::Continuation }, i + 1 == fragments, payload)
}
