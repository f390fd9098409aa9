//! Values in files of their own (`file:PATH`), as Kubernetes and systemd mount secrets: they are read at the start and
//! at each reload.

use std::{fs, os::unix::fs::PermissionsExt as _};

use rustix::process::Signal;

use super::{Pair, ROUTES, Reloadable, status_of};
use crate::support::{program, run_to_end, text, upgrade_request};

/// A folder of secrets is replaced by the exchange of a link, as the kubelet does it.
#[test]
fn a_mounted_secret_rotates() {
    let hub = Reloadable::start_with("", |_| {});
    for (version, tokens) in [("..1", "old\n"), ("..2", "old\nnew\n"), ("..3", "new\n")] {
        fs::create_dir(hub.path(version)).unwrap();
        fs::write(hub.path(version).join("publish"), tokens).unwrap();
    }
    let link = |version: &str| {
        std::os::unix::fs::symlink(version, hub.path("..next")).unwrap();
        fs::rename(hub.path("..next"), hub.path("..data")).unwrap();
    };
    link("..1");
    let settings = "publish_tokens = [\"file:..data/publish\", \"fixed\"]\n";
    hub.reload(settings);
    let mut subscriber = hub.server().connect("/t/x?mode=sub");
    let mut accepted = |expected: [u16; 3]| {
        let statuses = ["old", "new", "fixed"].map(|token| {
            let status = hub.post("/t/x", Some(token), token);
            if status == 202 {
                subscriber.expect(text(token));
            }
            status
        });
        assert_eq!(statuses, expected);
    };
    accepted([202, 401, 202]);
    link("..2");
    // The file has changed, and the server has not read it again.
    accepted([202, 401, 202]);
    hub.reload(settings);
    accepted([202, 202, 202]);
    link("..3");
    hub.reload(settings);
    accepted([401, 202, 202]);
}

/// The secrets of routes and those of flags and variables may stand in files too.
#[test]
fn secrets_of_routes_flags_and_variables_stand_in_files() {
    let folder = std::env::temp_dir().join(format!("ringhub-secrets-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, secret) in [("flag", "by-flag\n"), ("variable", "by-variable\n")] {
        fs::write(folder.join(name), secret).unwrap();
    }
    let route = format!("{ROUTES}[[routes]]\nmatch = \"/echo\"\nhandler = \"echo\"\n");
    let hub = Reloadable::start_with(&route, |command| {
        command.args(["--publish-tokens", "file:flag"]).env("RINGHUB_SUBSCRIBE_TOKENS", "file:variable");
        command.current_dir(&folder);
    });
    assert_eq!((hub.post("/t/x", None, "no"), hub.post("/t/x", Some("by-flag"), "yes")), (401, 202));
    let subscribe = |token| status_of(hub.server(), &upgrade_request(&format!("/t/x?mode=sub&access_token={token}")));
    assert_eq!((subscribe("by-variable"), subscribe("by-flag")), (101, 403));
    hub.write("app", "secret-1\n");
    let bearer = format!("{route}[routes.bearer]\ntokens = {{ app = \"file:app\" }}\n");
    hub.reload(&bearer);
    let echo = |token| status_of(hub.server(), &upgrade_request(&format!("/echo?access_token={token}")));
    assert_eq!((echo("secret-1"), echo("secret-2")), (101, 401));
    hub.write("app", "secret-2\n");
    fs::write(folder.join("flag"), "other\n").unwrap();
    hub.reload(&bearer);
    assert_eq!((echo("secret-1"), echo("secret-2")), (401, 101));
    assert_eq!((hub.post("/t/x", Some("by-flag"), "no"), hub.post("/t/x", Some("other"), "yes")), (401, 202));
    hub.server().log_until("route /echo: \"***\" -> \"***\"");
    let log = hub.server().log();
    assert!(!log.contains("secret-"), "{log}");
    drop(hub);
    fs::remove_dir_all(folder).unwrap();
}

/// A file that cannot be used refuses the reload, or the start, with the path and the cause.
#[test]
fn a_bad_file_of_a_value_is_refused_with_its_path() {
    let hub = Reloadable::start("");
    let mut pair = Pair::connect(hub.server(), "x");
    hub.write("empty", "\n");
    for (name, cause) in
        [("missing", "cannot be read: No such file"), ("empty", "is empty"), (".", "is no regular file")]
    {
        hub.refuse(&format!("publish_tokens = \"file:{name}\"\n"), cause);
        pair.talk();
        hub.write("ringhub.toml", &format!("publish_tokens = \"file:{name}\"\n"));
        let mut command = program();
        command.arg("check-config").arg(hub.path("ringhub.toml"));
        let output = run_to_end(command);
        let error = String::from_utf8(output.stderr).unwrap();
        let path = hub.path(name).display().to_string();
        assert!(
            error.contains("ringhub.toml:1: publish_tokens: ") && error.contains(&path) && error.contains(cause),
            "{error}"
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn a_secret_that_all_users_may_read_is_told() {
    let hub = Reloadable::start("");
    hub.write("token", "hush\n");
    fs::set_permissions(hub.path("token"), fs::Permissions::from_mode(0o644)).unwrap();
    hub.reload("publish_tokens = \"file:token\"\n");
    hub.server().log_until("token, the file of a value of publish_tokens: its mode is 0644");
    let mut command = program();
    command.arg("check-config").arg(hub.path("ringhub.toml"));
    let output = run_to_end(command);
    let (shown, warned) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(warned.contains("warning: every user of the machine may read "), "{warned}");
    assert!(shown.contains("publish_tokens = [\"***\"]") && !shown.contains("hush"), "{shown}");
}

/// A server in the sandbox reads its file and the files of values again, and takes the new settings.
#[test]
fn a_server_in_the_sandbox_reloads() {
    let hub = Reloadable::start("sandbox = \"on\"\nshards = 2\n");
    let mut pair = Pair::connect(hub.server(), "x");
    hub.write("token", "secret\n");
    hub.reload("sandbox = \"on\"\nshards = 2\npublish_tokens = \"file:token\"\nlog = \"ringhub=debug\"\n");
    pair.talk();
    assert_eq!((hub.post("/t/x", None, "no"), hub.post("/t/y", Some("secret"), "yes")), (401, 202));
    hub.write("token", "");
    hub.server().signal(Signal::HUP);
    hub.server().log_until("token of the value is empty");
    assert_eq!(hub.post("/t/y", Some("secret"), "yes"), 202);
    pair.talk();
    assert!(!hub.server().log().contains("not permitted"), "{}", hub.server().log());
}
