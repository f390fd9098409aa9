//! Servers within larger programs, and values with which no server can be built.

use std::{net::SocketAddr, time::Duration};

use ringhub::{
    Publication, client,
    config::{Pin, Settings, Size, Time},
    error::StartError,
    handler::{Pattern, RouteOptions},
    server::{BuildError, Builder, Hub, Server},
};

use crate::{
    Live, Script, builder, serve,
    support::{exchange, post, text},
};

fn script() -> Script<()> {
    Script::<()>::new().0
}

/// Expects that a build fails with this text, and returns the error.
fn refused(builder: Builder, what: &str) -> BuildError {
    let error = builder.build().map(drop).expect_err(what);
    assert_eq!(error.to_string(), what);
    error
}

macro_rules! refused {
    ($builder:expr, $pattern:pat, $what:expr) => {
        assert!(matches!(refused($builder, $what), $pattern));
    };
}

#[test]
fn wrong_settings_are_typed_errors() {
    refused!(builder(0), BuildError::Config(_), "shards: 0 is not between 1 and 256");
    refused!(builder(257), BuildError::Config(_), "shards: 257 is not between 1 and 256");
    refused!(builder(1).listen([]), BuildError::Config(_), "listen: at least one address is needed");
    let error = builder(1).cpus([9_999]).build().map(drop).expect_err("no such CPU");
    let BuildError::Config(errors) = &error else { panic!("{error}") };
    assert!(errors.to_string().starts_with("cpus: CPU 9999 is not among those"), "{errors}");
    assert!(std::error::Error::source(&error).is_some());
    refused!(
        builder(1).settings(|settings| settings.max_message = Size(0)),
        BuildError::Config(_),
        "max_message: 0 is not between 1 and 1GiB"
    );
    refused!(
        builder(1).settings(|settings| settings.max_backlog = Some(Size(1))),
        BuildError::Config(_),
        "max_backlog: 1 is less than two of the largest messages, 2MiB"
    );
    let both = |settings: &mut ringhub::config::Settings| {
        settings.max_fragments = 0;
        settings.close_timeout = Time(Duration::ZERO);
    };
    let error = builder(1).settings(both).build().map(drop).expect_err("two faults").to_string();
    assert!(error.contains("max_fragments") && error.contains("close_timeout"), "all at once: {error}");
}

#[test]
fn wrong_routes_are_typed_errors() {
    let route = |pattern: &str| builder(1).route(pattern, script());
    refused!(route("chat"), BuildError::Pattern(_), "the route \"chat\" does not begin with /");
    let what = "the route \"/{a}/{a}\" has {a} twice";
    refused!(route("/{a}/{a}"), BuildError::Pattern(_), what);
    let clash = "the routes \"/a/{x}\" and \"/a/{y}\" are for the same paths";
    refused!(route("/a/{x}").route("/a/{y}", script()), BuildError::Clash(..), clash);
    // The route of `topics()` can clash like any other.
    let clash = "the routes \"/t/{x...}\" and \"/t/{topic...}\" are for the same paths";
    refused!(route("/t/{x...}").topics(), BuildError::Clash(..), clash);
    assert!(Pattern::new("/a b").is_err());
}

#[test]
fn wrong_rules_of_a_route_are_typed_errors() {
    let check = |options: RouteOptions, what: &str| {
        let what = format!("the route \"/\": {what}");
        refused!(builder(1).route_with("/", script(), options), BuildError::Options(..), &what);
    };
    let options = RouteOptions::new;
    check(options().max_message(0), "max_message: 0 is not between 1 and 1GiB");
    check(options().max_message((1 << 30) + 1), "max_message: 1073741825 is not between 1 and 1GiB");
    let room = "max_message: 8MiB needs a max_backlog of 16MiB, which is 13MiB";
    check(options().max_message(8 << 20), room);
    check(options().max_frame(0), "max_frame: 0 is not between 1 and the route's largest message, 1MiB");
    check(options().max_message(5).max_frame(6), "max_frame: 6 is more than the route's largest message, 5");
    check(options().max_fragments(0), "max_fragments: a message has at least one frame");
    check(options().ping_payload(&[0; 126]), "ping_payload: 126 bytes are more than a ping carries, 125");
    check(options().require_protocol(), "protocols: a subprotocol is needed and none is named");
    let letters = "is no subprotocol: letters, digits and !#$%&'*+-.^_`|~";
    check(options().protocols(["a b"]), &format!("protocols: \"a b\" {letters}"));
    check(options().protocols([""]), &format!("protocols: \"\" {letters}"));
    check(options().protocols(["a", "b", "a"]), "protocols: \"a\" is there twice");
    let both = "max_fragments: a message has at least one frame; protocols: \"a\" is there twice";
    check(options().protocols(["a", "a"]).max_fragments(0), both);
}

