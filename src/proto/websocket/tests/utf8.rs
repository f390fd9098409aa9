//! RFC 6455 8.1. Handling of Errors in UTF-8-Encoded Data

use super::super::front::BLOCK;
use super::*;

/// Valid and invalid text, as one frame and in fragments. Invalid text is refused at the first octet that no further
/// octets can make valid.
#[test]
fn text_that_is_not_utf8() {
    let bad = |bytes: &str| (hex(bytes), Some(ProtocolError::InvalidUtf8));
    let good = |text: &str| (text.as_bytes().to_vec(), None);
    for (payload, error) in [
        good("κόσμε"),
        good("Hello-µ@ßöäüàá-UTF-8!!"),
        good("\u{10FFFF}\u{0}\u{FFFF}\u{D7FF}\u{E000}"),
        bad("cebae1bdb9cf83cebcceb5 eda080 656469746564"), // a surrogate, Autobahn 6.3.1
        bad("cebae1bdb9cf83cebcceb5 f4908080 656469746564"), // above U+10FFFF, Autobahn 6.4.1
        bad("c080"),
        bad("e08080"),
        bad("f08080af"),
        bad("fe"),
        bad("80"),
        bad("f8888080"),
    ] {
        assert_eq!(naive_error_at(&payload).is_some(), error.is_some());
        check_text(&payload, &[payload.len()]);
        for cut in 0..payload.len() {
            check_text(&payload, &[cut, payload.len() - cut]);
        }
        check_text(&payload, &vec![1; payload.len()]);
    }
}

/// A message must not end inside a character.
#[test]
fn text_that_ends_too_early() {
    let error = ProtocolError::InvalidUtf8;
    for payload in ["ce", "e1bd", "f09f92", "6161 c3"] {
        let frame = masked(OpCode::Text, true, hex(payload));
        check_failing(SERVER, &frame, &[], error, CloseCode::INVALID_PAYLOAD);
        let fragments = [masked(OpCode::Text, false, hex(payload)), masked(OpCode::Continuation, true, "")].concat();
        check_failing(SERVER, &fragments, &[], error, CloseCode::INVALID_PAYLOAD);
    }
}

/// The text is long enough for SIMD. The bad octet stands at many places, one after the other.
#[test]
fn a_bad_octet_in_a_long_text() {
    for at in (0..300).step_by(7) {
        let mut payload = "añ€😀".repeat(30).into_bytes();
        payload[at] = 0xFF;
        check_text(&payload, &[300]);
        check_text(&payload, &[100, 101, 99]);
    }
}

/// Binary data is not checked.
#[test]
fn binary_that_is_not_utf8() {
    check(SERVER, &masked(OpCode::Binary, true, [0xFF; 9]), &[Seen::Binary(vec![0xFF; 9])], &[], State::Open);
    let fragments = [masked(OpCode::Binary, false, [0xFF; 5]), masked(OpCode::Continuation, true, [0xC0; 4])].concat();
    assert_eq!(run(SERVER, &fragments).error, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Compares the streaming check with the naive check. Up to two octets of the text are replaced, and the
    /// fragments have any lengths.
    #[test]
    fn as_the_naive_check(text in "\\PC{0,40}", flaws: Vec<(prop::sample::Index, u8)>, cuts: [prop::sample::Index; 3]) {
        let mut payload = text.into_bytes();
        for (at, octet) in flaws.iter().take(2).filter(|_| !payload.is_empty()).collect::<Vec<_>>() {
            let at = at.index(payload.len());
            payload[at] = *octet;
        }
        let mut cuts = cuts.map(|cut| cut.index(payload.len() + 1));
        cuts.sort();
        check_text(&payload, &[cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], payload.len() - cuts[2]]);
    }
}

/// Without the check a text may be any bytes. The reason of a close must be UTF-8 even then (RFC 6455 5.5.1).
#[test]
fn text_that_nobody_checks() {
    let script = Script { limits: MessageLimits { checks_utf8: false, ..LIMITS }, ..SERVER };
    let bad = b"a\xFFb\xC3";
    for script in [script, Script { hook: Some(|_, _| Verdict::Pass), ..script }] {
        check(script, &masked(OpCode::Text, true, bad), &[Seen::Unchecked(bad.into())], &[], State::Open);
        let fragments = [masked(OpCode::Text, false, bad), masked(OpCode::Continuation, true, bad)].concat();
        check(script, &fragments, &[Seen::Unchecked(bad.repeat(2))], &[], State::Open);
        let limits = MessageLimits { deliver: Deliver::Fragments, ..script.limits };
        assert_eq!(run(Script { limits, ..script }, &fragments).error, None);
        let close = masked(OpCode::Close, true, hex("03e8 c3"));
        let (error, code) = (ProtocolError::CloseReasonNotUtf8, CloseCode::INVALID_PAYLOAD);
        check_failing(script, &close, &[], error, code);
    }
}

