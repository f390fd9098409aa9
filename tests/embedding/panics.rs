//! A panic in any callback closes that connection with 1011, and nothing else.

use ringhub::{
    handler::{Accept, Connection, Handler, OpeningRequest, Response, RouteOptions, SubscribeOptions},
    metrics::Counter,
    proto::{Deliver, OpCode},
};

use crate::{
    Live, Script, serve,
    support::{Client, Received, close, frame, text},
    topic, until,
};

/// Provokes a panic in one handler while another serves. Expects this close frame, and one call of `on_close`.
fn check(
    script: impl FnOnce(Script<()>) -> Script<()>,
    options: RouteOptions,
    provoke: impl Fn(&mut Client),
    code: u16,
    reason: &str,
) {
    let (panics, journal) = Script::<()>::new();
    let (goes_on, _) = Script::<()>::by_message(|connection, text| _ = connection.send_text(text));
    let panics = script(panics);
    let server = serve(1, |builder| builder.route_with("/", panics, options).route("/other", goes_on));
    let mut other = server.connect("/other");
    let mut client = server.connect("/");
    provoke(&mut client);
    client.expect(close(code, reason));
    client.expect(Received::End);
    drop(client);
    expect_panics(&server, 1);
    other.send_text("still here");
    other.expect(text("still here"));
    drop(other);
    let told = journal.rest(server);
    assert_eq!(told.iter().filter(|entry| entry.starts_with("close")).count(), 1, "{told:?}");
}

fn check_1011(script: impl FnOnce(Script<()>) -> Script<()>, provoke: impl Fn(&mut Client)) {
    check(script, RouteOptions::new(), provoke, 1011, "a handler has failed");
}

/// Waits until the server has counted `count` panics.
fn expect_panics(server: &Live, count: u64) {
    until("panics are counted", || server.hub().count(Counter::HandlerPanics) == count);
}

/// A handler that waits for its own shard would wait for ever: it panics instead.
#[test]
fn ioto_a_handler_that_waits_for_its_shard() {
    check_1011(|script| script.on_open(|_| ringhub::server::Hub::wait(std::future::pending())), |_| {});
}

#[test]
fn ioto_a_panic_in_on_open() {
    check_1011(|script| script.on_open(|_| panic!("open")), |_| {});
}

#[test]
fn ioto_a_panic_in_on_message() {
    check_1011(|script| script.on_message(|_, _| panic!("message")), |client| client.send_text("now"));
}

#[test]
fn ioto_a_panic_in_on_fragment() {
    let options = RouteOptions::new().deliver(Deliver::Fragments);
    let script = |script: Script<()>| script.on_fragment(|_| panic!("fragment"));
    check(script, options, |client| client.send_text("now"), 1011, "a handler has failed");
}

#[test]
fn ioto_a_panic_in_on_frame() {
    let script = |script: Script<()>| script.on_frame(|_, _, _| panic!("frame"));
    check(
        script,
        RouteOptions::new().inspect_frames(),
        |client| client.send_text("now"),
        1011,
        "the frame was refused",
    );
}

#[test]
fn ioto_a_panic_in_on_ping() {
    let provoke = |client: &mut Client| {
        client.send(OpCode::Ping, true, b"p");
        client.expect(Received::Pong(b"p".to_vec()));
    };
    check_1011(|script| script.on_ping(|_| panic!("ping")), provoke);
}

#[test]
fn ioto_a_panic_in_on_pong() {
    check_1011(|script| script.on_pong(|_| panic!("pong")), |client| client.send(OpCode::Pong, true, b""));
}

/// The close frame names the client's violation, not the handler's panic.
#[test]
fn ioto_a_panic_in_on_error() {
    let script = |script: Script<()>| script.on_error(|_| panic!("error"));
    let provoke = |client: &mut Client| client.send_raw(&frame(OpCode::Text, true, &[0xff]));
    check(script, RouteOptions::new(), provoke, 1007, "a text message is not UTF-8");
}

