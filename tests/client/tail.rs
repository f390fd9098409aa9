//! The example `client_tail`, which prints a topic.

use std::process::Command;

use rustix::process::Signal;

use super::{
    example::example,
    support::{Server, program::Program},
};

#[test]
fn it_prints_messages() {
    // The server asks its clients to come back within so much time.
    let mut server = Server::start(&["--drain-timeout", "1s"]);
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
    tail.log_until("lost: the server closed (1012");
    // A second hub at the same address takes the place of a restarted one.
    let mut command = super::support::program();
    command.args(["--listen", &address.to_string()]);
    let server = Server::start_at(command);
    tail.log_until("connected again to ws://");
    let mut publisher = server.connect("/t/news?mode=pub");
    publisher.send_text("second");
    assert_eq!(tail.line().as_deref(), Some("second"));
    tail.signal(Signal::INT);
    assert!(tail.wait().success());
}

#[test]
fn its_errors_name_the_cause() {
    let check = |arguments: &[&str], code: i32, message: &str| {
        let mut command = Command::new(example("client_tail"));
        command.args(arguments);
        let mut tail = Program::start(command);
        tail.log_until(message);
        assert_eq!(tail.wait().code(), Some(code));
    };
    check(&[], 2, "usage");
    check(&["http://hub/"], 1, "the scheme \"http\" is not supported");
    let server = Server::start(&[]);
    check(&[&format!("ws://{}/nothing", server.address())], 1, "the server refused: 404");
}
