//! The page at `/` in a real browser: what it shows, what it sends, and that it sends requests only to its server.
//!
//! One Chromium serves all tests; each test has its own page and server. So this binary has its own `main`, with the
//! output of libtest. Without a Chromium it reports the tests as ignored, with the reason.

mod browser;
mod client;
mod engines;
#[path = "../support/example.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod example;
mod harness;
mod login;
mod prices;
mod sse;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
mod support;

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use browser::{Browser, Page, installed};
use harness::Test;
use rustix::process::Signal;
use serde_json::json;
use support::{Server, binary_path, program, text};

const TESTS: &[Test] = &[
    ("messages_appear", messages_appear),
    ("json_is_indented_as_it_stands", json_is_indented_as_it_stands),
    ("a_filter_and_a_pause", a_filter_and_a_pause),
    ("a_flood_is_counted_whole", a_flood_is_counted_whole),
    ("publishing_by_the_websocket", publishing_by_the_websocket),
    ("publishing_by_post", publishing_by_post),
    ("an_event_stream_and_posts", an_event_stream_and_posts),
    ("a_close_is_shown_and_mended", a_close_is_shown_and_mended),
    ("a_close_code_in_words", a_close_code_in_words),
    ("several_topics_on_one_socket", several_topics_on_one_socket),
    ("a_hub_without_its_own_path", a_hub_without_its_own_path),
    ("a_close_for_a_size_is_clean", a_close_for_a_size_is_clean),
    ("a_refusal_is_explained", a_refusal_is_explained),
    ("tokens_for_one_way_only", tokens_for_one_way_only),
    ("an_origin_that_is_not_allowed", an_origin_that_is_not_allowed),
    ("few_connections_for_an_address", few_connections_for_an_address),
    ("the_topic_stands_in_the_address", the_topic_stands_in_the_address),
    ("figures", figures),
    ("figures_elsewhere_or_locked", figures_elsewhere_or_locked),
    ("lines_for_a_shell", lines_for_a_shell),
    ("every_control_has_a_name", every_control_has_a_name),
    ("narrow_and_dark", narrow_and_dark),
    ("a_login_in_node", login::in_node),
    ("a_login_in_python", login::in_python),
    ("a_login_in_php", login::in_php),
    ("client_files", client::files_are_served),
    ("client_files_give_way", client::files_give_way),
    ("client_scripted_in_node", client::scripted),
    ("client_in_a_page", client::in_a_page),
    ("client_in_a_worker", client::in_a_worker),
    ("client_in_firefox", client::in_firefox),
    ("client_in_node", client::in_node),
    ("event_source_in_a_page", sse::in_a_page),
    ("prices_on_a_slow_page", prices::a_slow_page_keeps_up),
];

/// The programs that tests need, beside a Chromium.
const PROGRAMS: &[(&str, &str)] = &[
    ("a_login_in_node", "node"),
    ("a_login_in_python", "python3"),
    ("a_login_in_php", "php"),
    ("client_scripted_in_node", "node"),
    ("client_in_firefox", "firefox-esr"),
    ("client_in_node", "node"),
];

fn messages_appear(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "news/today");
    let mut other = server.connect("/t/news/today");
    other.send_text("<b>é⚡</b>");
    other.send_binary(&[0, 0xff, b'A']);
    page.until("document.querySelectorAll('#list li').length === 2");
    let row = |number| format!("[...document.querySelectorAll('#list li')[{number}].children].map(e => e.textContent)");
    let newest = page.eval(&row(0));
    assert_eq!((&newest[0], &newest[2], &newest[3]), (&json!("#2"), &json!("3 B"), &json!("00 ff 41  ··A")));
    let oldest = page.eval(&row(1));
    assert_eq!((&oldest[0], &oldest[2], &oldest[3]), (&json!("#1"), &json!("12 B"), &json!("<b>é⚡</b>")));
    // A long message is shown whole after a click.
    other.send_text(&"long ".repeat(1_000));
    page.until("document.querySelector('#list button') !== null");
    page.click("#list button");
    page.until("document.querySelector('#list li').lastElementChild.textContent.length === 5000");
    page.click("#clear");
    page.until_says("total", "0");
    assert_eq!(page.eval("document.querySelectorAll('#list li').length"), 0);
    is_quiet(&mut page, &server);
}

