use super::*;
use crate::proto::fuzz::{History, Script, Seen};
use crate::proto::testing::hex;
use crate::proto::{Deliver, LARGE_FRAME, MessageType, encode_frame, encode_masked};
use bytes::BytesMut;
use proptest::prelude::*;

mod endings;
mod fragments;
mod hook;
mod in_place;
mod keep_alive;
mod one_by_one;
mod utf8;

const SERVER: Script = Script { role: Role::Server, limits: LIMITS, close_at: None, hook: None };
const CLIENT: Script = Script { role: Role::Client { masking_seed: [7; 16] }, ..SERVER };
const LIMITS: MessageLimits = MessageLimits { fragments_max: 100, ..MessageLimits::DEFAULT };
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Returns a client's frame.
fn masked(opcode: OpCode, fin: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(opcode, fin.into(), payload.as_ref(), KEY, &mut frame);
    frame
}

/// Returns a server's frame.
fn unmasked(opcode: OpCode, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(opcode, Fin::Set, payload.as_ref(), &mut frame);
    frame
}

/// Lets the stream arrive whole, one byte at a time and in other pieces, which must all give the same history.
fn run(script: Script, stream: &[u8]) -> History {
    let history = script.run(stream, usize::MAX);
    for piece_bytes in [1, 2, 3, 7, 64, 1000] {
        if stream.len() / piece_bytes < 10_000 {
            assert_eq!(script.run(stream, piece_bytes), history, "in pieces of {piece_bytes}");
        }
    }
    for seed in 0..if stream.len() < 10_000 { 8 } else { 1 } {
        assert_eq!(script.run_at_random(stream, seed), history, "in pieces of seed {seed}");
    }
    history
}

fn check(script: Script, stream: &[u8], events: &[Seen], replies: &[u8], state: State) {
    let history = run(script, stream);
    assert_eq!((&history.events[..], &history.replies[..]), (events, replies));
    assert_eq!((history.error, history.state), (None, state));
}

/// Checks that the peer's bytes fail the connection (RFC 6455 7.1.7) after these events, with the error's close code,
/// and at the last byte.
fn check_failing(script: Script, stream: &[u8], events: &[Seen], error: ProtocolError, code: CloseCode) {
    let history = run(script, stream);
    assert_eq!((history.error, history.state, &history.events[..]), (Some(error), State::Closed, events));
    assert_eq!(error.close_code(), code);
    if script.role == Role::Server {
        let (header, header_len) = FrameHeader::decode(&history.replies).unwrap().unwrap();
        let close = CloseFrame::parse(&history.replies[header_len..]).unwrap();
        assert_eq!(
            (header.opcode, close.code, close.reason),
            (OpCode::Close, Some(code), &*error.reason(&script.limits))
        );
    }
    assert_eq!(script.run(&stream[..stream.len() - 1], usize::MAX).error, None, "not a byte later than it shows");
    assert_eq!(run(script, &[stream, &masked(OpCode::Ping, true, "")].concat()), history, "the rest is ignored");
}

fn text(text: &str) -> Seen {
    Seen::Text(text.into())
}

/// RFC 6455 5.7. Examples, as a server receives them.
#[test]
fn examples_from_a_client() {
    check(SERVER, &hex("81 85 37fa213d 7f9f4d5158"), &[text("Hello")], &[], State::Open);
    let pong = hex("8a 85 37fa213d 7f9f4d5158");
    check(SERVER, &pong, &[Seen::Pong(b"Hello".into())], &[], State::Open);
    let ping = hex("89 85 37fa213d 7f9f4d5158");
    check(SERVER, &ping, &[Seen::Ping(b"Hello".into())], &hex("8a 05 48656c6c6f"), State::Open);
}

/// RFC 6455 5.7. Examples, as a client receives them.
#[test]
fn examples_from_a_server() {
    check(CLIENT, &hex("81 05 48656c6c6f"), &[text("Hello")], &[], State::Open);
    check(CLIENT, &hex("01 03 48656c 80 02 6c6f"), &[text("Hello")], &[], State::Open);
    for len in [256, 65536] {
        check(CLIENT, &unmasked(OpCode::Binary, vec![7; len]), &[Seen::Binary(vec![7; len])], &[], State::Open);
    }
}

/// RFC 6455 5.1: a client masks every frame, a server none.
#[test]
fn masking_by_role() {
    check_failing(SERVER, &hex("81 05"), &[], ProtocolError::MaskMissing, CloseCode::PROTOCOL_ERROR);
    check_failing(SERVER, &hex("88 00"), &[], ProtocolError::MaskMissing, CloseCode::PROTOCOL_ERROR);
    check_failing(CLIENT, &hex("81 85"), &[], ProtocolError::MaskUnexpected, CloseCode::PROTOCOL_ERROR);
}

