//! `ringhub reload` and `ringhub drain`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Output, Stdio},
    thread,
};

use rustix::process::{Pid, Signal};

use super::{Pair, Reloadable};
use crate::support::{RESTART, Server, close, program, run_to_end};

fn run(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments);
    run_to_end(command)
}

/// Runs a command for the server, and returns its status and what it has said.
fn act(command: &str, server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    act_on(command, server.pid(), arguments)
}

fn act_on(command: &str, pid: Pid, arguments: &[&str]) -> (Option<i32>, String) {
    let pid = pid.as_raw_nonzero().to_string();
    let output = run(&[&[command, "--pid", &pid], arguments].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Returns the address of the server, which has taken a free port that its settings do not name.
fn address(server: &Server) -> Vec<String> {
    vec!["--address".into(), server.address().to_string()]
}

fn reload(hub: &Reloadable) -> (Option<i32>, String) {
    let address = address(hub.server());
    act("reload", hub.server(), &address.iter().map(|word| &**word).collect::<Vec<_>>())
}

#[test]
fn a_reload_ends_when_the_server_has_the_settings() {
    let hub = Reloadable::start("");
    let mut pair = Pair::connect(hub.server(), "x");
    // The metrics need one of the new tokens from the reload on.
    hub.write("ringhub.toml", "publish_tokens = \"p1\"\nmetrics_tokens = \"m1\"\nshards = 200\nsandbox = \"on\"\n");
    let (status, said) = reload(&hub);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("has reloaded its settings; ") && said.contains("a restart, see its log"), "{said}");
    assert_eq!((hub.post("/t/x", None, "no"), hub.post("/t/y", Some("p1"), "yes")), (401, 202));
    pair.talk();
    hub.write("ringhub.toml", "publish_tokens = \"p2\"\nmetrics_tokens = \"m2\"\n");
    let (status, said) = reload(&hub);
    assert_eq!((status, said.ends_with("has reloaded its settings\n")), (Some(0), true), "{said}");
    assert_eq!((hub.post("/t/y", Some("p1"), "no"), hub.post("/t/y", Some("p2"), "yes")), (401, 202));
}

/// Settings that are wrong by themselves never reach the server.
#[test]
fn wrong_settings_are_not_told_to_the_server() {
    let hub = Reloadable::start("");
    hub.write("ringhub.toml", "max_message = \"much\"\npublish_tokens = \"file:missing\"\n");
    let (status, said) = reload(&hub);
    assert_eq!(status, Some(1));
    assert!(
        said.contains("ringhub.toml:1: max_message: ") && said.contains("missing of the value cannot be read"),
        "{said}"
    );
    assert_eq!(hub.counts(), (0, 0));
}

/// A route that only a restart takes away still has to fit the new limits. Only the server knows that.
#[test]
fn a_refusal_by_the_server_is_a_failure() {
    let hub = Reloadable::start("[[routes]]\nmatch = \"/a\"\nhandler = \"echo\"\nmax_message = \"2MiB\"\n");
    hub.write("ringhub.toml", "max_message = \"1KiB\"\nmax_backlog = \"1MiB\"\n");
    let (status, said) = reload(&hub);
    assert_eq!(status, Some(1));
    assert!(said.contains("has refused the reload; the reason is in its log"), "{said}");
    hub.server().log_until("2MiB needs a max_backlog of 4MiB, which is 1MiB");
}

/// Until its restart the server answers where it did before, and not where its file says.
#[test]
fn an_address_that_needs_a_restart_hides_no_outcome() {
    let hub = Reloadable::start("");
    hub.write("ringhub.toml", "metrics_listen = \"127.0.0.1:1\"\n");
    let (status, said) = act("reload", hub.server(), &[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("has reloaded its settings; ") && said.contains("a restart, see its log"), "{said}");
}

#[test]
fn a_server_whose_outcome_cannot_be_read_is_a_failure() {
    let hub = Reloadable::start("");
    let (status, said) = act("reload", hub.server(), &["--address", "127.0.0.1:1", "--timeout", "300ms"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("http://127.0.0.1:1/metrics, which tell the outcome, cannot be read: "), "{said}");
    hub.server().log_until("the settings are reloaded");
}

#[test]
fn only_a_server_is_told() {
    let own = std::process::id().to_string();
    for command in ["reload", "drain"] {
        for (pid, what) in [
            (&*own, "is no server of ringhub"),
            ("0", "is no number of a process"),
            ("-1", "is no number of a process"),
            ("2147483647", "cannot be found: No such process"),
        ] {
            let output = run(&[command, &format!("--pid={pid}")]);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(error.starts_with("ringhub: ") && error.contains(what), "{command} {pid}: {error}");
        }
    }
}

/// Root acts on a process that says it is a server, and belongs to somebody else. The files that its settings name are
/// read with its user's rights, so root's own are neither read nor sent anywhere.
#[test]
fn files_are_read_with_the_rights_of_the_servers_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("ringhub-owner-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let (secret, fake) = (folder.join("secret"), folder.join("ringhub"));
    fs::write(&secret, "a-token-that-only-root-may-read").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy("/bin/sh", &fake).unwrap();
    let mut process = Command::new(&fake)
        .env_clear()
        .env("RINGHUB_METRICS_TOKENS", format!("file:{}", secret.display()))
        .env("RINGHUB_METRICS_LISTEN", "127.0.0.1:1")
        .current_dir("/")
        .uid(12_345)
        .gid(12_345)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let output = run(&["reload", &format!("--pid={}", process.id()), "--timeout=1s"]);
    process.kill().unwrap();
    process.wait().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("secret") && error.contains("Permission denied"), "{error}");
}

#[test]
fn a_drain_ends_with_the_process() {
    let mut server = Server::start(&["--drain-timeout", "60s"]);
    let mut client = server.connect("/t/x");
    let pid = server.pid();
    let told = thread::spawn(move || act_on("drain", pid, &["--timeout", "60s"]));
    client.expect(close(1012, RESTART));
    let told = told.join().unwrap();
    assert_eq!((told.0, told.1.ends_with(" has ended\n")), (Some(0), true), "{}", told.1);
    assert!(server.wait().success());
}

#[test]
fn a_drain_that_takes_too_long_is_a_failure() {
    let mut server = Server::start(&["--drain-timeout", "60s", "--close-timeout", "60s"]);
    let mut client = server.connect("/t/x");
    client.never_answer();
    let (status, said) = act("drain", &server, &["--timeout", "200ms"]);
    assert_eq!((status, said.contains("has not ended within 200ms")), (Some(1), true), "{said}");
    server.may_fail();
    server.signal(Signal::TERM);
    server.wait();
}
