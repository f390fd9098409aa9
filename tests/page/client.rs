//! The client in JavaScript in several engines: it loads the module from a server as a page of another origin does, and
//! uses this server.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::Command,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    engines::{self, Engine},
    support::{Server, clean, dial, exchange, program, request, text},
};

pub(crate) fn in_a_page(browser: &mut Browser) {
    all(&mut *engines::page(browser));
}

pub(crate) fn in_a_worker(browser: &mut Browser) {
    all(&mut *engines::worker(browser));
}

pub(crate) fn in_firefox(_: &mut Browser) {
    all(&mut *engines::firefox());
}

pub(crate) fn in_node(_: &mut Browser) {
    all(&mut *engines::node());
}

/// WebSockets that follow a script: the test vectors, close codes, delays.
pub(crate) fn scripted(_: &mut Browser) {
    let mut command = clean(Command::new("node"));
    let output = command.args(["--test", "--test-timeout=60000", "tests/page/client/scripted.mjs"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A use of a server by the client in an engine.
type Scene = fn(&mut dyn Engine);

fn all(engine: &mut dyn Engine) {
    let scenes: [(&str, Scene); 7] = [
        ("messages_in_order", messages_in_order),
        ("a_storm", a_storm),
        ("errors_disturb_nothing", errors_disturb_nothing),
        ("refused_tokens", refused_tokens),
        ("a_server_that_leaves", a_server_that_leaves),
        ("a_killed_server", a_killed_server),
        ("a_final_close", a_final_close),
    ];
    for (name, scene) in scenes {
        println!("  {name}");
        scene(engine);
        engine.eval("hub.close(), 1");
    }
}

/// Loads the module from the server, and makes a client. `seen` has the events.
fn load(engine: &mut dyn Engine, server: &Server, query: &str, options: &str) {
    let address = server.address();
    // Node imports no module over HTTP.
    engine.eval(&format!(
        "(async () => {{
            const url = 'http://{address}/client.js';
            const isNode = typeof process === 'object';
            const text = isNode && await (await fetch(url)).text();
            const module = await import(isNode ? 'data:text/javascript,' + encodeURIComponent(text) : url);
            globalThis.Ringhub = module.Ringhub;
            globalThis.RinghubError = module.RinghubError;
            const told = ({{ name, code, temporary }}) => [name, code, temporary];
            globalThis.failure = promise => promise.then(() => 'resolved', told);
        }})()"
    ));
    make(engine, server, query, options);
}

fn make(engine: &mut dyn Engine, server: &Server, query: &str, options: &str) {
    let address = server.address();
    engine.eval(&format!(
        "(() => {{
            const options = {{ minDelay: 20, maxDelay: 200, ...{options} }};
            globalThis.hub = new Ringhub('ws://{address}/ws{query}', options);
            globalThis.seen = {{ message: [], lagged: [], subscribed: [], unsubscribed: [], error: [], state: [] }};
            for (const type in seen) hub.addEventListener(type, event => seen[type].push(event));
        }})()"
    ));
}