/// Numbers that JavaScript cannot represent, and repeated names, are shown as they were sent.
fn json_is_indented_as_it_stands(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "x");
    page.click("#pretty");
    let mut check = |sent: &str, shown: &str| {
        server.connect("/t/x?mode=pub").send_text(sent);
        page.until(&format!("document.querySelector('#list li')?.lastChild.textContent === {}", json!(shown)));
    };
    check(r#"{"id":12345678901234567890,"id":1.0}"#, "{\n  \"id\": 12345678901234567890,\n  \"id\": 1.0\n}");
    check(r#"[ ]"#, "[]");
    check(r#"[{"a":"[\"{,:"},{}]"#, "[\n  {\n    \"a\": \"[\\\"{,:\"\n  },\n  {}\n]");
    check("[not JSON]", "[not JSON]");
    // Deep or long JSON, which would become far more with its indents, is shown as it was sent.
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    check(&deep(65), &deep(65));
    let long = format!("[{}]", "1,".repeat(9_000) + "1");
    check(&long, &format!("{}… all of it", &long[..600]));
    is_quiet(&mut page, &server);
}

fn a_filter_and_a_pause(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "x");
    let mut other = server.connect("/t/x");
    let rows = |page: &mut Page, texts: &[&str]| {
        let shown = "[...document.querySelectorAll('#list li')].map(row => row.lastChild.textContent)";
        page.until(&format!("JSON.stringify({shown}) === JSON.stringify({})", json!(texts)));
    };
    for message in ["apple", "pear (1)", "apple pie"] {
        other.send_text(message);
    }
    rows(&mut page, &["apple pie", "pear (1)", "apple"]);
    page.type_into("filter", "APPLE");
    rows(&mut page, &["apple pie", "apple"]);
    page.type_into("filter", "(");
    rows(&mut page, &["pear (1)"]);
    page.type_into("filter", "");
    page.click("#pause");
    other.send_text("later");
    page.until_says("total", "4");
    page.until_says("missed", "1 not shown");
    rows(&mut page, &["apple pie", "pear (1)", "apple"]);
    // Shown messages can be filtered during the pause.
    page.type_into("filter", "r");
    rows(&mut page, &["pear (1)"]);
    page.type_into("filter", "");
    page.click("#pause");
    rows(&mut page, &["later", "apple pie", "pear (1)", "apple"]);
    page.until("document.getElementById('missed').textContent === ''");
    is_quiet(&mut page, &server);
}

fn a_flood_is_counted_whole(browser: &mut Browser) {
    const MESSAGES: usize = 30_000;
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "x");
    let mut other = server.connect("/t/x?mode=pub");
    for number in 0..MESSAGES {
        other.send_text(&format!("message {number}"));
    }
    page.until_says("total", "30,000");
    page.until("document.querySelector('#list li').lastChild.textContent === 'message 29999'");
    assert_eq!(page.eval("document.querySelectorAll('#list li').length"), 500);
    assert_eq!(page.eval("log.kept.length"), 500);
    is_quiet(&mut page, &server);
}

fn publishing_by_the_websocket(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "x");
    let mut other = server.connect("/t/x");
    page.type_into("body", "from");
    // Shift+Enter begins a new line; Enter publishes.
    page.press("Enter", SHIFT);
    page.call("Input.insertText", json!({"text": "the page"}));
    page.press("Enter", 0);
    other.expect(text("from\nthe page"));
    assert_eq!(page.eval("ui.body.value"), "from\nthe page");
    page.until_says("list", "from\nthe page");
    page.until_says("answer", "Published: offset 1, epoch ");
    page.choose("kind", "json");
    page.click("#publish button");
    page.until_says("answer", "No JSON");
    page.type_into("body", "[1]");
    page.click("#publish button");
    other.expect(text("[1]"));
    page.choose("mode", "sub");
    page.until_says("state", "Watching");
    assert_eq!(page.eval("ui.way.value"), "post");
    page.choose("way", "socket");
    page.click("#publish button");
    page.until_says("answer", "only receives");
    page.click("#stop");
    page.click("#publish button");
    page.until_says("answer", "Not connected");
    other.expect_nothing();
    is_quiet(&mut page, &server);
}

