//! RFC 6455 5.4, where each fragment is a separate event

use super::*;

const ONE_BY_ONE: Script = Script { limits: MessageLimits { deliver: Deliver::Fragments, ..LIMITS }, ..SERVER };

fn fragment(message_type: MessageType, is_first: bool, is_last: bool, payload: impl AsRef<[u8]>) -> Seen {
    Seen::Fragment(message_type, is_first, is_last, payload.as_ref().into())
}

/// RFC 6455 5.7: a fragmented text message; 5.4: an unfragmented message, and one with control frames between its
/// fragments.
#[test]
fn places_in_a_message() {
    let stream = [
        masked(OpCode::Text, false, "Hel"),
        masked(OpCode::Ping, true, "!"),
        masked(OpCode::Continuation, false, ""),
        masked(OpCode::Continuation, true, "lo"),
        masked(OpCode::Binary, true, "whole"),
        masked(OpCode::Text, true, ""),
        masked(OpCode::Binary, false, "begun"),
    ];
    let (text, binary) = (MessageType::Text, MessageType::Binary);
    let events = [
        fragment(text, true, false, "Hel"),
        Seen::Ping(b"!".into()),
        fragment(text, false, false, ""),
        fragment(text, false, true, "lo"),
        fragment(binary, true, true, "whole"),
        fragment(text, true, true, ""),
        fragment(binary, true, false, "begun"),
    ];
    check(ONE_BY_ONE, &stream.concat(), &events, &hex("8a 01 21"), State::Open);
    let as_client = Script { role: CLIENT.role, ..ONE_BY_ONE };
    let events = [fragment(text, true, false, "Hel"), fragment(text, false, true, "lo")];
    check(as_client, &hex("01 03 48656c 80 02 6c6f"), &events, &[], State::Open);
}

