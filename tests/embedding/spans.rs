//! Log events with the connection's id and peer, for the embedder's own subscriber, as with Qore's `logInfo`,
//! `logError` and `logDebug`.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
};

use ringhub::{
    auth::{Authenticator, Credentials, Identity},
    handler::{Accept, RouteOptions},
    proto::{OpCode, Refusal},
};
use tracing::{Level, info};

use crate::{
    Script, serve,
    support::{Client, Received, frame, text},
};

/// Everything that this process logs, line by line.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Returns the log of this process, which can have only one subscriber.
    pub(crate) fn get() -> Log {
        static LOG: OnceLock<Log> = OnceLock::new();
        let install = || {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(Level::DEBUG);
            let subscriber = subscriber.with_writer(move || writer.clone()).finish();
            tracing::subscriber::set_global_default(subscriber).expect("no other test has set a subscriber");
            log
        };
        LOG.get_or_init(install).clone()
    }

    /// Returns the only line that contains `what`.
    pub(crate) fn line(&self, what: &str) -> String {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut lines = log.lines().filter(|line| line.contains(what));
        let line = lines.next().unwrap_or_else(|| panic!("no line contains {what:?}"));
        assert_eq!(lines.next(), None, "{what:?} is in two lines");
        line.to_string()
    }
}

/// Expects that log events of a handler name the connection's id and its client, in every method.
fn check(name: &'static str, options: RouteOptions) {
    let log = Log::get();
    let (script, journal) = Script::<()>::new();
    let script = script.on_open(move |connection| {
        info!("{name} open");
        connection.send_text(connection.id().to_string());
    });
    let script = script.on_message(move |connection, _| {
        info!("{name} message");
        connection.spawn(move |handle| async move {
            tokio::task::yield_now().await;
            info!("{name} spawned");
            handle.with(move |_| info!("{name} with")).await;
            handle.send_text("done").await;
        });
    });
    let script = script.on_ping(move |_| info!("{name} ping")).on_close(move |_, _| info!("{name} close"));
    let server = serve(1, |builder| builder.route_with("/", script, options));
    let mut client = server.connect("/");
    let Received::Text(id) = client.receive() else { panic!("no id") };
    let peer = client.stream().local_addr().unwrap();
    client.send_text("now");
    client.expect(text("done"));
    client.send(OpCode::Ping, true, b"");
    client.expect(Received::Pong(Vec::new()));
    client.leave();
    journal.rest(server);
    for place in ["open", "message", "spawned", "with", "ping", "close"] {
        let line = log.line(&format!("{name} {place}"));
        assert!(line.contains(&format!(" connection{{id={id} peer={peer}}}: ")), "{line}");
    }
}

#[test]
fn qore_events_in_handlers_have_id_and_peer() {
    check("usual", RouteOptions::new());
}

#[test]
fn qore_events_have_id_and_peer_where_requests_are_forgotten() {
    check("forgetful", RouteOptions::new().forget_request());
}

#[test]
fn qore_events_in_frame_hooks_have_id_and_peer() {
    let log = Log::get();
    let (script, _) = Script::<()>::new();
    let script = script.on_frame(|_, _, payload| {
        info!("hook {}", String::from_utf8_lossy(payload));
        ringhub::proto::Verdict::Pass
    });
    let server = serve(1, |builder| builder.route_with("/", script, RouteOptions::new().inspect_frames()));
    let mut client = server.connect("/");
    let peer = client.stream().local_addr().unwrap();
    client.send(OpCode::Ping, true, b"sees");
    client.expect(Received::Pong(b"sees".to_vec()));
    let line = log.line("hook sees");
    assert!(line.contains(&format!(" peer={peer}}}: ")), "{line}");
}

#[test]
fn qore_events_over_a_request_have_peer_and_path() {
    struct Says;
    impl Authenticator for Says {
        fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
            info!("authenticator asked");
            Ok(Identity::new("x"))
        }
    }
    let log = Log::get();
    let (script, _) = Script::<()>::new();
    let script = script.opening(|_| {
        info!("opening asked");
        Ok(Accept::default())
    });
    let server =
        serve(1, |builder| builder.route_with("/some/{path}", script, RouteOptions::new().authenticator(Says)));
    let client = server.connect("/some/where?x");
    let peer = client.stream().local_addr().unwrap();
    for what in ["authenticator asked", "opening asked"] {
        let line = log.line(what);
        let (before, behind) = (" opening{request=0 ", format!(" peer={peer} path=\"/some/where\"}}: "));
        assert!(line.contains(before) && line.contains(&behind), "{line}");
    }
}

/// The shard's own log events about a connection name its id and client too.
#[test]
fn qore_events_of_the_server_have_id_and_peer() {
    let log = Log::get();
    for options in [RouteOptions::new(), RouteOptions::new().forget_request()] {
        let (script, journal) = Script::<()>::by_message(|_, _| panic!("on purpose"));
        let script = script.on_open(|connection| _ = connection.send_text(connection.id().to_string()));
        let server = serve(1, |builder| builder.route_with("/", script, options));
        let id = |client: &mut Client| match client.receive() {
            Received::Text(id) => format!("id={id} peer={}", client.stream().local_addr().unwrap()),
            other => panic!("{other:?}"),
        };
        let (mut broken, mut panicked, mut reset) = (server.connect("/"), server.connect("/"), server.connect("/"));
        let names = [id(&mut broken), id(&mut panicked), id(&mut reset)];
        broken.send_raw(&frame(OpCode::Text, true, &[0xff]));
        broken.expect_close(1007, "a text message is not UTF-8");
        panicked.send_text("now");
        panicked.expect_close(1011, "a handler has failed");
        crate::support::reset(reset.into_stream());
        drop((broken, panicked));
        journal.rest(server);
        let saids = ["the client broke the protocol", "its connection is closed", "the connection was lost"];
        for (name, said) in names.iter().zip(saids) {
            let line = log.line(name);
            assert!(line.contains(said), "{line}");
        }
    }
}
