//! Frames judged one by one before the protocol acts on them (RFC 6455 5.4, 5.5, 7.1.7)

use super::*;

const HOOKED: Script = Script { hook: Some(by_mark), ..SERVER };
const ONE_BY_ONE: Script = Script { limits: MessageLimits { deliver: Deliver::Fragments, ..LIMITS }, ..HOOKED };

fn by_mark(_: &FrameHeader, payload: &[u8]) -> Verdict {
    match payload.first() {
        Some(b'-') => Verdict::Drop,
        Some(b'!') => Verdict::Fail(CloseCode(4000)),
        _ => Verdict::Pass,
    }
}

/// Returns a text message in these fragments.
fn in_fragments(parts: &[&str]) -> Vec<u8> {
    let opcode = |i| if i == 0 { OpCode::Text } else { OpCode::Continuation };
    parts.iter().enumerate().flat_map(|(i, part)| masked(opcode(i), i + 1 == parts.len(), part)).collect()
}

fn last(payload: &str) -> Seen {
    Seen::Fragment(MessageType::Text, false, true, payload.into())
}

/// The hook sees each frame once, in order and unmasked, whatever its verdict is and however the frame arrives.
#[test]
fn every_frame_is_shown() {
    let frames = [
        (OpCode::Text, true, "one"),
        (OpCode::Ping, true, ""),
        (OpCode::Binary, false, "-"),
        (OpCode::Pong, true, "-two"),
        (OpCode::Continuation, true, "three"),
        (OpCode::Close, true, ""),
        (OpCode::Text, true, "late"),
    ];
    let stream: Vec<u8> = frames.iter().flat_map(|(opcode, fin, payload)| masked(*opcode, *fin, payload)).collect();
    for script in [HOOKED, ONE_BY_ONE] {
        let shown: Vec<_> = frames[..6].iter().map(|(opcode, fin, p)| (*opcode, *fin, p.as_bytes().to_vec())).collect();
        assert_eq!(run(script, &stream).frames, shown);
    }
}

/// "As if the frame had not come": no pong, no event, no message.
#[test]
fn dropped_frames() {
    for frame in [masked(OpCode::Ping, true, "-"), masked(OpCode::Pong, true, "-"), masked(OpCode::Text, true, "-a")] {
        let stream = [frame.clone(), masked(OpCode::Text, true, "b"), frame].concat();
        check(HOOKED, &stream, &[text("b")], &[], State::Open);
    }
    let deaf = Script { hook: Some(|header, _| close_is(header, Verdict::Drop)), ..SERVER };
    let stream = [masked(OpCode::Close, true, hex("03e8")), masked(OpCode::Text, true, "a")].concat();
    check(deaf, &stream, &[text("a")], &[], State::Open);
    let history = run(Script { close_at: Some(0), ..deaf }, &stream);
    assert_eq!((history.events.len(), history.state), (0, State::Closing), "the answer to ours");
}

fn close_is(header: &FrameHeader, verdict: Verdict) -> Verdict {
    if header.opcode == OpCode::Close { verdict } else { Verdict::Pass }
}

/// The payload of a fragment is dropped and the message goes on, whichever fragment it is.
#[test]
fn dropped_fragments() {
    for (parts, message) in [
        (&["-a", "b", "c"][..], Some("bc")),
        (&["a", "-b", "c"], Some("ac")),
        (&["a", "b", "-c"], Some("ab")),
        (&["-a", "-b", "c"], Some("c")),
        (&["-a", "b", "-c"], Some("b")),
        (&["", "-b"], Some("")),
        (&["-a", "-b", "-c"], None),
    ] {
        let events: Vec<_> = message.into_iter().map(text).chain([text("after")]).collect();
        let stream = [in_fragments(parts), masked(OpCode::Text, true, "after")].concat();
        check(HOOKED, &stream, &events, &[], State::Open);
    }
}