/// RFC 6455 5.3: a client masks what it answers, each frame with a new key.
#[test]
fn a_client_masks_its_replies() {
    let pings = [unmasked(OpCode::Ping, "one"), unmasked(OpCode::Ping, "two"), unmasked(OpCode::Close, hex("03e8"))];
    let history = run(CLIENT, &pings.concat());
    let answered = SERVER.run(&history.replies, usize::MAX).events;
    let expected = [Seen::Pong(b"one".into()), Seen::Pong(b"two".into()), Seen::Close(Some(1000), String::new())];
    assert_eq!(answered, expected);
    assert_ne!(history.replies[2..6], history.replies[11..15], "two keys");
}

/// RFC 6455 5.2: RSV bits without an extension.
#[test]
fn reserved_bits() {
    for first in ["c1", "a1", "91", "c0", "b2", "f8", "99", "aa"] {
        check_failing(SERVER, &hex(first), &[], ProtocolError::ReservedBits, CloseCode::PROTOCOL_ERROR);
    }
}

/// RFC 6455 5.2: reserved opcodes.
#[test]
fn reserved_opcodes() {
    for opcode in (3..=7).chain(11..=15) {
        let (hello, error) = (masked(OpCode::Text, true, "Hello"), ProtocolError::ReservedOpCode(opcode));
        check_failing(SERVER, &[0x80 | opcode], &[], error, CloseCode::PROTOCOL_ERROR);
        check_failing(SERVER, &[&hello[..], &[opcode]].concat(), &[text("Hello")], error, CloseCode::PROTOCOL_ERROR);
    }
}

/// RFC 6455 5.5: control frames are neither fragmented nor longer than 125 bytes.
#[test]
fn control_frames() {
    for opcode in [8, 9, 10] {
        check_failing(SERVER, &[opcode], &[], ProtocolError::FragmentedControl, CloseCode::PROTOCOL_ERROR);
        check_failing(SERVER, &[0x80 | opcode, 0xFE], &[], ProtocolError::ControlTooLong, CloseCode::PROTOCOL_ERROR);
    }
    let (ping, pong) = (masked(OpCode::Ping, true, [0xFE; 125]), unmasked(OpCode::Pong, [0xFE; 125]));
    check(SERVER, &ping, &[Seen::Ping(vec![0xFE; 125])], &pong, State::Open);
}

/// RFC 6455 5.2: lengths in their shortest form, below 2^63.
#[test]
fn lengths() {
    for (stream, error) in [
        ("82 fe 007d", ProtocolError::LengthNotMinimal),
        ("82 ff 000000000000", ProtocolError::LengthNotMinimal),
        ("82 ff 80", ProtocolError::LengthTooLarge),
    ] {
        check_failing(SERVER, &hex(stream), &[], error, CloseCode::PROTOCOL_ERROR);
    }
}

/// RFC 6455 5.5.2: an endpoint MUST send a pong in response to a ping, in order.
#[test]
fn pings_in_a_row() {
    let (pings, pongs): (Vec<_>, Vec<_>) =
        (0..10).map(|i| (masked(OpCode::Ping, true, [i]), unmasked(OpCode::Pong, [i]))).unzip();
    let events: Vec<_> = (0..10).map(|i| Seen::Ping(vec![i])).collect();
    check(SERVER, &pings.concat(), &events, &pongs.concat(), State::Open);
}

/// RFC 6455 10.4: a limit is reached by the header, not by the payload after it.
#[test]
fn limits_of_a_frame() {
    let check_header = |limits, payload_len: usize, error| {
        let script = Script { limits, ..SERVER };
        for opcode in [OpCode::Text, OpCode::Binary] {
            let frame = masked(opcode, true, vec![b'x'; payload_len]);
            let header = &frame[..frame.len() - payload_len];
            check_failing(script, header, &[], error, CloseCode::MESSAGE_TOO_BIG);
            let whole = masked(opcode, true, vec![b'x'; payload_len - 1]);
            assert_eq!(script.run(&whole, usize::MAX).events.len(), 1, "at the limit");
        }
    };
    check_header(MessageLimits { frame_bytes_max: 99, ..LIMITS }, 100, ProtocolError::FrameTooBig);
    check_header(MessageLimits { message_bytes_max: 99, ..LIMITS }, 100, ProtocolError::MessageTooBig);
    check_header(MessageLimits { frame_bytes_max: 70_000, ..LIMITS }, 70_001, ProtocolError::FrameTooBig);
    let huge = hex("82 ff 7fffffffffffffff 37fa213d");
    check_failing(SERVER, &huge, &[], ProtocolError::FrameTooBig, CloseCode::MESSAGE_TOO_BIG);
    let limits = MessageLimits { frame_bytes_max: 5, message_bytes_max: 5, fragments_max: 1, ..LIMITS };
    let whole = Script { limits, ..SERVER };
    let stream = [masked(OpCode::Ping, true, [0; 125]), masked(OpCode::Text, true, "Hello")].concat();
    assert_eq!(run(whole, &stream).error, None, "control frames have their own limit");
}