/// A whole client without a WebSocket.
fn an_event_stream_and_posts(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "a");
    page.choose("mode", "stream");
    page.until_says("state", "Watching a");
    page.type_into("body", "{\"x\": 1}");
    page.click("#publish button");
    page.until_says("answer", "Published: offset 1, epoch ");
    page.until_says("list", "\"x\": 1");
    server.expect_counts(&[("connections_open", 1)]);
    server.connect("/t/a").send_binary(&[1, 0xff]);
    page.until_says("list", "01 ff");
    page.type_into("body", "two\nlines");
    page.click("#publish button");
    page.until_says("list", "two\nlines");
}

fn publishing_by_post(browser: &mut Browser) {
    let server = Server::start(&["--max-message", "200"]);
    let mut page = watch(browser, &server, "a b/c");
    let mut other = server.connect("/t/a%20b/c");
    page.choose("way", "post");
    page.type_into("body", "é");
    page.click("#publish button");
    other.expect(text("é"));
    page.until_says("answer", "Published: offset 1, epoch ");
    page.choose("kind", "json");
    page.type_into("body", r#"{"a":1}"#);
    page.click("#publish button");
    other.expect(text(r#"{"a":1}"#));
    page.until_says("answer", "Published: offset 2, epoch ");
    // A POST goes to the topic in the field, which may differ from the watched one. A WebSocket could not do this.
    let mut elsewhere = server.connect("/t/elsewhere");
    page.type_into("topic", "elsewhere");
    page.click("#publish button");
    elsewhere.expect(text(r#"{"a":1}"#));
    page.until_says("answer", "Published: offset 1, epoch ");
    page.choose("way", "socket");
    page.click("#publish button");
    page.until_says("answer", "Not connected");
    is_quiet(&mut page, &server);
    page.choose("way", "post");
    page.type_into("body", &json!(["more than 200 bytes".repeat(11)]).to_string());
    page.click("#publish button");
    page.until_says("answer", "Refused with 413: the body is larger than the largest message, 200 bytes");
}

fn a_close_is_shown_and_mended(browser: &mut Browser) {
    let mut server = Server::start(&[]);
    let address = server.address();
    let mut page = watch(browser, &server, "x");
    server.signal(Signal::TERM);
    page.until_says("list", "Closed with 1012 (the hub restarts)");
    server.wait();
    page.until_says("state", "The hub does not answer");
    page.until("!document.getElementById('now').hidden");
    // A topic that is typed meanwhile is not watched yet.
    page.type_into("topic", "y");
    let mut command = program();
    command.args(["--listen", &address.to_string()]);
    let server = Server::start_at(command);
    page.until_says("state", "Watching x");
    page.until_says("list", "Connected again");
    server.connect("/t/x?mode=pub").send_text("back");
    page.until_says("list", "back");
}

fn a_close_code_in_words(browser: &mut Browser) {
    let server = Server::start(&["--admin-tokens", "admin"]);
    let mut page = watch(browser, &server, "x");
    client::end_connection(&server, "");
    page.until_says("list", "Closed with 1008 (against the rules): disconnected");
    page.until_says("state", "Watching x");
    page.until_says("list", "Connected again");
    is_quiet(&mut page, &server);
}

fn several_topics_on_one_socket(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "a b");
    page.type_into("topic", "c/d");
    page.click("#add");
    page.until_says("state", "Watching a b, c/d");
    assert_eq!(page.eval("location.hash"), "#a%20b&c/d");
    server.connect("/t/a%20b?mode=pub").send_text("one");
    page.until_says("list", "a bone");
    page.type_into("body", "two");
    page.click("#publish button");
    page.until_says("list", "c/dtwo");
    page.until_says("answer", "Published: offset 1, epoch ");
    let opened = |page: &mut Page| {
        let seen = page.take_seen().requests;
        seen.iter().filter(|request| request["url"].as_str().unwrap().starts_with("ws://")).count()
    };
    assert_eq!(opened(&mut page), 1);
    // The address names both topics.
    page.eval("location.reload()");
    page.until_says("state", "Watching a b, c/d");
    assert_eq!(opened(&mut page), 1);
    page.click("#topics button");
    page.until_says("state", "Watching c/d");
    assert_eq!(page.eval("[location.hash, ui.topics.hidden]"), json!(["#c/d", true]));
    server.connect("/t/a%20b?mode=pub").send_text("no more");
    server.connect("/t/c/d?mode=pub").send_text("three");
    page.until_says("list", "three");
    assert_eq!(page.eval("ui.list.textContent.includes('no more')"), false);
    assert_eq!(opened(&mut page), 0);
}

/// Routes of topics speak the protocol too: the page finds them where there is no `/ws`. A connection there has the
/// topic of its path alone, and the page says so.
fn a_hub_without_its_own_path(browser: &mut Browser) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{}.toml", std::process::id()));
    fs::write(&file, "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n").unwrap();
    let server = Server::start(&["--config", file.to_str().unwrap()]);
    fs::remove_file(file).unwrap();
    let mut page = watch(browser, &server, "x");
    page.type_into("body", "echoed");
    page.click("#publish button");
    page.until_says("list", "echoed");
    page.type_into("topic", "y");
    page.click("#add");
    page.until_says("state", "the topic of its path");
    server.connect("/t/x?mode=pub").send_text("more");
    page.until_says("list", "more");
}

/// For a browser a close is clean only if the server has read everything that the page had sent. So the server reads on
/// after its close frame.
fn a_close_for_a_size_is_clean(browser: &mut Browser) {
    const TIMES: u64 = 60;
    let server = Server::start(&[]);
    let mut page = open(browser, &server, "x");
    let address = json!(format!("ws://{}/t/big", server.address()));
    let closes = page.eval(&format!(
        "(async () => {{
            const closes = {{}};
            for (let number = 0; number < {TIMES}; number++) {{
                const close = await new Promise(resolve => {{
                    const socket = new WebSocket({address});
                    socket.onopen = () => socket.send(new Uint8Array(4 << 20));
                    socket.onclose = event => resolve(`${{event.code}} ${{event.wasClean ? 'clean' : 'unclean'}}`);
                }});
                closes[close] = (closes[close] ?? 0) + 1;
            }}
            return closes;
        }})()"
    ));
    assert_eq!(closes, json!({ "1009 clean": TIMES }));
}

