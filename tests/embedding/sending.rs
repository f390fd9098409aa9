//! Tests of a handler that sends to its own connection. They cover the cases of Kore's `send`, Qore's `sendEncoded` and
//! Ioto's `Send…`, the functions of other servers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ringhub::{
    Publication,
    handler::{CloseError, Part, Refused, RouteOptions, Sent, truncate_reason},
    proto::{CloseCode, CloseFrameError, MessageType, OpCode, PrepareError, PreparedMessage, State},
};

use crate::{
    Script, serve,
    support::{Received, binary, frame, text},
    until,
};

/// Makes `call` in a handler's `on_message`. Expects that the client gets `sent`, then the outcome of the call as text.
fn check(call: fn(&mut ringhub::handler::Connection<'_, ()>) -> String, sent: &[Received], outcome: &str) {
    let (script, _) = Script::<()>::by_message(move |connection, _| {
        let outcome = call(connection);
        connection.send_text(outcome);
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    client.send_text("now");
    for sent in sent {
        client.expect(sent.clone());
    }
    client.expect(text(outcome));
    client.expect_nothing();
}

macro_rules! check {
    ($connection:ident => $call:expr, $sent:expr, $outcome:expr) => {
        check(|$connection| format!("{:?}", $call), &$sent, &format!("{:?}", $outcome));
    };
}

#[test]
fn kore_send_takes_any_opcode() {
    check!(c => c.send(OpCode::Text, "é".as_bytes()), [text("é")], Sent::Sent);
    check!(c => c.send(OpCode::Binary, &[0, 255]), [binary(&[0, 255])], Sent::Sent);
    check!(c => c.send(OpCode::Ping, b"p"), [Received::Ping(b"p".to_vec())], Sent::Sent);
    check!(c => c.send(OpCode::Pong, b"q"), [Received::Pong(b"q".to_vec())], Sent::Sent);
}

#[test]
fn kore_send_refuses_what_is_no_frame_of_its_own() {
    let refused = Sent::Refused;
    check!(c => c.send(OpCode::Close, b""), [], refused(Refused::OpCode));
    check!(c => c.send(OpCode::Continuation, b""), [], refused(Refused::OpCode));
    check!(c => c.send(OpCode::Text, &[0xff]), [], refused(Refused::NotText));
    check!(c => c.send_ping(&[0; 126]), [], refused(Refused::ControlTooLong));
    check!(c => c.send_pong(&[0; 126]), [], refused(Refused::ControlTooLong));
}

#[test]
fn ioto_send_string_json_and_block() {
    check!(c => c.send_text(format!("{} of {}", 1, 2)), [text("1 of 2")], Sent::Sent);
    check!(c => c.send_json(&[1, 2]).unwrap(), [text("[1,2]")], Sent::Sent);
    check!(c => c.send_binary([1, 2]), [binary(&[1, 2])], Sent::Sent);
}

/// A map whose keys are not strings has no form in JSON.
#[test]
fn ioto_send_json_refuses_what_is_not_json() {
    check!(
        c => c.send_json(&std::collections::BTreeMap::from([((1, 2), 3)])).unwrap_err().to_string(),
        [],
        "key must be a string"
    );
}

#[test]
fn qore_send_prepared_is_encoded_once() {
    check!(c => c.send_prepared(&PreparedMessage::text("once")), [text("once")], Sent::Sent);
    check!(c => c.send_prepared(&PreparedMessage::ping(b"p").unwrap()), [Received::Ping(b"p".to_vec())], Sent::Sent);
}

/// The server splits a message into several frames, and the client gets one message.
#[test]
fn ioto_messages_are_split_by_a_limit_of_frames() {
    check!(c => c.send_split(MessageType::Text, b"abcdefg", 3).unwrap(), [text("abcdefg")], Sent::Sent);
    check!(c => c.send_split(MessageType::Text, b"a", 0).unwrap_err(), [], PrepareError::FramesTooSmall);
    check!(c => c.send_split(MessageType::Text, &[0xff], 3).unwrap_err(), [], PrepareError::NotUtf8);
}

#[test]
fn qore_fragments_leave_whole_and_in_order() {
    check!(
        c => [
            c.send_fragment(Part::First(MessageType::Text), b"a"),
            c.send_fragment(Part::Next, b"b"),
            c.send_fragment(Part::Last, b"c"),
        ],
        [text("abc")],
        [Sent::Queued { bytes: 3 }, Sent::Queued { bytes: 6 }, Sent::Sent]
    );
}

/// RFC 6455 5.4: only control frames may come between the fragments of a message.
#[test]
fn qore_nothing_comes_between_fragments() {
    let refused = Sent::Refused(Refused::Fragment);
    check!(
        c => [
            c.send_fragment(Part::Next, b"x"),
            c.send_fragment(Part::Last, b"x"),
            c.send_fragment(Part::First(MessageType::Binary), b"a"),
            c.send_fragment(Part::First(MessageType::Binary), b"x"),
            c.send_text("x"),
            c.send_prepared(&PreparedMessage::text("x")),
            c.send_ping(b"p"),
            c.send_fragment(Part::Last, b"b"),
        ],
        [Received::Ping(b"p".to_vec()), binary(b"ab")],
        [
            refused,
            refused,
            Sent::Queued { bytes: 3 },
            refused,
            refused,
            refused,
            Sent::Sent,
            Sent::Sent,
        ]
    );
}

/// A handler may begin a fragmented message in one call, and end the message in a later call. A whole message that is
/// published between the two calls reaches the client first.
#[test]
fn qore_fragments_over_several_callbacks() {
    let (script, _) = Script::<()>::by_message(|connection, text| {
        let sent = match text {
            "begin" => connection.send_fragment(Part::First(MessageType::Text), b"be"),
            "end" => connection.send_fragment(Part::Last, b"gun"),
            _ => unreachable!(),
        };
        assert!(sent.is_accepted());
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    client.send_text("begin");
    client.expect_nothing();
    ringhub::server::Hub::wait(server.hub().send_all(Publication::text("all"))).unwrap();
    client.expect(text("all"));
    client.send_text("end");
    client.expect(text("begun"));
}

/// A client does not read. `send` first returns `Sent`. Later it returns `Queued`, with the number of bytes that wait
/// before the message. At last it returns a refusal.
#[test]
fn kore_send_says_what_became_of_it() {
    let is_full: Arc<AtomicBool> = Arc::default();
    let told = Arc::clone(&is_full);
    let (script, _) = Script::<()>::by_message(move |connection, _| {
        let told = Arc::clone(&told);
        connection.spawn(|handle| async move {
            let (mut queued, mut last) = (false, 0);
            loop {
                match handle.send_binary(vec![0; 64 * 1_024]).await {
                    Sent::Sent => {}
                    Sent::Queued { bytes } => {
                        queued = true;
                        last = bytes;
                    }
                    Sent::Refused(refused) => {
                        assert_eq!(refused, Refused::Full);
                        assert!(queued && last > 0, "messages are queued before one is refused");
                        break;
                    }
                }
            }
            told.store(true, Ordering::SeqCst);
            handle.with(|connection| connection.close(CloseCode::NORMAL, "full").unwrap()).await;
        });
    });
    let server = serve(1, |builder| {
        builder.route_with("/", script, manual()).settings(|settings| {
            settings.max_message = ringhub::config::Size(64 * 1_024);
            settings.max_backlog = Some(ringhub::config::Size(1 << 20));
        })
    });
    let mut client = server.connect("/");
    client.send_text("now");
    until("the backlog is full", || is_full.load(Ordering::SeqCst));
    // All accepted messages come before the close frame.
    loop {
        match client.receive() {
            Received::Binary(bytes) => assert_eq!(bytes.len(), 64 * 1_024),
            other => break assert_eq!(other, Received::Close(Some(1000), "full".into())),
        }
    }
    client.expect(Received::End);
}

/// The limit of the backlog also holds for a handler's own sends. A send beyond this limit is refused at once, even
/// within one call of the handler.
#[test]
fn kore_own_sends_have_the_limit_of_the_backlog() {
    let (script, _) = Script::<()>::by_message(|connection, _| {
        let message = PreparedMessage::binary(&[0; 1_024]);
        let accepted = (0..10_000).take_while(|_| connection.send_prepared(&message).is_accepted()).count();
        assert_eq!(connection.send_prepared(&message), Sent::Refused(Refused::Full));
        assert!((1_000..10_000).contains(&accepted), "{accepted}");
        _ = connection.close(CloseCode::NORMAL, &accepted.to_string());
    });
    let server = serve(1, |builder| {
        builder.route_with("/", script, manual()).settings(|settings| {
            settings.max_message = ringhub::config::Size(64 * 1_024);
            settings.max_backlog = Some(ringhub::config::Size(2 << 20));
        })
    });
    let mut client = server.connect("/");
    client.send_text("now");
    let mut count = 0;
    loop {
        match client.receive() {
            Received::Binary(_) => count += 1,
            other => break assert_eq!(other, Received::Close(Some(1000), count.to_string())),
        }
    }
}

#[test]
fn ioto_close_codes_and_reasons_are_checked() {
    let too_long = "x".repeat(124);
    let error = |error| Err::<(), _>(CloseError::Frame(error));
    check!(c => c.close(CloseCode(1005), ""), [], error(CloseFrameError::CodeNotSendable(1005)));
    check!(c => c.close(CloseCode(999), ""), [], error(CloseFrameError::CodeNotSendable(999)));
    check!(c => c.close(CloseCode::NORMAL, &"x".repeat(124)), [], error(CloseFrameError::ReasonTooLong(124)));
    assert_eq!(truncate_reason(&too_long).len(), 123);
}

/// A message that is sent before a close reaches the client before the close frame. Nothing follows the close frame. A
/// second close is an error.
#[test]
fn ioto_nothing_is_sent_after_a_close() {
    let (script, journal) = Script::<()>::by_message(|connection, _| {
        connection.send_text("before");
        connection.close(CloseCode(4000), truncate_reason(&"é".repeat(62))).unwrap();
        assert_eq!(connection.websocket_state(), State::Closing);
        assert_eq!(connection.close(CloseCode::NORMAL, ""), Err(CloseError::NotOpen));
        assert_eq!(connection.send_text("after"), Sent::Refused(Refused::NotOpen));
        assert_eq!(connection.send_ping(b""), Sent::Refused(Refused::NotOpen));
        assert_eq!(connection.send_fragment(Part::First(MessageType::Text), b""), Sent::Refused(Refused::NotOpen));
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    // Both messages arrive together. The second message is dropped, since the connection is closing (RFC 6455 5.5.1).
    client.send_raw(&[frame(OpCode::Text, true, b"1"), frame(OpCode::Text, true, b"2")].concat());
    client.expect(text("before"));
    client.expect_close(4000, &"é".repeat(61));
    journal.expect_at_the_end(server, &["open", "text 1", r#"close 4000 "" clean"#]);
}

/// Messages that are sent in `on_open` follow the opening answer (101).
#[test]
fn qore_a_welcome_follows_the_opening_answer() {
    let (script, _) = Script::<()>::new();
    let script = script.on_open(|connection| {
        assert_eq!(connection.send_text("welcome"), Sent::Sent);
        connection.send_text("to this");
    });
    let server = serve(3, |builder| builder.route("/", script));
    for _ in 0..10 {
        let mut client = server.connect("/");
        client.expect(text("welcome"));
        client.expect(text("to this"));
    }
}

/// A message without room closes the connection with 1008, unless the route has `manual_backpressure`. The
/// first piece of the backlog or, without a backlog, the whole outbox is sent before the close frame.
#[test]
fn a_message_without_room_closes_the_connection() {
    let (script, _) = Script::<()>::by_message(move |connection, _| {
        let message = PreparedMessage::binary(&[0; 1_024]);
        while connection.send_prepared(&message).is_accepted() {}
        assert_eq!(connection.send_prepared(&message), Sent::Refused(Refused::NotOpen));
    });
    let server = serve(1, |builder| {
        builder.route("/", script).settings(|settings| {
            settings.max_message = ringhub::config::Size(64 * 1_024);
            settings.max_backlog = Some(ringhub::config::Size(1 << 20));
        })
    });
    let mut client = server.connect("/");
    client.send_text("now");
    loop {
        match client.receive() {
            Received::Binary(bytes) => assert_eq!(bytes.len(), 1_024),
            other => break assert_eq!(other, Received::Close(Some(1008), "slow consumer".into())),
        }
    }
    client.expect(Received::End);
}

fn manual() -> RouteOptions {
    RouteOptions::new().manual_backpressure()
}