/// A handler gets no bodies, so its messages may be larger than all bodies together. Messages of topics may not be
/// larger.
#[test]
fn only_topics_are_measured_by_bodies() {
    let bodies = |settings: &mut Settings| {
        settings.max_bodies = Some(Size(1 << 20));
        settings.max_backlog = Some(Size(8 << 20));
    };
    let large = RouteOptions::new().max_message(4 << 20);
    let server = serve(1, |builder| builder.settings(bodies).topics().route_with("/large", script(), large));
    assert_eq!(exchange(server.address, &post("/large", "", "x")).status(), 405);
    assert_eq!(exchange(server.address, &post("/t/x", "", "x")).status(), 202);
    let both = |settings: &mut Settings| {
        bodies(settings);
        settings.max_message = Size(2 << 20);
    };
    let what = "max_bodies: 1MiB is less than one of the largest messages, 2MiB";
    refused!(builder(1).settings(both).topics(), BuildError::Config(_), what);
}

#[test]
fn an_address_in_use_is_a_typed_error() {
    let server = serve(1, |builder| builder.route("/", script()));
    let error = builder(1).listen([server.address]).build().map(drop).expect_err("the address is in use");
    assert!(matches!(error, BuildError::Start(StartError::Listen(address, _)) if address == server.address), "{error}");
}

/// The thread of the shard runs on the chosen CPU.
#[test]
fn kore_a_shard_stays_on_its_cpu() {
    let cpu = core_affinity::get_core_ids().expect("an affinity mask")[0].id;
    let _server = Live::start(builder(1).cpus([cpu]).pin(Pin::On).route("/", script()));
    let is_there = |task: &std::path::Path| {
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        let allowed = format!("Cpus_allowed_list:\t{cpu}\n");
        read("comm").starts_with("ringhub-shard-0") && read("status").contains(&allowed)
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    assert!(tasks.map(|task| task.unwrap().path()).any(|task| is_there(&task)));
}

/// Each of two servers in one process has its own connections, topics and hub.
#[test]
fn two_servers_in_one_process() {
    let (one, two) = (serve(2, |b| b.route("/", script())), serve(2, |b| b.route("/", script())));
    assert_ne!(one.address, two.address);
    let (mut first, mut second) = (one.connect("/"), two.connect("/"));
    Hub::wait(one.hub().send_all(Publication::text("one"))).unwrap();
    first.expect(text("one"));
    second.expect_nothing();
    drop((one, first));
    Hub::wait(two.hub().send_all(Publication::text("two"))).unwrap();
    second.expect(text("two"));
}

fn on_tokio<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

/// One program contains the server, on a port that the kernel chose, and its clients. Its end is orderly.
#[test]
fn kore_a_server_within_a_tokio_program() {
    on_tokio(async {
        let (echo, journal) = Script::<()>::by_message(|connection, text| _ = connection.send_text(text));
        let server = builder(2).route("/", echo).build().unwrap();
        let address: SocketAddr = server.local_addr();
        assert!(address.port() != 0 && server.local_addrs() == [address]);
        let running = server.start().unwrap();
        assert_eq!(running.local_addr(), address);
        let hub = running.hub();
        let (client, mut events) = client::Client::builder().url(format!("ws://{address}/")).build().unwrap();
        client.connect().await.unwrap();
        client.send_text("hello").await.unwrap();
        assert!(matches!(events.next().await, Some(client::ClientEvent::Text(text)) if text == "hello"));
        let message = Publication::text("from a task");
        tokio::spawn(async move { hub.send_all(&message).await.unwrap() }).await.unwrap();
        assert!(matches!(events.next().await, Some(client::ClientEvent::Text(text)) if text == "from a task"));
        let (ended, event) = tokio::join!(running.shutdown(), events.next());
        ended.unwrap();
        let Some(client::ClientEvent::Closed(closed)) = event else { panic!("{event:?}") };
        assert_eq!(closed.code.0, 1012);
        drop(journal);
    });
}

/// `run` serves while its future is awaited. A drop of the future ends the server.
#[test]
fn kore_run_ends_when_it_is_dropped() {
    let (script, journal) = Script::<()>::new();
    on_tokio(async {
        let server = builder(1).route("/", script).build().unwrap();
        let url = format!("ws://{}/", server.local_addr());
        let run = tokio::spawn(server.run());
        let (client, mut events) = client::Client::builder().url(url).build().unwrap();
        client.connect().await.unwrap();
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
        assert!(matches!(events.next().await, Some(client::ClientEvent::Closed(closed)) if closed.code.0 == 1012));
    });
    journal.expect(&["open", r#"close 1012 "" clean"#]);
}

/// `run_until` serves until its signal comes, and ends orderly.
#[test]
fn kore_run_until_ends_in_order() {
    let (script, journal) = Script::<()>::new();
    on_tokio(async {
        let server = builder(1).route("/", script).build().unwrap();
        let url = format!("ws://{}/", server.local_addr());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let run = tokio::spawn(server.run_until(async { stopped.await.unwrap() }));
        let (client, mut events) = client::Client::builder().url(url).build().unwrap();
        client.connect().await.unwrap();
        stop.send(()).unwrap();
        run.await.unwrap().unwrap();
        assert!(matches!(events.next().await, Some(client::ClientEvent::Closed(closed)) if closed.code.0 == 1012));
    });
    journal.expect(&["open", r#"close 1012 "" clean"#]);
}

#[test]
fn kore_stopping_twice_and_waiting_again() {
    on_tokio(async {
        let mut running = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]).build().unwrap().start().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), running.wait()).await.is_err());
        running.stop();
        running.stop();
        running.wait().await.unwrap();
        running.wait().await.unwrap();
        running.shutdown().await.unwrap();
    });
}
