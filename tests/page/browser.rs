//! Controls a headless Chromium over its DevTools protocol: JSON over a WebSocket.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::{Client, DEADLINE, Received};

/// Returns the path of a program, if the search path has it.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A Chromium with a new profile. A drop ends it.
pub(crate) struct Browser {
    process: Child,
    profile: PathBuf,
}

impl Browser {
    /// Returns the path of an installed Chromium.
    pub(crate) fn find() -> Option<PathBuf> {
        ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"].into_iter().find_map(installed)
    }

    pub(crate) fn start(program: PathBuf) -> Browser {
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}", std::process::id()));
        fs::create_dir_all(&profile).unwrap();
        let process = Command::new(&program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--lang=en"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Browser { process, profile }
    }

    /// Opens an empty page in a new context.
    pub(crate) fn page(&mut self) -> Page {
        let (port, target) = self.endpoint();
        let client = Client::connect(([127, 0, 0, 1], port).into(), &target);
        let mut page = Page { client, session: None, calls: 0, seen: Seen::default() };
        let context = page.call("Target.createBrowserContext", json!({}))["browserContextId"].take();
        let target = page.call("Target.createTarget", json!({"url": "about:blank", "browserContextId": context}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        page.session = Some(page.call("Target.attachToTarget", attach)["sessionId"].take());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page
    }

    /// Returns the port and path of the DevTools protocol, which Chromium writes to a file when it listens.
    fn endpoint(&mut self) -> (u16, String) {
        let begin = Instant::now();
        loop {
            let written = fs::read_to_string(self.profile.join("DevToolsActivePort")).unwrap_or_default();
            if let Some((port, path)) = written.split_once('\n') {
                return (port.parse().unwrap(), path.trim().to_string());
            }
            assert!(self.process.try_wait().unwrap().is_none(), "Chromium has ended");
            assert!(begin.elapsed() < DEADLINE, "Chromium does not start");
            thread::sleep(POLL);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.profile));
    }
}

/// A page in the browser.
pub(crate) struct Page {
    client: Client,
    session: Option<Value>,
    calls: u64,
    seen: Seen,
}

/// Events on the page since the last [`Page::take_seen`].
#[derive(Default)]
pub(crate) struct Seen {
    /// The errors on the page's console.
    pub(crate) errors: Vec<String>,
    /// Each request as the protocol describes it: `url`, `method`, `headers`, `postData`. A WebSocket has only a `url`.
    pub(crate) requests: Vec<Value>,
}

impl Page {
    /// Opens an address, and waits until the page is loaded.
    pub(crate) fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        let here = json!(url);
        self.until(&format!("document.readyState === 'complete' && location.href.startsWith({here})"));
    }

    /// Returns the value of a JavaScript expression.
    #[track_caller]
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut outcome = self.call("Runtime.evaluate", parameters);
        assert!(outcome.get("exceptionDetails").is_none(), "{expression}: {}", outcome["exceptionDetails"]);
        outcome["result"]["value"].take()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn until(&mut self, expression: &str) {
        let begin = Instant::now();
        while self.eval(expression) != json!(true) {
            if begin.elapsed() > DEADLINE {
                let text = self.eval("document.body.innerText");
                panic!("never: {expression}\n{}\n{:?}", text.as_str().unwrap_or_default(), self.seen.errors);
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until the text of the element with this id contains `text`.
    #[track_caller]
    pub(crate) fn until_says(&mut self, id: &str, text: &str) {
        self.until(&format!("document.getElementById({})?.textContent.includes({})", json!(id), json!(text)));
    }

    /// Clicks the first element that a selector finds.
    #[track_caller]
    pub(crate) fn click(&mut self, selector: &str) {
        self.eval(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// Replaces the text of the element with this id, as a user does.
    #[track_caller]
    pub(crate) fn type_into(&mut self, id: &str, text: &str) {
        let id = json!(id);
        self.eval(&format!("document.getElementById({id}).focus(), document.getElementById({id}).select()"));
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Chooses an option of the select element with this id.
    #[track_caller]
    pub(crate) fn choose(&mut self, id: &str, value: &str) {
        self.eval(&format!(
            "(select => {{ select.value = {}; for (const name of ['input', 'change'])
                select.dispatchEvent(new Event(name, {{ bubbles: true }})) }})(document.getElementById({}))",
            json!(value),
            json!(id)
        ));
    }

    /// Presses and releases a key. Enter also begins a new line, unless the page prevents that. `modifiers` has the
    /// values of the protocol: 2 is Ctrl, 8 is Shift.
    pub(crate) fn press(&mut self, key: &str, modifiers: u32) {
        let mut down = json!({"type": "rawKeyDown", "key": key, "code": key, "modifiers": modifiers});
        if key == "Enter" {
            down["type"] = "keyDown".into();
            down["text"] = "\r".into();
            down["windowsVirtualKeyCode"] = 13.into();
        }
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "code": key, "modifiers": modifiers});
        self.call("Input.dispatchKeyEvent", up);
    }

    /// Sets the size of the screen in pixels, and its color scheme, `light` or `dark`. A screen with a width below 600
    /// is that of a phone.
    pub(crate) fn screen(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", scheme);
    }

    /// Returns the screen as a PNG.
    pub(crate) fn screenshot(&mut self) -> Vec<u8> {
        let image = self.call("Page.captureScreenshot", json!({"format": "png", "optimizeForSpeed": false}));
        BASE64_STANDARD.decode(image["data"].as_str().unwrap()).unwrap()
    }

    /// Returns the events so far, and clears them.
    pub(crate) fn take_seen(&mut self) -> Seen {
        // Chromium reports all earlier events before it answers this call.
        self.eval("1");
        std::mem::take(&mut self.seen)
    }

    /// Calls a method of the protocol and returns its result.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.send(method, parameters);
        loop {
            let Received::Text(text) = self.client.receive() else { panic!("{method}: the page is gone") };
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            if let Some(name) = message["method"].as_str().map(String::from) {
                self.hear(&name, message["params"].take());
            }
        }
    }

    fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone();
        }
        self.client.send_text(&message.to_string());
        self.calls
    }

    fn hear(&mut self, event: &str, mut parameters: Value) {
        match event {
            "Network.requestWillBeSent" => self.seen.requests.push(parameters["request"].take()),
            "Network.webSocketCreated" => self.seen.requests.push(parameters),
            "Runtime.exceptionThrown" => self.seen.errors.push(parameters["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if parameters["type"] == "error" => {
                self.seen.errors.push(parameters["args"].to_string());
            }
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                let entry = &parameters["entry"];
                self.seen.errors.push(format!("{} {}", entry["text"], entry["url"]));
            }
            _ => {}
        }
    }
}

const POLL: Duration = Duration::from_millis(10);