fn a_refusal_is_explained(browser: &mut Browser) {
    let right = "right,right/=";
    let server = Server::start(&["--subscribe-tokens", right, "--publish-tokens", right]);
    let mut page = open(browser, &server, "x");
    page.until_says("state", "Refused: subscribing needs a bearer token");
    page.type_into("token", "wrong");
    page.click("#watch button");
    page.until_says("state", "Refused: the bearer token is not valid");
    // Neither another try nor another mode would help.
    assert_eq!(page.eval("[ui.now.hidden, ui.instead.hidden, ui.again.textContent]"), json!([true, true, ""]));
    // The token was among the subprotocols of the request, and is in no address.
    let seen = page.take_seen();
    let has_shown = |begin: &str, end: &str| {
        let mut urls = seen.requests.iter().map(|request| request["url"].as_str().unwrap());
        urls.any(|url| url.starts_with(begin) && url.ends_with(end))
    };
    assert!(has_shown("ws://", "/ws?binary=true"), "{:#?}", seen.requests);
    assert!(!has_shown("ws://", "wrong"), "{:#?}", seen.requests);
    assert!(!page.eval("location.href").as_str().unwrap().contains("wrong"));
    page.type_into("token", "right");
    page.click("#watch button");
    page.until_says("state", "Watching x");
    page.type_into("body", "both ways");
    page.click("#publish button");
    page.until_says("list", "both ways");
    // This token is no name of a subprotocol.
    page.type_into("token", "right/=");
    page.click("#watch button");
    page.until_says("state", "Watching x");
    let urls: Vec<_> = page.take_seen().requests.iter().map(|request| request["url"].to_string()).collect();
    assert!(urls.iter().any(|url| url.ends_with("&access_token=right%2F%3D\"")), "{urls:?}");
}