/// RFC 6455 5.5.1, 7.1.5: the answer to a close frame echoes its code; what follows is ignored.
#[test]
fn the_peer_closes() {
    let (event, after) = (|code, reason: &str| [Seen::Close(code, reason.into())], masked(OpCode::Text, true, "late"));
    for (payload, event, reply) in [
        (hex(""), event(None, ""), hex("88 00")),
        (hex("03e8"), event(Some(1000), ""), hex("88 02 03e8")),
        (hex("03e9 627965"), event(Some(1001), "bye"), hex("88 02 03e9")),
        (hex("1387"), event(Some(4999), ""), hex("88 02 1387")),
    ] {
        let close = masked(OpCode::Close, true, payload);
        check(SERVER, &close, &event, &reply, State::Closed);
        check(SERVER, &[close, after.clone()].concat(), &event, &reply, State::Closed);
    }
}

/// RFC 6455 7.4, 5.5.1: close frames that are themselves wrong.
#[test]
fn the_peer_closes_wrongly() {
    let frame = |payload: &str| masked(OpCode::Close, true, hex(payload));
    check_failing(SERVER, &frame("03"), &[], ProtocolError::CloseTooShort, CloseCode::PROTOCOL_ERROR);
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        let close = masked(OpCode::Close, true, u16::to_be_bytes(code));
        check_failing(SERVER, &close, &[], ProtocolError::CloseCodeInvalid(code), CloseCode::PROTOCOL_ERROR);
    }
    let error = ProtocolError::CloseReasonNotUtf8;
    check_failing(SERVER, &frame("03e8 cebae1bdb9cf83ceedaf"), &[], error, CloseCode::INVALID_PAYLOAD);
    check_failing(SERVER, &frame("03e8 c3"), &[], error, CloseCode::INVALID_PAYLOAD);
}

/// RFC 6455 5.5.1: after our close frame we send nothing, and wait for the peer's.
#[test]
fn we_close() {
    let frames = [
        masked(OpCode::Text, true, "one"),
        masked(OpCode::Ping, true, "two"),
        masked(OpCode::Binary, false, "three"),
        masked(OpCode::Pong, true, "four"),
        masked(OpCode::Continuation, true, "five"),
        masked(OpCode::Text, true, b"\xFF not looked at"),
        masked(OpCode::Close, true, hex("03e9 6f6b")),
        masked(OpCode::Text, true, "late"),
    ];
    let stream = frames.concat();
    let (whole, closed) = (run(SERVER, &stream[..frames[..5].concat().len()]), Seen::Close(Some(1001), "ok".into()));
    for close_at in 0..=frames[..5].concat().len() + 6 {
        let history = run(Script { close_at: Some(close_at), ..SERVER }, &stream);
        let (last, before) = history.events.split_last().unwrap();
        assert_eq!((last, &history.error, history.state), (&closed, &None, State::Closed), "closed at {close_at}");
        assert!(whole.events.starts_with(before), "closed at {close_at}");
        assert!(history.replies.ends_with(&hex("88 02 03e9")));
    }
    check(Script { close_at: Some(0), ..SERVER }, &frames[0], &[], &hex("88 02 03e9"), State::Closing);
}

/// RFC 6455 7.1.7: an error after our close frame sends no second one.
#[test]
fn an_error_while_closing() {
    let script = Script { close_at: Some(0), ..SERVER };
    for (stream, error) in [
        (hex("c1"), ProtocolError::ReservedBits),
        (hex("88 81 00000000 03"), ProtocolError::CloseTooShort),
        (hex("82 ff 0000000000200000 00000000"), ProtocolError::FrameTooBig),
    ] {
        let history = run(script, &stream);
        assert_eq!((history.error, history.state), (Some(error), State::Closed));
        assert_eq!(history.replies, hex("88 02 03e9"));
    }
}