fn messages_in_order(engine: &mut dyn Engine) {
    const MESSAGES: u32 = 1_000;
    let server = Server::start(&["--shards", "2"]);
    for query in ["", "?binary=true"] {
        load(engine, &server, query, "{}");
        engine.eval("Promise.all([hub.subscribe('a', { echo: true }), hub.subscribe('b')])");
        let mut publisher = server.connect("/t/a?mode=pub");
        (0..MESSAGES).for_each(|number| publisher.send_text(&number.to_string()));
        engine.until(&format!("seen.message.length === {MESSAGES}"));
        let in_order = "seen.message.every(({ topic, data, offset }, at) => topic === 'a' && data === `${at}`
            && offset === seen.message[0].offset + at)";
        assert_eq!(engine.eval(in_order), true, "{query}");
        // All kinds of payloads, with an event, and the client's own place.
        let place = engine.eval("hub.publish('a', { n: [1.5, null, 'é'] }, { event: 'paid', key: 'k' })");
        engine.until("seen.message.at(-1).event === 'paid'");
        let own = engine.eval("(({ topic, epoch, offset }) => ({ topic, epoch, offset }))(seen.message.at(-1))");
        assert_eq!(place, own);
        assert_eq!(engine.eval("seen.message.at(-1).data"), json!({"n": [1.5, null, "é"]}));
        let mut raw = server.connect("/t/a?mode=sub");
        for (sent, told, received) in [
            ("new Uint8Array([0, 255, 65])", json!([0, 255, 65]), crate::support::binary(&[0, 255, 65])),
            ("new Uint8Array([1, 2, 3]).buffer", json!([1, 2, 3]), crate::support::binary(&[1, 2, 3])),
            ("new DataView(new Uint8Array([1, 2, 3]).buffer, 1)", json!([2, 3]), crate::support::binary(&[2, 3])),
            ("'\\ufefftext \\u{1f600}'", json!("\u{feff}text 😀"), text("\u{feff}text 😀")),
            ("''", json!(""), text("")),
            ("false", json!(false), text("false")),
        ] {
            let count = engine.eval("seen.message.length").as_u64().unwrap() + 1;
            engine.eval(&format!("hub.publish('a', {sent})"));
            engine.until(&format!("seen.message.length === {count}"));
            let data = "(data => data instanceof Uint8Array ? [...data] : data)(seen.message.at(-1).data)";
            assert_eq!(engine.eval(data), told);
            raw.expect(received);
        }
        engine.eval("hub.publish('a', new Uint8Array(300_000).map((_, at) => at))");
        engine.until("seen.message.at(-1).data.length === 300_000");
        assert_eq!(engine.eval("seen.message.at(-1).data.every((octet, at) => octet === at % 256)"), true, "{query}");
        engine.eval("hub.unsubscribe('a').then(() => hub.unsubscribe('b'))");
        assert!(engine.eval("hub.ping()").as_f64().unwrap() >= 0.0);
        engine.eval("hub.close(), 1");
    }
}

fn a_storm(engine: &mut dyn Engine) {
    const MESSAGES: u32 = 30_000;
    let server = Server::start(&[]);
    load(engine, &server, "", "{}");
    engine.eval("hub.subscribe('storm')");
    engine.eval(
        "globalThis.last = 0, globalThis.isInOrder = true, hub.addEventListener('message', ({ offset, data }) => {
        isInOrder &&= offset === last + 1 && data === `message ${last}`; last = offset; seen.message.length = 0 })",
    );
    let mut publisher = server.connect("/t/storm?mode=pub");
    for number in 0..MESSAGES {
        publisher.send_text(&format!("message {number}"));
        // Commands are answered among the messages.
        if number % 10_000 == 5_000 {
            engine.eval("hub.ping()");
        }
    }
    engine.until(&format!("last === {MESSAGES}"));
    assert_eq!(engine.eval("[isInOrder, hub.state, seen.error.length]"), json!([true, "open", 0]));
    // A storm of commands: more than the server takes at once.
    let own = "Promise.all(Array.from({ length: 2000 }, (_, at) => hub.publish('own', at)))";
    assert_eq!(
        engine.eval(&format!("{own}.then(places => places.every(({{ offset }}, at) => offset === at + 1))")),
        true
    );
}

fn errors_disturb_nothing(engine: &mut dyn Engine) {
    let server = Server::start(&["--max-message", "1KiB", "--max-subscriptions", "2"]);
    load(engine, &server, "", "{}");
    engine.eval("hub.subscribe('x')");
    let mut check = |expression: &str, error: Value| {
        assert_eq!(engine.eval(&format!("failure({expression})")), error, "{expression}");
    };
    check("hub.subscribe('')", json!(["bad_topic", 108, false]));
    check("hub.subscribe('x')", json!(["already_subscribed", 110, false]));
    check("hub.unsubscribe('unknown')", json!(["not_subscribed", 111, false]));
    check("hub.publish('a\\nb', 1)", json!(["bad_topic", 108, false]));
    check("hub.publish('x')", json!(["missing_member", 106, false]));
    check("hub.publish('x', 1, { event: '' })", json!(["bad_member", 107, false]));
    check("hub.refresh('t')", json!(["no_authenticator", 123, false]));
    check("hub.subscribe('y').then(() => hub.subscribe('z'))", json!(["too_many_topics", 112, false]));
    server.connect("/t/x?mode=pub").send_text("still here");
    engine.until("seen.message.at(-1)?.data === 'still here'");
    assert_eq!(engine.eval("[hub.state, seen.error.length, seen.state.length]"), json!(["open", 0, 1]));
}