fn tokens_for_one_way_only(browser: &mut Browser) {
    let server = Server::start(&["--subscribe-tokens", "s,both", "--publish-tokens", "p,both"]);
    let mut page = open(browser, &server, "x");
    page.type_into("token", "s");
    page.click("#watch button");
    page.until_says("state", "Watching x");
    assert_eq!(page.eval("[ui.other_token.hidden, ui.instead.hidden]"), json!([true, true]));
    page.type_into("body", "hello");
    page.click("#publish button");
    page.until_says("answer", "Refused: this token is not for publishing");
    assert_eq!(page.eval("[document.activeElement.id, ui.way.value]"), json!(["publish_token", "post"]));
    page.type_into("publish_token", "p");
    page.until_says("curl", "Bearer $PUBLISH_TOKEN");
    page.until_says("wscat", "Bearer $TOKEN");
    page.click("#publish button.main");
    page.until_says("list", "hello");
    page.until_says("answer", "Published: offset 1");
    // The token to publish is that of a connection that only publishes.
    page.choose("mode", "pub");
    page.until_says("state", "Connected, only to publish, to x");
    page.choose("way", "socket");
    page.click("#publish button.main");
    page.until_says("answer", "Published: offset 2");
    page.type_into("publish_token", "");
    page.choose("mode", "both");
    page.until_says("state", "Watching x");
    page.type_into("token", "p");
    page.click("#watch button");
    page.until_says("state", "Refused: this token is not for subscribing");
    page.until_says("instead", "Only publish");
    page.click("#instead");
    page.until_says("state", "Connected, only to publish, to x");
}

/// The page's request for the reason has no origin, so the page can only guess the reason.
fn an_origin_that_is_not_allowed(browser: &mut Browser) {
    let server = Server::start(&["--allowed-origins", "https://page.example"]);
    let mut page = open(browser, &server, "x");
    page.until_says("state", &format!("is http://{} among its allowed_origins", server.address()));
    page.until_says("state", "has it reached max_connections or max_connections_per_address");
    page.until("!document.getElementById('now').hidden");
    page.choose("way", "post");
    page.click("#publish button");
    page.until_says("answer", "Refused with 403: pages of ");
    assert_eq!(page.eval("ui.other_token.hidden"), true);
}

/// A browser keeps the connections that loaded the page. They do not take the place of its WebSocket.
fn few_connections_for_an_address(browser: &mut Browser) {
    for limit in ["1", "2"] {
        let server = Server::start(&["--max-connections-per-address", limit]);
        drop(watch(browser, &server, "x"));
    }
}

fn the_topic_stands_in_the_address(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "hello");
    let mut check = |topic: &str, fragment: &str| {
        page.type_into("topic", topic);
        page.click("#watch button");
        page.until_says("state", &format!("Watching {topic}"));
        assert_eq!(page.eval("location.hash"), fragment);
        // Two dots cannot be a segment of a path; within a segment they are text.
        let path = fragment[1..].replace("/../", "%2F..%2F");
        server.connect(&format!("/t/{path}?mode=pub")).send_text(topic);
        page.until_says("list", topic);
    };
    check("news/today", "#news/today");
    check("a?b&c d%", "#a%3Fb%26c%20d%25");
    check("é'⚡", "#%C3%A9%27%E2%9A%A1");
    check("a/../b", "#a/../b");
    page.eval("history.back()");
    page.until_says("state", "Watching é'⚡");
    let too_long = "é".repeat(128);
    page.type_into("topic", &too_long);
    page.click("#watch button");
    page.until_says("state", "at most 255 bytes");
    is_quiet(&mut page, &server);
}