/// RFC 6455 7.1.2, 7.1.5: our close frame, and the close code as it is known on the way.
#[test]
fn close_codes() {
    let (mut websocket, mut replies) = (WebSocket::new(Role::Server, Tick(0)), Vec::new());
    assert_eq!((websocket.state(), websocket.close_code()), (State::Open, CloseCode::ABNORMAL));
    websocket.close(Tick(1), CloseCode::NO_STATUS, "ignored", &mut replies);
    websocket.close(Tick(1), CloseCode::NORMAL, "too late", &mut replies);
    assert!(!websocket.send(OpCode::Text, Fin::Set, b"too late", &mut replies));
    assert_eq!((websocket.state(), &replies[..]), (State::Closing, &hex("88 00")[..]));
    let mut input =
        Input::new([masked(OpCode::Close, true, hex("03e8")), masked(OpCode::Text, true, "")].concat()[..].into());
    assert!(matches!(websocket.receive(Tick(2), &mut input, &LIMITS, &mut replies), Ok(Some(Event::Close(_)))));
    assert!(input.rest().is_empty(), "what follows a close frame is ignored");
    assert_eq!((websocket.state(), websocket.close_code(), replies.len()), (State::Closed, CloseCode::NORMAL, 2));
}

#[test]
#[should_panic(expected = "must not be sent")]
fn we_send_no_reserved_close_code() {
    WebSocket::new(Role::Server, Tick(0)).close(Tick(0), CloseCode::ABNORMAL, "", &mut Vec::new());
}

/// The text of a message can be read, however the message has come.
#[test]
fn messages_as_text() {
    for (stream, expected) in [
        (masked(OpCode::Text, true, "Hello"), Some("Hello")),
        ([masked(OpCode::Text, false, "Hel"), masked(OpCode::Continuation, true, "lo")].concat(), Some("Hello")),
        (masked(OpCode::Binary, true, "Hello"), None),
    ] {
        let (mut websocket, mut input) = (WebSocket::new(Role::Server, Tick(0)), Input::new(stream[..].into()));
        let event = websocket.receive(Tick(0), &mut input, &LIMITS, &mut Vec::new());
        let Ok(Some(Event::Message(message))) = event else { panic!("{event:?}") };
        assert_eq!(message.as_text(), expected);
        assert_eq!(message.prepare().as_text(), expected);
    }
}

/// A server receives the frames that a client sends.
#[test]
fn sending() {
    let (mut client, mut out) = (WebSocket::new(CLIENT.role, Tick(0)), Vec::new());
    assert!(client.send(OpCode::Text, Fin::Unset, b"Hel", &mut out));
    assert!(client.send(OpCode::Ping, Fin::Set, b"?", &mut out));
    assert!(client.send(OpCode::Continuation, Fin::Set, b"lo", &mut out));
    check(SERVER, &out, &[Seen::Ping(b"?".into()), text("Hello")], &hex("8a 01 3f"), State::Open);
}

/// Until the header is whole only its missing bytes are known, and then those of the whole frame.
#[test]
fn missing_bytes() {
    let websocket = WebSocket::new(Role::Server, Tick(0));
    let frame = masked(OpCode::Binary, true, [0; 300]);
    for (received, missing) in [(0, 0), (1, 1), (2, 6), (7, 1), (8, 300), (307, 1), (308, 0), (1000, 0)] {
        let front = [&frame[..], &[0; 1000]].concat();
        assert_eq!(websocket.missing(&front[..received]), missing, "{received} received");
    }
}

/// A short frame that has come whole is handled in one step, and in several steps if it comes in pieces.
#[test]
fn short_frames_at_their_limits() {
    for length in [0, 1, 63, 125, 126, 127, front::BLOCK - 1, front::BLOCK, front::BLOCK + 1] {
        let (ascii, bytes) = ("a".repeat(length), vec![0xFF; length]);
        let limits = |frame: usize, message: usize| MessageLimits {
            frame_bytes_max: frame as u32,
            message_bytes_max: message as u32,
            ..LIMITS
        };
        let stream = [masked(OpCode::Text, true, &ascii), masked(OpCode::Binary, true, &bytes)].concat();
        let script = Script { limits: limits(length, length), ..SERVER };
        check(script, &stream, &[text(&ascii), Seen::Binary(bytes.clone())], &[], State::Open);
        let error = |limits, opcode| run(Script { limits, ..SERVER }, &masked(opcode, true, &bytes)).error;
        if length > 0 {
            assert_eq!(error(limits(length, length), OpCode::Text), Some(ProtocolError::InvalidUtf8));
            assert_eq!(error(limits(length - 1, length), OpCode::Binary), Some(ProtocolError::FrameTooBig));
            assert_eq!(error(limits(length, length - 1), OpCode::Binary), Some(ProtocolError::MessageTooBig));
        }
        let unchecked = MessageLimits { checks_utf8: false, ..limits(length, length) };
        assert_eq!(error(unchecked, OpCode::Text), None);
        let none = MessageLimits { fragments_max: 0, ..limits(length, length) };
        assert_eq!(error(none, OpCode::Binary), Some(ProtocolError::TooManyFragments));
    }
}