#[test]
fn ioto_a_panic_in_on_close() {
    let script = |script: Script<()>| script.on_close(|_, _| panic!("close"));
    check(script, RouteOptions::new(), |client| client.send_close(1000, ""), 1000, "");
}

#[test]
fn ioto_a_panic_in_on_subscribed() {
    let script = |script: Script<()>| {
        script
            .on_message(|connection, _| _ = connection.subscribe(&topic("x"), SubscribeOptions::default()))
            .on_subscribed(|_, _| panic!("subscribed"))
    };
    check_1011(script, |client| client.send_text("now"));
}

#[test]
fn ioto_a_panic_in_spawned_work() {
    let script = |script: Script<()>| {
        script.on_message(|connection, _| {
            connection.spawn(|_| async {
                tokio::task::yield_now().await;
                panic!("spawned");
            });
        })
    };
    check_1011(script, |client| client.send_text("now"));
}

/// The work gets `None` from the handle, and goes on.
#[test]
fn ioto_a_panic_in_work_of_a_handle() {
    let script = |script: Script<()>| {
        script.on_message(|connection, _| {
            connection.spawn(|handle| async move {
                let outcome: Option<()> = handle.with(|_| panic!("with")).await;
                assert_eq!(outcome, None);
            });
        })
    };
    check_1011(script, |client| client.send_text("now"));
}

/// A panic in the closure that makes the future counts as one of the handler.
#[test]
fn ioto_a_panic_before_spawned_work() {
    let script = |script: Script<()>| {
        script.on_message(|connection, _| _ = connection.spawn(|_| -> std::future::Ready<()> { panic!("spawn") }))
    };
    check_1011(script, |client| client.send_text("now"));
}

#[test]
fn ioto_a_panic_when_spawned_work_is_dropped() {
    let script = |script: Script<()>| {
        script.on_message(|connection, _| {
            let bomb = Bomb { is_armed: true };
            connection.spawn(|handle| async move {
                handle.send_text("spawned").await;
                std::future::pending::<()>().await;
                drop(bomb);
            });
        })
    };
    let provoke = |client: &mut Client| {
        client.send_text("now");
        client.expect(text("spawned"));
        client.send_close(1000, "");
    };
    check(script, RouteOptions::new(), provoke, 1000, "");
}

#[test]
fn ioto_a_panic_when_a_state_is_dropped() {
    let (script, journal) = Script::<Bomb>::new();
    let script = script.on_open(|connection| connection.state_mut().is_armed = true);
    let server = serve(1, |builder| builder.route("/", script));
    server.connect("/").leave();
    expect_panics(&server, 1);
    server.connect("/").leave();
    expect_panics(&server, 2);
    let told = journal.rest(server);
    assert_eq!(told.iter().filter(|entry| entry.starts_with("close")).count(), 2, "{told:?}");
}

#[test]
fn ioto_a_panic_over_an_opening_request() {
    let (script, journal) = Script::<()>::new();
    let script = script.opening(|request| {
        assert!(request.raw_query().is_none(), "opening");
        Ok(Accept::default())
    });
    let server = serve(1, |builder| builder.route("/", script).route("/later", PanicsLater));
    for target in ["/?panic", "/later"] {
        let response = server.open(target, &[], &[]).err().expect("a refusal");
        assert_eq!((response.status(), response.error()), (500, "a handler of this server has failed".into()));
    }
    expect_panics(&server, 2);
    server.connect("/").leave();
    journal.expect_at_the_end(server, &["open", r#"close 1000 "bye" clean"#]);
}

struct PanicsLater;

impl Handler for PanicsLater {
    type State = ();

    async fn opening(&self, _: &OpeningRequest) -> Result<Accept<()>, Response> {
        tokio::task::yield_now().await;
        panic!("later");
    }

    fn on_open(&self, _: &mut Connection<'_, ()>) {
        unreachable!("the request was refused");
    }
}

#[derive(Default)]
struct Bomb {
    is_armed: bool,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.is_armed, "dropped");
    }
}