fn refused_tokens(engine: &mut dyn Engine) {
    let routes = "[[routes]]\nmatch = \"/ws\"\nhandler = \"ringhub.v1\"\n\
                  [routes.bearer.tokens]\nann = [\"first\", \"se/cond=\"]\n\
                  [[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n";
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("client-{}.toml", std::process::id()));
    fs::write(&file, routes).unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    fs::remove_file(file).unwrap();
    load(engine, &server, "", "{ token: 'wrong' }");
    engine.eval("globalThis.waits = failure(hub.publish('x', 1)), 1");
    engine.until("hub.state === 'closed'");
    let told = engine.eval("seen.error.map(({ error }) => [error.name, error.status, error.temporary])");
    assert_eq!(told, json!([["refused", 401, false]]));
    assert_eq!(engine.eval("waits"), json!(["refused", null, false]));
    let refused = server.counts().refused();
    assert_eq!(engine.eval("failure(hub.publish('x', 1))"), json!(["closed", null, false]));
    assert_eq!(server.counts().refused(), refused);
    // A function may have another token the next time.
    make(engine, &server, "", "{ token: (tokens => async () => tokens.shift())(['wrong', 'first']) }");
    engine.until("hub.state === 'open'");
    engine.eval("hub.refresh('se/cond=')");
    // The server takes one token a second.
    let again = "(async () => { for (;;) { const told = await failure(hub.refresh('wrong')); \
                 if (told[0] !== 'too_many_commands') return told; \
                 await new Promise(done => setTimeout(done, 200)) } })()";
    assert_eq!(engine.eval(again), json!(["unauthorized", 120, false]));
    engine.eval("hub.close(), 1");
    // This token is no name of a subprotocol.
    make(engine, &server, "", "{ token: 'se/cond=' }");
    engine.until("hub.state === 'open'");
}

fn a_server_that_leaves(engine: &mut dyn Engine) {
    let mut server = Server::start(&[]);
    let address = server.address();
    load(engine, &server, "", "{ maxDelay: 5000 }");
    engine.eval("hub.subscribe('x')");
    server.signal(Signal::TERM);
    engine.until("hub.state !== 'open'");
    server.wait();
    let told = "seen.state.find(({ state }) => state === 'waiting')";
    assert_eq!(engine.eval(&format!("{told}.code")), 1012);
    assert_eq!(engine.eval(&format!("{told}.delay === JSON.parse({told}.reason).retry_after_ms")), true);
    let server = again(address);
    engine.until("seen.subscribed.length === 2");
    server.connect("/t/x?mode=pub").send_text("back");
    engine.until("seen.message.at(-1)?.data === 'back'");
}

fn a_killed_server(engine: &mut dyn Engine) {
    let mut server = Server::start(&[]);
    let address = server.address();
    load(engine, &server, "", "{}");
    engine.eval("Promise.all([hub.subscribe('x'), hub.subscribe('y', { echo: true })])");
    server.may_fail();
    server.signal(Signal::KILL);
    engine.until("hub.state !== 'open'");
    server.wait();
    assert_eq!(engine.eval("failure(hub.publish('y', 1, { wait: false }))"), json!(["offline", null, true]));
    engine.eval("globalThis.waits = hub.publish('y', 'waited'), hub.subscribe('z'), 1");
    // The attempts fail until the server is there.
    engine.until("seen.error.some(({ error }) => error.name === 'unreachable')");
    let server = again(address);
    engine.until("hub.state === 'open'");
    assert_eq!(engine.eval("waits.then(({ topic, offset }) => [topic, offset])"), json!(["y", 1]));
    engine.until("seen.message.at(-1)?.data === 'waited'");
    engine.until("seen.subscribed.length === 5");
    let subscribed = "seen.subscribed.map(({ topic, resubscribed }) => `${topic} ${resubscribed}`).sort()";
    let expected = json!(["x false", "x true", "y false", "y true", "z false"]);
    assert_eq!(engine.eval(subscribed), expected);
    server.connect("/t/x?mode=pub").send_text("back");
    engine.until("seen.message.at(-1)?.data === 'back'");
}