fn figures(browser: &mut Browser) {
    const SUBSCRIBERS: usize = 10;
    let server = Server::start(&["--shards", "2"]);
    let mut page = watch(browser, &server, "x");
    page.until_says("metrics", "live");
    page.until_says("deliveries", "highest 0/s");
    let mut publisher = server.connect("/t/x?mode=pub");
    let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| server.connect("/t/x?mode=sub")).collect();
    // The number is over all shards, and includes the page and the publisher.
    page.until("document.querySelector('#connections output').textContent === '12'");
    for number in 0..100 {
        publisher.send_text(&number.to_string());
    }
    for subscriber in &mut subscribers {
        (0..100).for_each(|number: u32| subscriber.expect(text(&number.to_string())));
    }
    // The rate depends on the machine, the sum does not.
    page.until("figures.last.now.deliveries_total === 1100");
    let sum = "figures.samples.reduce((sum, { seconds, deliveries }, at) => sum + (at ? deliveries * seconds : 0), 0)";
    page.until(&format!("Math.abs({sum} - 1100) < 0.001"));
    page.until("document.querySelector('#deliveries [data-part=line]').getAttribute('d').includes('L')");
    for shown in ["Messages in", "Bytes out", "Deliveries per send", "Slow consumers0", "Slow closes0"] {
        page.until_says("stats", shown);
    }
    assert!(!page.eval("document.body.innerText").as_str().unwrap().contains("NaN"));
    // Keys move the pointer over the plot.
    page.eval("document.querySelector('#connections svg').focus()");
    page.press("ArrowLeft", 0);
    page.until("document.querySelector('#connections output').textContent.includes(' ago')");
    is_quiet(&mut page, &server);
}

fn figures_elsewhere_or_locked(browser: &mut Browser) {
    let server = Server::start(&["--metrics-listen", "127.0.0.1:0"]);
    let mut page = watch(browser, &server, "x");
    page.until_says("metrics", "not served at this address");
    assert_eq!(page.eval("[ui.access.hidden, ui.plots.hidden]"), json!([true, true]));
    let server = Server::start(&["--metrics-tokens", "right"]);
    let mut page = watch(browser, &server, "x");
    page.until_says("metrics", "need a token");
    page.type_into("access_token", "wrong");
    page.click("#access button");
    page.until_says("metrics", "does not accept this token");
    page.type_into("access_token", "right");
    page.click("#access button");
    page.until_says("metrics", "live");
    page.until_says("stats", "Slow consumers0");
    assert_eq!(page.eval("[ui.access.hidden, ui.plots.hidden]"), json!([true, false]));
    // The page removes its figures when the server refuses the token.
    page.eval("ui.access_token.value = 'wrong'");
    page.until_says("metrics", "does not accept this token");
    let shown = "[ui.access.hidden, ui.plots.hidden, ui.stats.childElementCount, figures.samples.length, figures.last]";
    assert_eq!(page.eval(shown), json!([false, true, 0, 0, null]));
    let text = page.eval("document.querySelector('#connections output').textContent");
    assert_eq!(text, "–");
    page.type_into("access_token", "right");
    page.click("#access button");
    page.until_says("metrics", "live");
    page.until_says("stats", "Slow consumers0");
    assert_eq!(page.eval("ui.plots.hidden"), false);
}

