//! `ringhub seccomp-profile`, and a server under the profile that it prints.

use std::{fs, path::PathBuf, process::Command, thread};

use seccompiler::{BpfMap, TargetArch, apply_filter, compile_from_json};
use serde_json::{Value, json};

use crate::{
    callbacks::Application,
    sandbox::serve_thirty,
    support::{
        Client, Server, ask, clean, dial,
        program::{Program, binary_path, program, run_to_end},
        request,
    },
};

/// System calls by which the test starts the server's process after it has set the filter.
const OF_THE_TEST: [&str; 3] = ["dup2", "vfork", "wait4"];

/// The name of the one filter that is compiled.
const FILTER: &str = "server";

/// Runs the subcommand, which must succeed, and returns the profile.
pub(crate) fn profile(flags: &[&str]) -> Value {
    let mut command = program();
    command.arg("seccomp-profile").args(flags);
    let output = run_to_end(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the names of all calls that a profile allows.
fn allowed(profile: &Value) -> Vec<String> {
    let rules = profile["syscalls"].as_array().unwrap().iter();
    let plain = rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
    plain.flat_map(|rule| rule["names"].as_array().unwrap()).map(|name| name.as_str().unwrap().into()).collect()
}

/// Compiles a filter that allows the calls of these names. Any other call ends the process, so a call that is missing
/// from the profile is noticed.
fn compile(names: &[String], architecture: TargetArch) -> Result<BpfMap, seccompiler::Error> {
    let rules: Vec<Value> = names.iter().map(|name| json!({ "syscall": name })).collect();
    let filter = json!({ FILTER: { "mismatch_action": "trap", "match_action": "allow", "filter": rules } });
    compile_from_json(filter.to_string().as_bytes(), architecture)
}

/// Calls `start` under a filter that allows only the calls of the minimal profile and of [`OF_THE_TEST`].
fn under_the_profile<T: Send>(start: impl FnOnce() -> T + Send) -> T {
    let mut names = allowed(&profile(&[]));
    names.extend(OF_THE_TEST.map(Into::into));
    let filter = compile(&names, std::env::consts::ARCH.try_into().unwrap()).unwrap();
    // The filter stays with this thread and the processes that it starts.
    let start = || {
        apply_filter(&filter[FILTER]).unwrap();
        start()
    };
    thread::scope(|scope| scope.spawn(start).join().unwrap())
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "only x86-64 has been tried")]
fn a_server_runs_under_the_minimal_profile() {
    runs_under_the_minimal_profile("off");
}

/// The profile lets a server resolve the name of an application, and ask it.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "only x86-64 has been tried")]
fn a_server_that_asks_an_application_runs_under_the_minimal_profile() {
    let application = Application::start();
    let flags = application.flags();
    let mut server = under_the_profile(|| Server::start(&[&flags[0], &flags[1]]));
    let cookie = [("Cookie", "ann")];
    Client::open_with(dial(server.address()), "/t/x", &[], &cookie).expect("the application lets ann in").leave();
    server.end();
}

/// The profile lets a server give up what only its start needs.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "only x86-64 has been tried")]
fn a_server_in_the_sandbox_runs_under_the_minimal_profile() {
    runs_under_the_minimal_profile("on");
}

fn runs_under_the_minimal_profile(sandbox: &str) {
    let folder = std::env::temp_dir().join(format!("ringhub-seccomp-{sandbox}-{}", std::process::id()));
    fs::create_dir_all(folder.join("site")).unwrap();
    fs::write(folder.join("site/file"), "a file\n").unwrap();
    let file = folder.join("ringhub.toml");
    let routes = "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n[[routes]]\nmatch = \"/site\"\n";
    fs::write(&file, format!("metrics_listen = \"127.0.0.1:0\"\n{routes}documents = \"./site\"\n")).unwrap();
    let mut server = under_the_profile(|| {
        let mut command = clean(Command::new(binary_path()));
        command.args(["--shards=3", "--pin=on", "--send-buffer=16KiB", "--sandbox", sandbox, "--config"]).arg(&file);
        // The name is resolved under the filter too.
        command.args(["--listen", "localhost:0"]);
        Server::start_at(command)
    });
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    let (subscribers, mut stream) = serve_thirty(&server);
    assert_eq!(ask(&mut stream, &request("GET", "/site/file")).body, "a file\n");
    assert_eq!(ask(&mut stream, &request("GET", "/healthz")).status(), 200);
    assert_eq!(server.counts().get("connections_open"), 30);
    // The container's health check runs under the same filter.
    let address = server.address().to_string();
    let health = under_the_profile(|| {
        let mut command = program();
        command.args(["health", "--address", &address]);
        let mut health = Program::start(command);
        health.wait()
    });
    assert!(health.success(), "{health}");
    // A slow consumer has a backlog, and its close sends a reset.
    let slow = server.connect("/t/slow?mode=sub");
    let mut fast = server.connect("/t/slow?mode=pub");
    (0..300).for_each(|_| fast.send_text(&"x".repeat(60_000)));
    server.expect_counts(&[("slow_closed_total", 1)]);
    drop((slow, fast, subscribers, stream));
    let log = server.end();
    assert!(log.contains("stopped"), "{log}");
    fs::remove_dir_all(folder).unwrap();
}

/// Without one of the calls the server ends, so the test above would find a call that is missing from the table.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "only x86-64 has been tried")]
fn a_missing_call_ends_the_server() {
    let mut names = allowed(&profile(&[]));
    names.extend(OF_THE_TEST.map(Into::into));
    names.retain(|name| name != "listen");
    let filter = compile(&names, std::env::consts::ARCH.try_into().unwrap()).unwrap();
    let start = || {
        apply_filter(&filter[FILTER]).unwrap();
        Program::start({
            let mut command = program();
            command.args(["--listen", "127.0.0.1:0"]);
            command
        })
    };
    let mut server = thread::scope(|scope| scope.spawn(start).join().unwrap());
    let status = server.wait();
    assert!(!status.success(), "{status}");
}

/// Each name in the table is a call on the architectures that the table gives for it.
#[test]
fn the_profile_names_calls_of_both_architectures() {
    use ringhub::sys::system_calls::SYSTEM_CALLS;
    let profile = profile(&[]);
    assert_eq!((&profile["defaultAction"], &profile["defaultErrnoRet"]), (&json!("SCMP_ACT_ERRNO"), &json!(1)));
    let comments = profile["syscalls"].as_array().unwrap().iter().map(|rule| rule["comment"].as_str().unwrap());
    assert!(comments.clone().all(|comment| !comment.is_empty()));
    let names = allowed(&profile);
    for call in ["io_uring_setup", "epoll_pwait", "epoll_wait", "execve", "openat2"] {
        assert!(names.iter().any(|name| name == call), "{call}");
    }
    compile(&names, TargetArch::x86_64).unwrap();
    let common: Vec<String> =
        SYSTEM_CALLS.iter().flat_map(|group| group.names).map(|name| (*name).to_string()).collect();
    compile(&common, TargetArch::aarch64).unwrap();
    for name in SYSTEM_CALLS.iter().flat_map(|group| group.of_x86_64) {
        assert!(compile(&[(*name).to_string()], TargetArch::aarch64).is_err(), "{name}");
    }
}

/// A file that a drop removes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        let file = std::env::temp_dir().join(format!("ringhub-{name}-{}.json", std::process::id()));
        fs::write(&file, text).unwrap();
        Scratch(file)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

#[test]
fn a_base_gets_the_calls_of_io_uring() {
    let base = r#"{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
        "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let file = Scratch::new("base", base);
    let completed = profile(&["--base", file.name()]);
    assert_eq!(allowed(&completed), ["read", "write", "io_uring_setup", "io_uring_enter", "io_uring_register"]);
    assert_eq!(completed["archMap"], json!([{ "architecture": "SCMP_ARCH_X86_64" }]));
    // A completed profile as the base stays the same.
    let file = Scratch::new("completed", &completed.to_string());
    assert_eq!(profile(&["--base", file.name()]), completed);
}

#[test]
fn a_bad_base_has_a_precise_error() {
    let check = |file: &str, expected: &str| {
        let mut command = program();
        command.args(["seccomp-profile", "--base", file]);
        let output = run_to_end(command);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told.trim_end(), format!("ringhub: --base: {file} {expected}"));
    };
    check("/nowhere/profile.json", "cannot be read: No such file or directory (os error 2)");
    let file = Scratch::new("no-json", "{\"defaultAction\": }");
    check(file.name(), "is no JSON: expected value at line 1 column 19");
    let file = Scratch::new("no-profile", "{\"defaultAction\": \"SCMP_ACT_ERRNO\"}");
    check(file.name(), "is no seccomp profile: syscalls is no list");
}