/// Delivered one by one, the remaining fragments still have one first and one last fragment.
#[test]
fn dropped_fragments_one_by_one() {
    let part = |is_first, payload: &str| Seen::Fragment(MessageType::Text, is_first, false, payload.into());
    for (parts, events) in [
        (&["-a", "b", "c"][..], &[part(true, "b"), last("c")][..]),
        (&["a", "-b", "c"], &[part(true, "a"), last("c")]),
        (&["a", "b", "-c"], &[part(true, "a"), part(false, "b"), last("")]),
        (&["-a", "-b", "c"], &[Seen::Fragment(MessageType::Text, true, true, "c".into())]),
        (&["-a", "-b", "-c"], &[]),
    ] {
        check(ONE_BY_ONE, &in_fragments(parts), events, &[], State::Open);
    }
}

/// RFC 6455 5.4: the order of fragments is that of the received frames, and so is their number (10.4).
#[test]
fn dropped_fragments_keep_their_place() {
    let dropped = masked(OpCode::Text, false, "-a");
    let interrupted = [dropped.clone(), hex("81")].concat();
    let (error, code) = (ProtocolError::MessageInterrupted, CloseCode::PROTOCOL_ERROR);
    check_failing(HOOKED, &interrupted, &[], error, code);
    let ended = [in_fragments(&["-a", "-b"]), hex("80")].concat();
    check_failing(HOOKED, &ended, &[], ProtocolError::NothingToContinue, CloseCode::PROTOCOL_ERROR);

    let few = Script { limits: MessageLimits { fragments_max: 2, message_bytes_max: 2, ..LIMITS }, ..HOOKED };
    check(few, &in_fragments(&["-a", "ab"]), &[text("ab")], &[], State::Open);
    let third = [dropped, masked(OpCode::Continuation, false, "-b"), hex("80 81 00000000")].concat();
    check_failing(few, &third, &[], ProtocolError::TooManyFragments, CloseCode::MESSAGE_TOO_BIG);
}

