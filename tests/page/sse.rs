//! `EventSource`, as browsers have it, in Chromium: on a page of the server, and on a page of another origin.

use rustix::process::Signal;
use serde_json::json;

use crate::{
    browser::Browser,
    engines::Engine,
    support::{Server, exchange, post, published},
};

pub(crate) fn in_a_page(browser: &mut Browser) {
    let (mut server, other) = (Server::start(&["--drain-timeout", "10s"]), Server::start(&[]));
    let mut page = browser.page();
    for (home, target) in [(&server, "/t/x"), (&other, "/events?topic=x&topic=y")] {
        page.open(&format!("http://{}/healthz", home.address()));
        listen(&mut page, &format!("http://{}{target}", server.address()));
        page.until("seen.length > 0 && seen.every(([type]) => type === 'ready')");
        page.until(&format!("seen.length === {}", if target.starts_with("/t/") { 1 } else { 2 }));
        page.eval("seen.splice(0), 1");
        let (_, epoch, offset) = published(&exchange(server.address(), &post("/t/x", "text/plain", "\u{e4}\n b")));
        page.until("seen.length === 1");
        let seen = page.eval("seen[0]");
        assert_eq!(seen[0], "message");
        if target.starts_with("/t/") {
            assert_eq!((&seen[1], &seen[2]), (&json!(format!("{epoch}.{offset}")), &json!("\u{e4}\n b")));
        } else {
            let data: serde_json::Value = serde_json::from_str(seen[2].as_str().unwrap()).unwrap();
            assert_eq!((&data["topic"], &data["data"]), (&json!("x"), &json!("\u{e4}\n b")));
        }
    }
    // A browser goes on to connect after the end of a drain, and is not told that the stream has failed for good.
    server.signal(Signal::TERM);
    page.until("seen.at(-1)[0] === 'close'");
    page.until("source.readyState === EventSource.CONNECTING");
    page.eval("source.close(), 1");
    assert!(server.wait().success(), "{}", server.log());
}

/// Lets the page read a stream. `seen` has the events.
fn listen(page: &mut impl Engine, url: &str) {
    page.eval(&format!(
        "(() => {{
            globalThis.source?.close();
            globalThis.seen = [];
            globalThis.source = new EventSource({});
            const note = ({{ type, lastEventId, data }}) => seen.push([type, lastEventId, data]);
            for (const type of ['message', 'ready', 'gap', 'close']) source.addEventListener(type, note);
            return 1;
        }})()",
        json!(url)
    ));
}
