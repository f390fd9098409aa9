//! Runs the snippets of README.md whose languages are installed, and checks that the metrics in `docs/` exist.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::support::{Client, Server, clean, exchange, program::Program, request, run_to_end, text};

/// A shell, Node and Python publish as the README shows. The snippet for browsers, which Node runs, receives all
/// messages.
#[test]
fn the_snippets_of_the_readme_run() {
    let mut server = Server::start(&[]);
    let address = server.address().to_string();
    let readme = page("README.md");
    let snippet = |language: &str, part: &str| {
        let found = blocks(&readme).into_iter().find(|(its, code)| *its == language && code.contains(part));
        found.unwrap_or_else(|| panic!("no {language} with {part}")).1.replace("127.0.0.1:6455", &address)
    };
    let browser = has(NODE_WITH_WEBSOCKETS, "new WebSocket('ws://127.0.0.1:1').onerror = () => {}")
        .then(|| Program::start(run(NODE_WITH_WEBSOCKETS, &snippet("js", "new WebSocket"))));
    let mut subscriber = Client::connect(server.address(), "/t/orders/eu?mode=sub");
    let count = 1 + u64::from(browser.is_some());
    server.counts_until("subscribers", |counts| counts.get("connections_open") == count);

    let mut published = 0;
    let mut publish = |command: Command, body: &str, printed: &str| {
        published += 1;
        let output = run_to_end(command);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let place = stdout.replace(['"', '\'', ' '], "");
        assert!(stdout.starts_with(printed) && place.contains(&format!("offset:{published}}}")), "{stdout}");
        subscriber.expect(text(body));
        if let Some(browser) = &browser {
            assert_eq!(browser.line().as_deref(), Some(body));
        }
    };
    if has(SHELL, "curl --version") {
        publish(run(SHELL, &snippet("sh", "curl")), "good news", "{\"topic\":\"orders/eu\",\"epoch\":");
    }
    if has(NODE, "fetch.name") {
        publish(run(NODE, &snippet("js", "await fetch")), r#"{"order":17,"state":"paid"}"#, "202 {");
    }
    if has(PYTHON, "import urllib.request") {
        let body = r#"{"order": 17, "state": "paid"}"#;
        publish(run(PYTHON, &snippet("python", "urllib")), body, "{'topic': 'orders/eu', 'epoch': ");
    }
    subscriber.leave();
    server.end();
    if let Some(mut browser) = browser {
        let line = browser.line().unwrap_or_default();
        assert!(line.starts_with(r#"closed 1012 {"retry_after_ms":"#), "{line}");
        assert!(browser.wait().success(), "{}", browser.log());
    }
}

/// The server has each metric that docs/deploy.md names.
#[test]
fn the_metrics_worth_an_alarm_exist() {
    let page = page("docs/deploy.md");
    let chapter = page.split("\n## Metrics\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix('|')?.split(" | ").next());
    let names: Vec<&str> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 4, "{names:?}");
    let server = Server::start(&[]);
    let metrics = exchange(server.address(), &request("GET", "/metrics")).body;
    for name in names {
        assert!(metrics.contains(&format!("\n# TYPE {name} ")), "{name:?} is no metric");
    }
}

fn page(name: &str) -> String {
    fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Returns the fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fences: Vec<&str> = page.split("```").collect();
    assert!(fences.len() % 2 == 1, "a block without an end");
    fences.iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

/// Returns whether a language is installed and can run this code.
fn has(language: &[&str], code: &str) -> bool {
    let runs = run(language, code).stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
    if !runs {
        eprintln!("skipped: {} is not installed, or cannot run {code}", language[0]);
    }
    runs
}

/// Returns the command that runs code, without the caller's settings.
fn run(language: &[&str], code: &str) -> Command {
    let mut command = clean(Command::new(language[0]));
    command.args(&language[1..]).arg(code);
    command
}

const SHELL: &[&str] = &["sh", "-c"];
const PYTHON: &[&str] = &["python3", "-c"];
const NODE: &[&str] = &["node", "--input-type=module", "-e"];
const NODE_WITH_WEBSOCKETS: &[&str] = &["node", "--experimental-websocket", "--input-type=module", "-e"];
