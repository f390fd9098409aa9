//! The engines of JavaScript in which the client is tested: Chromium's pages and workers, Firefox, and Node.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    browser::{Browser, Page, installed},
    support::{Client, DEADLINE, Received, Server, clean},
};

/// An engine of JavaScript.
pub(crate) trait Engine {
    /// Returns the value of an expression. If the value is a promise, waits for it.
    fn eval(&mut self, expression: &str) -> Value;

    /// Waits until an expression is true.
    #[track_caller]
    fn until(&mut self, expression: &str) {
        let begin = Instant::now();
        while self.eval(expression) != json!(true) {
            if begin.elapsed() > DEADLINE {
                panic!("never: {expression}\n{}", self.eval("JSON.stringify(globalThis.seen).slice(-1000)"));
            }
            thread::sleep(POLL);
        }
    }
}

/// A page of no origin in Chromium.
pub(crate) fn page(browser: &mut Browser) -> Box<dyn Engine> {
    Box::new(browser.page())
}

impl Engine for Page {
    fn eval(&mut self, expression: &str) -> Value {
        Page::eval(self, expression)
    }
}

/// A worker of a page of another server: a page without an origin has none.
struct Worker(Page, #[expect(dead_code, reason = "a drop ends it")] Server);

pub(crate) fn worker(browser: &mut Browser) -> Box<dyn Engine> {
    let (mut page, home) = (browser.page(), Server::start(&[]));
    page.open(&format!("http://{}/healthz", home.address()));
    page.eval(
        r#"globalThis.worker = new Worker(URL.createObjectURL(new Blob([`onmessage = async ({ data }) => {
            try { postMessage({ value: await (0, eval)(data) }) } catch (error) { postMessage({ thrown: error.stack }) }
        }`]))), 1"#,
    );
    Box::new(Worker(page, home))
}

impl Engine for Worker {
    fn eval(&mut self, expression: &str) -> Value {
        self.0.eval(&format!(
            "new Promise((resolve, reject) => {{
                worker.onmessage = ({{ data }}) =>
                    'thrown' in data ? reject(new Error(data.thrown)) : resolve(data.value);
                worker.postMessage({});
            }})",
            json!(expression)
        ))
    }
}

/// Node, with the WebSockets that come with it.
struct Node {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

pub(crate) fn node() -> Box<dyn Engine> {
    let mut command = clean(Command::new("node"));
    command.args(["--experimental-websocket", "--no-warnings", "tests/page/client/node.mjs"]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let input = process.stdin.take().expect("it is piped");
    let output = BufReader::new(process.stdout.take().expect("it is piped"));
    Box::new(Node { process, input, output })
}

impl Engine for Node {
    fn eval(&mut self, expression: &str) -> Value {
        writeln!(self.input, "{}", json!(expression)).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{expression}: {line:?}"));
        assert!(answer.get("thrown").is_none(), "{expression}: {}", answer["thrown"]);
        answer["value"].take()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Node may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A page of another server in a Firefox of its own, which is controlled over WebDriver BiDi.
struct Firefox {
    process: Child,
    profile: PathBuf,
    client: Option<Client>,
    context: Value,
    calls: u64,
    home: Server,
}

pub(crate) fn firefox() -> Box<dyn Engine> {
    let program = installed("firefox-esr").expect("the harness has looked for it");
    let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("firefox-{}", std::process::id()));
    drop(fs::remove_dir_all(&profile));
    fs::create_dir_all(&profile).unwrap();
    let mut command = clean(Command::new(program));
    command.env("HOME", &profile).args(["--headless", "--no-remote", "--remote-debugging-port", "0", "--profile"]);
    let process =
        command.arg(&profile).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut firefox =
        Firefox { process, profile, client: None, context: Value::Null, calls: 0, home: Server::start(&[]) };
    firefox.client = Some(Client::connect(([127, 0, 0, 1], firefox.port()).into(), "/session"));
    firefox.call("session.new", json!({"capabilities": {}}));
    firefox.context = firefox.call("browsingContext.getTree", json!({}))["contexts"][0]["context"].take();
    let url = format!("http://{}/healthz", firefox.home.address());
    firefox.call("browsingContext.navigate", json!({"context": firefox.context, "url": url, "wait": "complete"}));
    Box::new(firefox)
}

impl Firefox {
    /// Returns the port of WebDriver BiDi, which Firefox writes to a file when it listens.
    fn port(&mut self) -> u16 {
        let begin = Instant::now();
        loop {
            let written = fs::read_to_string(self.profile.join("WebDriverBiDiServer.json")).unwrap_or_default();
            if let Some(port) = serde_json::from_str::<Value>(&written).ok().and_then(|file| file["ws_port"].as_u64()) {
                return port as u16;
            }
            assert!(self.process.try_wait().unwrap().is_none(), "Firefox has ended");
            assert!(begin.elapsed() < DEADLINE, "Firefox does not start");
            thread::sleep(POLL);
        }
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let client = self.client.as_mut().expect("it is connected");
        client.send_text(&json!({"id": self.calls, "method": method, "params": parameters}).to_string());
        loop {
            let Received::Text(text) = client.receive() else { panic!("{method}: Firefox is gone") };
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == self.calls {
                assert_eq!(message["type"], "success", "{method}: {message}");
                return message["result"].take();
            }
        }
    }
}

impl Engine for Firefox {
    fn eval(&mut self, expression: &str) -> Value {
        // The protocol would describe a value in its own way.
        let expression = format!("(async () => JSON.stringify(await ({expression})))()");
        let target = json!({"context": self.context});
        let parameters = json!({"expression": expression, "target": target, "awaitPromise": true});
        let outcome = self.call("script.evaluate", parameters);
        assert_eq!(outcome["type"], "success", "{expression}: {outcome}");
        outcome["result"]["value"].as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.profile));
    }
}

const POLL: Duration = Duration::from_millis(10);