fn a_final_close(engine: &mut dyn Engine) {
    let server = Server::start(&["--admin-tokens", "admin", "--publish-tokens", "p"]);
    load(engine, &server, "", "{ token: 'p' }");
    engine.eval("hub.subscribe('x')");
    end_connection(&server, "?code=4403&reason=no%20more");
    engine.until("hub.state === 'closed'");
    assert_eq!(engine.eval("[seen.state.at(-1).code, seen.state.at(-1).reason]"), json!([4403, "no more"]));
    assert_eq!(engine.eval("seen.error.map(({ error }) => [error.name, error.code])"), json!([["closed", 4403]]));
    // The caller may connect again, with the same subscriptions.
    engine.eval("hub.connect(), 1");
    engine.until("seen.subscribed.length === 2");
}

/// Closes a connection of a server, as an operator whose token is `admin`.
pub(crate) fn end_connection(server: &Server, query: &str) {
    let listed: Value = serde_json::from_str(&admin(server, "GET", "/connections")).unwrap();
    let id = listed["connections"][0]["id"].as_str().unwrap();
    admin(server, "DELETE", &format!("/connections/{id}{query}"));
}

/// Sends a request of an operator.
fn admin(server: &Server, method: &str, target: &str) -> String {
    let head = request(method, target).replacen("\r\n\r\n", "\r\nAuthorization: Bearer admin\r\n\r\n", 1);
    exchange(server.address(), &head).body
}

/// Starts another server at an address.
fn again(address: std::net::SocketAddr) -> Server {
    let mut command = program();
    command.args(["--listen", &address.to_string()]);
    Server::start_at(command)
}

/// The files are served to all origins, with validators, and a route, a service or a folder keeps its path.
pub(crate) fn files_are_served(_: &mut Browser) {
    let server = Server::start(&["--allowed-origins", "https://page.example"]);
    let address = server.address();
    for (path, media_type, part) in
        [("/client.js", "text/javascript", "class Ringhub "), ("/client.d.ts", "text/plain", "class Ringhub ")]
    {
        let get = |lines: &str| {
            let lines = format!("\r\nOrigin: https://other.example\r\nConnection: close\r\n{lines}\r\n");
            let mut stream = dial(address);
            stream.write_all(request("GET", path).replacen("\r\n\r\n", &lines, 1).as_bytes()).unwrap();
            // An answer of 304 has no length, so it is read to its end.
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer.split_once("\r\n\r\n").map(|(head, body)| (head.to_lowercase(), body.to_owned())).unwrap()
        };
        let (head, body) = get("");
        assert!(head.starts_with("http/1.1 200 ") && body.contains(part), "{head}");
        for line in [&format!("content-type: {media_type}"), "access-control-allow-origin: *\r\n", "max-age=300"] {
            assert!(head.contains(line), "{head}");
        }
        let answer = exchange(address, &request("GET", path));
        let tag = answer.header("etag").unwrap();
        for (known, status) in [(tag, 304), (&format!("\"x\", W/{tag}"), 304), ("*", 304), ("\"x\"", 200)] {
            let (head, body) = get(&format!("If-None-Match: {known}\r\n"));
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{known}: {head}");
            assert_eq!(body.is_empty(), status == 304, "{known}");
        }
        assert_eq!(exchange(address, &request("POST", path)).status(), 405);
    }
    assert!(exchange(address, &request("GET", "/client.js")).body.len() <= 8_192);
}

/// A folder at `/` keeps the path of a file that it has, and a route keeps its own.
pub(crate) fn files_give_way(_: &mut Browser) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("site-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let settings = folder.join("settings.toml");
    let file = "[[routes]]\nmatch = \"/\"\ndocuments = \".\"\n\
                [[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n\
                [[routes]]\nmatch = \"/client.d.ts\"\nhandler = \"echo\"\n";
    fs::write(&settings, file).unwrap();
    let server = Server::start(&["--config", settings.to_str().unwrap()]);
    let get = |path: &str| exchange(server.address(), &request("GET", path));
    assert!(get("/client.js").body.contains("class Ringhub "));
    assert_eq!(get("/other.js").status(), 404);
    assert_eq!(get("/client.d.ts").status(), 426);
    fs::write(folder.join("client.js"), "own").unwrap();
    assert_eq!(get("/client.js").body, "own");
    drop(server);
    fs::remove_dir_all(folder).unwrap();
    // A server without topics has no client.
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("echo-{}.toml", std::process::id()));
    fs::write(&file, "[[routes]]\nmatch = \"/echo\"\nhandler = \"echo\"\n").unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    fs::remove_file(file).unwrap();
    assert_eq!(exchange(server.address(), &request("GET", "/client.js")).status(), 404);
}