/// Checks that a text in fragments of these lengths is received if the text is UTF-8. Checks that any other text is
/// refused at the octet that the naive check names. Both must hold if fragments are assembled, and if fragments are
/// delivered one by one. With a hook the text is refused only when the whole frame with that octet has arrived.
fn check_text(payload: &[u8], fragments: &[usize]) {
    let (mut stream, mut at, mut arrived_with) = (Vec::new(), 0, Vec::new());
    for (i, &len) in fragments.iter().enumerate() {
        let opcode = if i == 0 { OpCode::Text } else { OpCode::Continuation };
        let frame = masked(opcode, i + 1 == fragments.len(), &payload[at..at + len]);
        arrived_with.extend((1..=len).map(|octet| stream.len() + frame.len() - len + octet));
        stream.extend(frame);
        at += len;
    }
    assert_eq!(at, payload.len());
    let error = naive_error_at(payload).map(|_| ProtocolError::InvalidUtf8);
    let one_by_one = Script { limits: MessageLimits { deliver: Deliver::Fragments, ..LIMITS }, ..SERVER };
    for script in [SERVER, one_by_one] {
        assert_eq!(run(Script { hook: Some(|_, _| Verdict::Pass), ..script }, &stream).error, error);
    }
    assert_eq!(run(one_by_one, &stream).error, error);
    if let Some(bad) = naive_error_at(payload).filter(|&bad| bad < payload.len()) {
        assert_eq!(run(one_by_one, &stream[..arrived_with[bad]]).error, error);
        assert_eq!(run(one_by_one, &stream[..arrived_with[bad] - 1]).error, None, "the octet before is not refused");
    }
    match naive_error_at(payload) {
        None => check(SERVER, &stream, &[text(str::from_utf8(payload).unwrap())], &[], State::Open),
        Some(bad) if bad == payload.len() => assert_eq!(run(SERVER, &stream).error, Some(ProtocolError::InvalidUtf8)),
        Some(bad) => {
            // The text is refused at this octet, even if the octet is the last one of the message.
            let stream = &stream[..arrived_with[bad]];
            check_failing(SERVER, stream, &[], ProtocolError::InvalidUtf8, CloseCode::INVALID_PAYLOAD);
        }
    }
}

/// Returns the index of the first octet that no further octets can make valid. Returns the length of the text if only
/// the end of a character is missing, and `None` if the text is UTF-8.
fn naive_error_at(payload: &[u8]) -> Option<usize> {
    let wrong = |len: &usize| str::from_utf8(&payload[..*len]).is_err_and(|error| error.error_len().is_some());
    let bad = (1..=payload.len()).find(wrong).map(|len| len - 1);
    bad.or_else(|| str::from_utf8(payload).is_err().then_some(payload.len()))
}

/// A long text is unmasked and checked in blocks, and its characters may lie across their borders.
#[test]
fn characters_at_the_borders_of_blocks() {
    for before in BLOCK - 4..=BLOCK {
        let good = format!("{}€{}", "a".repeat(before), "b".repeat(BLOCK));
        check(SERVER, &masked(OpCode::Text, true, &good), &[text(&good)], &[], State::Open);
        // The character's second byte is missing.
        let mut bad = good.into_bytes();
        bad.remove(before + 1);
        let error = error_of(&masked(OpCode::Text, true, &bad));
        assert_eq!(error, Some(ProtocolError::InvalidUtf8), "after {before} bytes");
    }
    let cut = [&vec![b'a'; 2 * BLOCK - 1][..], &[0xC3]].concat();
    assert_eq!(error_of(&masked(OpCode::Text, true, cut)), Some(ProtocolError::InvalidUtf8), "at the end");
}

fn error_of(stream: &[u8]) -> Option<ProtocolError> {
    run(SERVER, stream).error
}