/// RFC 6455 8.1: a character may begin in one fragment and end two later.
#[test]
fn characters_across_fragments() {
    let parts = [b"a\xF0".as_slice(), b"\x9F", b"", b"\x98\x80b"];
    let (mut stream, mut events) = (Vec::new(), Vec::new());
    for (i, part) in parts.iter().enumerate() {
        stream.extend(masked(if i == 0 { OpCode::Text } else { OpCode::Continuation }, i == 3, part));
        events.push(fragment(MessageType::Text, i == 0, i == 3, part));
    }
    check(ONE_BY_ONE, &stream, &events, &[], State::Open);
    let (error, code) = (ProtocolError::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
    let begun = [masked(OpCode::Text, false, b"a\xF0"), masked(OpCode::Continuation, false, b"\x41")].concat();
    check_failing(ONE_BY_ONE, &begun, &events[..1], error, code);
    let cut = [masked(OpCode::Text, false, b"a\xF0"), masked(OpCode::Continuation, true, b"\x9F")].concat();
    check_failing(ONE_BY_ONE, &cut, &events[..1], error, code);
}

/// RFC 6455 5.4, 10.4: the same errors at the same bytes as for whole messages.
#[test]
fn refused_as_whole_messages_are() {
    let limits = MessageLimits { message_bytes_max: 10, fragments_max: 3, ..ONE_BY_ONE.limits };
    let script = Script { limits, ..ONE_BY_ONE };
    let begun = [masked(OpCode::Binary, false, "12345"), masked(OpCode::Continuation, false, "6789")].concat();
    let events = [
        fragment(MessageType::Binary, true, false, "12345"),
        fragment(MessageType::Binary, false, false, "6789"),
        fragment(MessageType::Binary, false, true, "0"),
    ];
    let whole = [begun.clone(), masked(OpCode::Continuation, true, "0")].concat();
    check(script, &whole.repeat(2), &[events.clone(), events.clone()].concat(), &[], State::Open);
    for (header, error, code) in [
        ("80 82 00000000", ProtocolError::MessageTooBig, CloseCode::MESSAGE_TOO_BIG),
        ("81", ProtocolError::MessageInterrupted, CloseCode::PROTOCOL_ERROR),
        ("02", ProtocolError::MessageInterrupted, CloseCode::PROTOCOL_ERROR),
    ] {
        check_failing(script, &[begun.clone(), hex(header)].concat(), &events[..2], error, code);
    }
    let third = [begun, masked(OpCode::Continuation, false, "")].concat();
    let seen = [&events[..2], &[fragment(MessageType::Binary, false, false, "")]].concat();
    let (error, code) = (ProtocolError::TooManyFragments, CloseCode::MESSAGE_TOO_BIG);
    check_failing(script, &[third, hex("80 80 00000000")].concat(), &seen, error, code);
    let nothing = ProtocolError::NothingToContinue;
    check_failing(script, &[whole, hex("80")].concat(), &events, nothing, CloseCode::PROTOCOL_ERROR);
}

/// A fragment waits in the input until it is whole. When it was delivered, only the length of its message is kept.
#[test]
fn nothing_is_kept() {
    let mut websocket = WebSocket::new(Role::Server, Tick(0));
    let mut input = Input::new(masked(OpCode::Binary, false, [1; 5000])[..].into());
    let event = websocket.receive(Tick(0), &mut input, &ONE_BY_ONE.limits, &mut Vec::new());
    assert!(matches!(event, Ok(Some(Event::Fragment(fragment))) if fragment.message_length() == 5000));
    assert_eq!(websocket.assembly.as_ref().unwrap().buffer_bytes(), 0);
    assert_eq!(websocket.message_length(), 5000);
}

/// A large fragment becomes a frame in its buffer; a small fragment is copied, and its buffer is free.
#[test]
fn prepared_in_place() {
    for (len, is_in_place) in [(LARGE_FRAME - 1, false), (LARGE_FRAME, true), (70_000, true)] {
        let payload = vec![b'x'; len];
        let stream = [masked(OpCode::Text, false, &payload), masked(OpCode::Continuation, true, &payload)].concat();
        let (mut websocket, mut input) = (WebSocket::new(Role::Server, Tick(0)), Input::new(stream[..].into()));
        for (opcode, fin) in [(OpCode::Text, false), (OpCode::Continuation, true)] {
            let event = websocket.receive(Tick(0), &mut input, &ONE_BY_ONE.limits, &mut Vec::new());
            let Ok(Some(Event::Fragment(fragment))) = event else { panic!("{event:?}") };
            let arrived_at = fragment.payload().as_ptr();
            let prepared = fragment.prepare();
            assert_eq!(prepared.payload().as_ptr() == arrived_at, is_in_place);
            let header = FrameHeader::new(opcode, fin.into(), len);
            assert_eq!(prepared.frames().collect::<Vec<_>>(), [(header, &payload[..])]);
        }
        assert!(input.rest().is_empty());
    }
}

/// How a message is delivered is decided when it begins.
#[test]
fn delivery_changed_on_the_way() {
    for (first, then, fragments) in
        [(Deliver::Messages, Deliver::Fragments, 0), (Deliver::Fragments, Deliver::Messages, 2)]
    {
        let mut websocket = WebSocket::new(Role::Server, Tick(0));
        let mut seen = 0;
        for (deliver, frame) in
            [(first, masked(OpCode::Text, false, "a")), (then, masked(OpCode::Continuation, true, "b"))]
        {
            let (limits, mut input) = (MessageLimits { deliver, ..LIMITS }, Input::new(frame[..].into()));
            while let Some(event) = websocket.receive(Tick(0), &mut input, &limits, &mut Vec::new()).unwrap() {
                match event {
                    Event::Message(message) => assert_eq!(message.payload(), b"ab"),
                    event => seen += usize::from(matches!(event, Event::Fragment(_))),
                }
            }
        }
        assert_eq!(seen, fragments);
    }
}
