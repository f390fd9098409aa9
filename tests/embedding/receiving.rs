//! A handler's calls for what its client sends, with the cases of Kore's `onmessage`, Qore's frame hook and Ioto's five
//! events.

use ringhub::{
    handler::RouteOptions,
    proto::{CloseCode, Deliver, MessageLimits, OpCode, Verdict},
};

use crate::{
    Script, serve,
    support::{binary, frame, text},
};

#[test]
fn kore_messages_come_with_their_opcode() {
    let (script, journal) = Script::<()>::new();
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    client.send_text("é");
    client.send_binary(b"b");
    client.send(OpCode::Text, false, b"in ");
    client.send(OpCode::Ping, true, b"p");
    client.expect(crate::support::Received::Pong(b"p".to_vec()));
    client.send(OpCode::Continuation, true, b"two");
    client.send(OpCode::Pong, true, b"q");
    client.leave();
    let expected = ["open", "text é", "binary b", "ping p", "text in two", "pong q", r#"close 1000 "bye" clean"#];
    journal.expect_at_the_end(server, &expected);
}

#[test]
fn ioto_partial_messages_arrive_as_fragments() {
    let (script, journal) = Script::<()>::new();
    let options = RouteOptions::new().deliver(Deliver::Fragments);
    let server = serve(1, |builder| builder.route_with("/", script, options));
    let mut client = server.connect("/");
    client.send(OpCode::Text, false, b"a");
    journal.expect(&["open", "first fragment a"]);
    client.send(OpCode::Continuation, false, b"b");
    journal.expect(&["next fragment b"]);
    client.send(OpCode::Continuation, true, b"c");
    client.send_text("whole");
    client.leave();
    journal.expect_at_the_end(server, &["last fragment c", "only fragment whole", r#"close 1000 "bye" clean"#]);
}

#[test]
fn ioto_the_length_so_far_of_a_message_under_way() {
    let (script, _) = Script::<()>::new();
    let script = script.on_ping(|connection| _ = connection.send_text(connection.message_length().to_string()));
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    client.send(OpCode::Text, false, b"12345");
    client.send(OpCode::Ping, true, b"");
    client.expect(crate::support::Received::Pong(Vec::new()));
    client.expect(text("5"));
}

#[test]
fn ioto_errors_have_a_type_and_come_before_the_end() {
    let check = |bytes: &[u8], error: &str, code: u16, reason: &str| {
        let (script, journal) = Script::<()>::new();
        let script = script.on_error(|connection| assert!(connection.last_error().is_some()));
        let script = script.on_close(|connection, closed| {
            assert_eq!(connection.closed(), Some(closed));
            assert!(connection.last_error().is_some());
        });
        let server = serve(1, |builder| builder.route("/", script));
        let mut client = server.connect("/");
        client.send_raw(bytes);
        client.expect_close(code, reason);
        drop(client);
        let (error, end) = (format!("error {error}"), r#"close 1006 "" unclean"#);
        journal.expect_at_the_end(server, &["open", &error, end]);
    };
    check(&frame(OpCode::Text, true, &[0xff]), "InvalidUtf8", 1007, "a text message is not UTF-8");
    check(b"\x81\x01a", "MaskMissing", 1002, "a client's frame is not masked");
    check(b"\xc1\x80\0\0\0\0", "ReservedBits", 1002, "a reserved bit is set");
    check(
        &frame(OpCode::Binary, true, &[0; (1 << 20) + 1])[..14],
        "FrameTooBig",
        1009,
        "a message is larger than 1048576 bytes",
    );
}

#[test]
fn ioto_utf8_is_checked_unless_the_route_does_not() {
    let (script, journal) = Script::<()>::new();
    let server = serve(1, |builder| builder.route_with("/", script, RouteOptions::new().skip_utf8_check()));
    let mut client = server.connect("/");
    client.send(OpCode::Text, true, b"a\xff");
    journal.expect(&["open", "text a\u{fffd}"]);
}

#[test]
fn kore_limits_of_a_route() {
    let server = serve(1, |builder| {
        let (small, frames, fragments) = (RouteOptions::new(), RouteOptions::new(), RouteOptions::new());
        builder
            .route_with("/small", Script::<()>::new().0, small.max_message(8))
            .route_with("/frames", Script::<()>::new().0, frames.max_frame(4))
            .route_with("/fragments", Script::<()>::new().0, fragments.max_fragments(2))
            .route("/usual", Script::<()>::new().0)
    });
    let refused = |path: &str, frames: &[(OpCode, bool, &[u8])], reason: &str| {
        let mut client = server.connect(path);
        frames.iter().for_each(|&(opcode, fin, payload)| client.send(opcode, fin, payload));
        client.expect_close(1009, reason);
        let mut usual = server.connect("/usual");
        frames.iter().for_each(|&(opcode, fin, payload)| usual.send(opcode, fin, payload));
        usual.expect_nothing();
    };
    refused(
        "/small",
        &[(OpCode::Text, false, b"12345"), (OpCode::Continuation, false, b"6789")],
        "a message is larger than 8 bytes",
    );
    refused("/frames", &[(OpCode::Text, true, b"12345")], "a frame is larger than 4 bytes");
    let three: &[(OpCode, bool, &[u8])] =
        &[(OpCode::Text, false, b""), (OpCode::Continuation, false, b""), (OpCode::Continuation, false, b"")];
    refused("/fragments", three, "a message has more than 2 fragments");
}

/// New limits hold from the next message on. The message under way keeps the old limits, since new ones could break it.
#[test]
fn ioto_limits_of_a_connection() {
    let (script, journal) = Script::<()>::new();
    let limits = MessageLimits { checks_utf8: true, deliver: Deliver::Fragments, ..MessageLimits::DEFAULT };
    let script = script.on_ping(move |connection| {
        let limits = MessageLimits { message_bytes_max: 6, frame_bytes_max: 6, ..limits };
        connection.set_limits(limits);
        assert_eq!(connection.limits(), Some(limits));
    });
    let server = serve(1, |builder| builder.route_with("/", script, RouteOptions::new().skip_utf8_check()));
    let mut client = server.connect("/");
    client.send(OpCode::Text, false, b"12345\xff");
    client.send(OpCode::Ping, true, b"");
    client.expect(crate::support::Received::Pong(Vec::new()));
    client.send(OpCode::Continuation, true, b"67");
    client.send_text("123456");
    client.send_text("1234567");
    client.expect_close(1009, "a message is larger than 6 bytes");
    drop(client);
    journal.expect_at_the_end(
        server,
        &[
            "open",
            "ping ",
            "text 12345\u{fffd}67",
            "only fragment 123456",
            "error FrameTooBig",
            r#"close 1006 "" unclean"#,
        ],
    );
}

/// New limits that spawned work sets within a half-received frame also hold from the next message on.
#[test]
fn ioto_limits_change_between_two_halves_of_a_frame() {
    let (script, journal) = Script::<()>::new();
    let script = script.on_pong(|connection| {
        connection.spawn(|handle| async move {
            // The first half of the frame arrives as a whole.
            let mut length = 0;
            while length == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                length = handle.with(|connection| connection.message_length()).await.unwrap();
            }
            handle.with(|connection| connection.set_limits(MessageLimits::DEFAULT)).await;
            handle.send_text("changed").await;
        });
    });
    let server = serve(1, |builder| builder.route_with("/", script, RouteOptions::new().skip_utf8_check()));
    let mut client = server.connect("/");
    client.send(OpCode::Pong, true, b"");
    let whole = frame(OpCode::Text, true, b"\xff\xff\xff\xff\xff\xff\xe2\x82");
    let (first, second) = whole.split_at(whole.len() - 1);
    client.send_raw(first);
    client.expect(text("changed"));
    client.send_raw(second);
    client.expect_nothing();
    client.send(OpCode::Text, true, b"\xff");
    client.expect_close(1007, "a text message is not UTF-8");
    let rest = journal.rest(server);
    assert!(rest.iter().any(|entry| entry.starts_with("text \u{fffd}")), "{rest:?}");
}

/// The frame hook's verdicts, as with Qore's `gotRawMessage`: Process, Continue, Break.
#[test]
fn qore_a_hook_passes_drops_or_ends() {
    let (script, journal) = Script::<u32>::new();
    let script = script.on_frame(|seen, _, payload| {
        *seen += 1;
        match payload {
            b"drop" => Verdict::Drop,
            b"end" => Verdict::Fail(CloseCode(4001)),
            b"end without a code" => Verdict::Fail(CloseCode::NO_STATUS),
            b"end as nobody may" => Verdict::Fail(CloseCode(1006)),
            _ => Verdict::Pass,
        }
    });
    let script = script.on_message(|connection, _| _ = connection.send_text(connection.state().to_string()));
    let server = serve(1, |builder| builder.route_with("/", script, RouteOptions::new().inspect_frames()));
    let mut client = server.connect("/");
    client.send_text("drop");
    client.send(OpCode::Ping, true, b"drop");
    client.send_text("pass");
    client.expect(text("3"));
    client.send_text("end");
    client.expect_close(4001, "the frame was refused");
    drop(client);
    journal.until("Text frame end");
    journal.expect(&["error Refused(CloseCode(4001))", r#"close 1006 "" unclean"#]);
    let mut client = server.connect("/");
    client.send_text("end without a code");
    client.expect(crate::support::Received::Close(None, String::new()));
    let mut client = server.connect("/");
    client.send_text("end as nobody may");
    client.expect_close(1011, "the frame was refused");
}

#[test]
fn kore_an_echo_of_large_messages() {
    let (script, _) = Script::<()>::new();
    let mut script = script;
    script.message = Box::new(|connection, message| _ = connection.send_prepared(&message.prepare()));
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let payload = crate::support::pattern(length, length);
        client.send_binary(&payload);
        client.expect(binary(&payload));
    }
}