fn lines_for_a_shell(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "a'b");
    let address = server.address();
    page.until_says("curl", &format!("curl 'http://{address}/t/a%27b' \\\n  --data-raw 'hello'"));
    page.until_says("wscat", &format!("npx wscat -c 'ws://{address}/t/a%27b?echo=true'"));
    page.type_into("body", "it's");
    page.type_into("token", "secret");
    page.until_says("curl", " \\\n  -H \"Authorization: Bearer $TOKEN\" \\\n  --data-raw 'it'\\''s'");
    assert!(!page.eval("document.body.innerText").as_str().unwrap().contains("secret"));
    is_quiet(&mut page, &server);
}

fn every_control_has_a_name(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "x");
    let tree = page.call("Accessibility.getFullAXTree", json!({}));
    let mut controls = 0;
    for node in tree["nodes"].as_array().unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["button", "checkbox", "combobox", "image", "list", "searchbox", "textbox"].contains(&role) {
            controls += 1;
            assert_ne!(node["name"]["value"], "", "{role}: {node}");
        }
    }
    assert!(controls > 15, "{controls}");
    is_quiet(&mut page, &server);
}

fn narrow_and_dark(browser: &mut Browser) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "x");
    server.connect("/t/x?mode=pub").send_text(&"wide".repeat(200));
    page.until_says("list", "wide");
    let mut grounds = Vec::new();
    for scheme in ["light", "dark"] {
        for width in [360, 390, 768, 1_280] {
            page.screen(width, 800, scheme);
            let widest = page.eval("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(widest <= u64::from(width), "{widest} of {width} pixels");
        }
        let least = page.eval(LEAST_CONTRAST);
        assert!(least[0].as_f64().unwrap() >= 4.5, "{scheme}: {least}");
        grounds.push(page.eval("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(grounds[0], grounds[1]);
    is_quiet(&mut page, &server);
}

/// The modifier Shift of [`Page::press`].
const SHIFT: u32 = 8;

/// WCAG 2.2 1.4.3: the smallest contrast of a text on the page to its background, and this text.
const LEAST_CONTRAST: &str = r#"(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const channels = color => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = color => channels(color).slice(0, 3).map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = element => {
        const color = getComputedStyle(element).backgroundColor;
        return channels(color)[3] || !element.parentElement ? color : behind(element.parentElement);
    };
    const contrast = element => {
        const [dim, bright] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
        return (bright + 0.05) / (dim + 0.05);
    };
    const texts = [...document.body.querySelectorAll("*")].filter(element => element.checkVisibility()
        && [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    return texts.map(element => [contrast(element), element.textContent.slice(0, 40)]).sort((a, b) => a[0] - b[0])[0];
})()"#;

/// Opens a page that watches a topic of the server.
fn watch(browser: &mut Browser, server: &Server, topic: &str) -> Page {
    let mut page = open(browser, server, topic);
    page.until_says("state", &format!("Watching {topic}"));
    page
}

/// Opens a page that tries to watch a topic of the server.
fn open(browser: &mut Browser, server: &Server, topic: &str) -> Page {
    let mut page = browser.page();
    let fragment = topic.replace(' ', "%20");
    page.open(&format!("http://{}/#{fragment}", server.address()));
    page
}

/// Expects no error on the console, and no request to another server.
#[track_caller]
fn is_quiet(page: &mut Page, server: &Server) {
    let seen = page.take_seen();
    assert!(seen.errors.is_empty(), "{:#?}", seen.errors);
    assert!(!seen.requests.is_empty());
    let home = server.address().to_string();
    for request in seen.requests {
        let url = request["url"].as_str().unwrap();
        let host = url.split('/').nth(2).unwrap_or_default();
        assert!(host == home || url.starts_with("data:"), "{url}");
    }
}

/// Watches a topic and publishes to it on the page of a server that serves already; `tests/image` calls this.
fn publish_at(browser: &mut Browser, address: &str) {
    let mut page = browser.page();
    page.open(&format!("http://{address}/#from/the/page"));
    page.until_says("state", "Watching from/the/page");
    for way in ["socket", "post"] {
        page.choose("way", way);
        page.type_into("body", &format!("by {way}"));
        page.click("#publish button");
        page.until_says("list", &format!("by {way}"));
    }
    let errors = page.take_seen().errors;
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Takes screenshots of the page under load; `docs/screenshot` calls this.
fn screenshots(browser: &mut Browser, folder: &Path, seconds: u64) {
    let server = Server::start(&[]);
    let mut page = watch(browser, &server, "orders/eu");
    page.screen(1_200, 720, "light");
    page.type_into("body", r#"{"order":48211,"state":"paid"}"#);
    page.choose("kind", "json");
    let mut publisher = server.connect("/t/orders/eu?mode=pub");
    let mut load = vec![Load::start(&server, 400, 25, seconds)];
    let begin = Instant::now();
    let mut number = 48_211_u64;
    while begin.elapsed() < Duration::from_secs(seconds) {
        let second = begin.elapsed().as_secs();
        let waves = [(seconds / 4, 200, 60), (seconds * 6 / 10, 300, 90)];
        if let Some(&(_, subscribers, rate)) = waves.get(load.len() - 1).filter(|(start, ..)| second >= *start) {
            load.push(Load::start(&server, subscribers, rate, seconds / 6));
        }
        publisher.send_text(&order(number));
        if number.is_multiple_of(9) {
            publisher.send_binary(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        }
        number += 1;
        page.until(&format!("new Promise(done => setTimeout(() => done(true), {}))", 180 + number * 7 % 140));
    }
    page.choose("way", "post");
    page.click("#publish button");
    page.until_says("answer", "offset");
    page.eval("document.activeElement.blur()");
    for scheme in ["light", "dark"] {
        page.screen(1_200, 760, scheme);
        page.until("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))");
        fs::write(folder.join(format!("page-{scheme}.png")), page.screenshot()).unwrap();
    }
}

/// Returns a message as a shop might publish it.
fn order(number: u64) -> String {
    let state = ["placed", "paid", "packed", "shipped"][(number * 7 % 11 % 4) as usize];
    let city = ["Lisbon", "Kraków", "Gent", "Aarhus", "Torino"][(number * 5 % 7 % 5) as usize];
    let cents = number * 7_919 % 20_000;
    json!({"order": number, "state": state, "city": city, "total": cents as f64 / 100.0}).to_string()
}

/// A load generator that ends by itself, or at a drop.
struct Load(Child);

impl Load {
    fn start(server: &Server, subscribers: u32, rate: u32, seconds: u64) -> Load {
        let program = Path::new(binary_path()).with_file_name("ringhub-loadgen");
        let mut command = Command::new(&program);
        command.args(["--sleep", "--preset", "ringhub", "--url", &format!("ws://{}/t/load", server.address())]);
        command.args(["--subscribers", &subscribers.to_string(), "--rate", &rate.to_string()]);
        command.args(["--duration", &format!("{seconds}s")]);
        Load(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the load generator is built"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, folder, seconds] = &arguments[..]
        && flag == "--screenshots"
    {
        let mut browser = Browser::start(Browser::find().expect("there is no Chromium"));
        screenshots(&mut browser, Path::new(folder), seconds.parse().expect("a number of seconds"));
        return ExitCode::SUCCESS;
    }
    if let [flag, program, file, seconds] = &arguments[..]
        && flag == "--prices"
    {
        let mut browser = Browser::start(Browser::find().expect("there is no Chromium"));
        prices::screenshot(
            &mut browser,
            Path::new(program),
            Path::new(file),
            seconds.parse().expect("a number of seconds"),
        );
        return ExitCode::SUCCESS;
    }
    if let [flag, address] = &arguments[..]
        && flag == "--at"
    {
        publish_at(&mut Browser::start(Browser::find().expect("there is no Chromium")), address);
        return ExitCode::SUCCESS;
    }
    harness::run(TESTS, &arguments, |name| {
        let program = PROGRAMS.iter().find(|(of, program)| *of == name && installed(program).is_none());
        program.map(|(_, program)| *program)
    })
}
