//! The example that prints a topic.

use std::{path::PathBuf, process::Command};

use super::support::{Program, Server};

#[test]
fn it_prints_what_arrives() {
    let mut server = Server::start(&[]);
    let mut command = Command::new(example("client_tail"));
    command.arg(format!("ws://{}/t/news", server.address()));
    let mut tail = Program::start(command);
    tail.log_until("connected to ws://");
    let mut publisher = server.connect("/t/news?mode=pub");
    publisher.send_text("first ⚡");
    publisher.send_binary(&[0; 7]);
    assert_eq!(tail.line().as_deref(), Some("first ⚡"));
    assert_eq!(tail.line().as_deref(), Some("7 bytes"));
    publisher.leave();
    let address = server.address();
    server.end();
    tail.log_until("lost: the server closed (1001");
    // Another hub at the same address, as after a restart.
    let mut command = super::support::program();
    command.args(["--listen", &address.to_string()]);
    let server = Server::start_at(command);
    tail.log_until("connected again to ws://");
    let mut publisher = server.connect("/t/news?mode=pub");
    publisher.send_text("second");
    assert_eq!(tail.line().as_deref(), Some("second"));
    tail.interrupt();
    assert!(tail.wait().success());
}

#[test]
fn it_says_what_is_wrong() {
    let check = |arguments: &[&str], code: i32, message: &str| {
        let mut command = Command::new(example("client_tail"));
        command.args(arguments);
        let mut tail = Program::start(command);
        tail.log_until(message);
        assert_eq!(tail.wait().code(), Some(code));
    };
    check(&[], 2, "usage");
    check(&["http://hub/"], 1, "the scheme \"http\" is not possible here");
    let server = Server::start(&[]);
    check(&[&format!("ws://{}/nothing", server.address())], 1, "the server refused: 404");
}

/// An example of this package, built as this test was.
pub(crate) fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    // target/<profile>/deps/<this>
    let profile = this.ancestors().nth(2).unwrap();
    let target = profile.parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--package", "ringhub", "--example", name]);
    build.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo tells this test about its package is not so for others: their build scripts would run again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    if profile.file_name().is_some_and(|name| name == "release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the example does not compile");
    profile.join("examples").join(name)
}