/// RFC 6455 8.1: text must be UTF-8 without the dropped payloads, and a dropped payload need not be UTF-8.
#[test]
fn dropped_text() {
    let frame = |opcode, fin, payload: &[u8]| masked(opcode, fin, payload);
    let (error, code) = (ProtocolError::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
    for script in [HOOKED, ONE_BY_ONE] {
        let bad = [
            frame(OpCode::Text, false, b"a"),
            frame(OpCode::Continuation, false, b"-\xFF"),
            frame(OpCode::Continuation, true, b"b"),
            frame(OpCode::Text, true, b"-\xC3"),
        ];
        assert_eq!(run(script, &bad.concat()).error, None);
        let cut = [frame(OpCode::Text, false, b"a\xC3"), frame(OpCode::Continuation, true, b"-\xA9")].concat();
        assert_eq!(run(script, &cut).error, Some(error));
        check_failing(script, &frame(OpCode::Text, true, b"a\xC3"), &[], error, code);
        check_failing(script, &frame(OpCode::Text, false, b"a\xFF"), &[], error, code);
    }
}

/// RFC 6455 7.1.7: the hook's code goes out, and nothing comes in after it.
#[test]
fn refused_frames() {
    let code = CloseCode(4000);
    for script in [HOOKED, ONE_BY_ONE] {
        for frame in [
            masked(OpCode::Text, true, "!"),
            masked(OpCode::Binary, false, "!"),
            masked(OpCode::Ping, true, "!"),
            masked(OpCode::Pong, true, "!"),
        ] {
            check_failing(script, &frame, &[], ProtocolError::Refused(code), code);
        }
    }
    let on_close = Script { hook: Some(|header, _| close_is(header, Verdict::Fail(CloseCode(4000)))), ..SERVER };
    let close = masked(OpCode::Close, true, hex("03e8"));
    check_failing(on_close, &close, &[], ProtocolError::Refused(code), code);
    let history = run(Script { close_at: Some(0), ..on_close }, &close);
    assert_eq!((history.error, &history.replies[..]), (Some(ProtocolError::Refused(code)), &hex("88 02 03e9")[..]));

    let without_code = Script { hook: Some(|_, _| Verdict::Fail(CloseCode::NO_STATUS)), ..SERVER };
    assert_eq!(run(without_code, &masked(OpCode::Ping, true, "")).replies, hex("88 00"));
}

#[test]
#[should_panic(expected = "close code 1006 must not be sent")]
fn a_hook_sends_no_reserved_close_code() {
    Script { hook: Some(|_, _| Verdict::Fail(CloseCode::ABNORMAL)), ..SERVER }.run(&masked(OpCode::Ping, true, ""), 99);
}

/// RFC 6455 5.1, 5.2, 5.4, 10.4: an error in a header is found before the hook is called.
#[test]
fn the_protocol_comes_first() {
    let limits = MessageLimits { frame_bytes_max: 9, message_bytes_max: 8, ..LIMITS };
    for (header, error) in [
        ("c1", ProtocolError::ReservedBits),
        ("83", ProtocolError::ReservedOpCode(3)),
        ("81 01", ProtocolError::MaskMissing),
        ("80", ProtocolError::NothingToContinue),
        ("82 8a 00000000", ProtocolError::FrameTooBig),
        ("82 89 00000000", ProtocolError::MessageTooBig),
        ("02 89 00000000", ProtocolError::MessageTooBig),
    ] {
        let history = run(Script { limits, ..HOOKED }, &hex(header));
        assert_eq!((history.error, history.frames.len()), (Some(error), 0));
    }
}

/// RFC 6455 5.5.1: after our close frame the hook sees only the peer's close frame.
#[test]
fn a_hook_while_closing() {
    let frames = [
        masked(OpCode::Text, true, "!"),
        masked(OpCode::Ping, true, "!"),
        masked(OpCode::Binary, false, "!"),
        masked(OpCode::Close, true, hex("03e8")),
    ];
    let history = run(Script { close_at: Some(0), ..HOOKED }, &frames.concat());
    assert_eq!(history.frames, [(OpCode::Close, true, hex("03e8"))]);
    assert_eq!((history.error, history.state), (None, State::Closed));
}

/// A dropped frame is a sign of life too.
#[test]
fn dropped_frames_are_life() {
    let mut websocket = WebSocket::new(Role::Server, Tick(0));
    let keep_alive = KeepAlive::default();
    websocket.handle_timeout(Tick(300), &keep_alive, b"", &mut Vec::new());
    let mut input = Input::new(masked(OpCode::Pong, true, "")[..].into());
    let event = websocket.receive_with(Tick(310), &mut input, &LIMITS, &mut Vec::new(), |_, _| Verdict::Drop);
    assert!(matches!(event, Ok(None)));
    assert_eq!(websocket.deadline(&keep_alive), Some(Tick(610)));
}

proptest! {
    /// A stream with dropped frames has the events of the stream without them. A dropped fragment counts as an empty
    /// one.
    #[test]
    fn as_if_it_had_not_come(
        messages in prop::collection::vec((prop::collection::vec("-?\\PC{0,20}", 1..5), "-?x{0,3}"), 0..6),
        seed: u8,
    ) {
        let (mut stream, mut without) = (Vec::new(), Vec::new());
        let kept = |part: &str| !part.starts_with('-');
        for (parts, ping) in &messages {
            stream.extend(masked(OpCode::Ping, true, ping));
            if kept(ping) {
                without.extend(masked(OpCode::Ping, true, ping));
            }
            let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.starts_with('!')).collect();
            stream.extend(in_fragments(&parts));
            if parts.iter().any(|part| kept(part)) {
                let left: Vec<&str> = parts.iter().map(|part| if kept(part) { *part } else { "" }).collect();
                without.extend(in_fragments(&left));
            }
        }
        let (judged, plain) = (HOOKED.run_at_random(&stream, seed), SERVER.run(&without, usize::MAX));
        prop_assert_eq!((judged.events, judged.replies, judged.error), (plain.events, plain.replies, plain.error));
    }
}
