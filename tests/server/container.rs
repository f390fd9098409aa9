//! A server under Docker's default seccomp profile, as a runtime installs it for a container without capabilities.

use std::{env, fs, os::unix::process::CommandExt as _, path::PathBuf, process::Command, thread};

use ringhub::{config::IoChoice, server::ChosenBackend};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde_json::{Value, json};

use crate::{
    backends::backend_info,
    seccomp::profile,
    support::{Server, text},
};

/// The file with Docker's default profile.
fn docker_default() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/profiles/docker-default.json")
}

/// Runs this on a thread with these filters, which stay with the thread and the processes that it starts.
pub(crate) fn confined<T: Send>(filters: &[BpfProgram], run: impl FnOnce() -> T + Send) -> T {
    let run = || {
        filters.iter().for_each(|filter| apply_filter(filter).unwrap());
        run()
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Compiles a filter with one action for the calls that match a rule, and one for all others.
pub(crate) fn compile(mismatch: Value, matching: Value, rules: &[Value]) -> Result<BpfProgram, seccompiler::Error> {
    let filter = json!({ "one": { "mismatch_action": mismatch, "match_action": matching, "filter": rules } });
    let target: TargetArch = env::consts::ARCH.try_into().unwrap();
    compile_from_json(filter.to_string().as_bytes(), target).map(|mut filters| filters.remove("one").unwrap())
}

/// Compiles a profile in Docker's format, whose rules hold always, or by arguments. As in a runtime, names that this
/// architecture does not have are left out.
fn compile_profile(profile: &Value) -> Vec<BpfProgram> {
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let is_known = |name: &Value| compile(json!("allow"), json!("trap"), &[json!({ "syscall": name })]).is_ok();
    let (mut allowed, mut filters) = (Vec::new(), Vec::new());
    for rule in profile["syscalls"].as_array().unwrap() {
        assert!(rule.get("includes").is_none() && rule.get("excludes").is_none(), "{rule}");
        let names = rule["names"].as_array().unwrap().iter().filter(|name| is_known(name));
        let named = names.map(|name| match rule.get("args") {
            Some(args) => {
                json!({ "syscall": name, "args": args.as_array().unwrap().iter().map(condition).collect::<Vec<_>>() })
            }
            None => json!({ "syscall": name }),
        });
        let named: Vec<Value> = named.collect();
        match rule["action"].as_str().unwrap() {
            "SCMP_ACT_ALLOW" => allowed.extend(named),
            // An error of its own takes another filter; of the answers of all filters, an error wins.
            "SCMP_ACT_ERRNO" => {
                filters.push(compile(json!("allow"), json!({ "errno": rule["errnoRet"] }), &named).unwrap());
                allowed.extend(named);
            }
            other => panic!("{other}"),
        }
    }
    filters.push(compile(json!({ "errno": profile["defaultErrnoRet"] }), json!("allow"), &allowed).unwrap());
    filters
}

/// Returns a condition of a rule in the words of the compiler.
fn condition(argument: &Value) -> Value {
    let value = &argument["value"];
    let (op, value) = match argument["op"].as_str().unwrap() {
        "SCMP_CMP_EQ" => (json!("eq"), value.clone()),
        "SCMP_CMP_LT" => (json!("lt"), value.clone()),
        "SCMP_CMP_MASKED_EQ" => (json!({ "masked_eq": value }), json!(0)),
        other => panic!("{other}"),
    };
    json!({ "index": argument["index"], "type": "qword", "op": op, "val": value })
}

/// Starts a server under a profile, sees it serve, and returns its own word for its backend.
fn backend_under(profile: &Value, flags: &[&str]) -> String {
    let mut server = confined(&compile_profile(profile), || Server::start(flags));
    let mut subscriber = server.connect("/t/x");
    server.connect("/t/x").send_text("hello");
    subscriber.expect(text("hello"));
    subscriber.leave();
    let backend = backend_info(&server);
    server.end();
    backend
}

/// The first try of most people, and the second one, with what the warning of the first names.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the profile is that of x86-64")]
fn under_dockers_default_profile_a_server_takes_epoll_and_with_three_more_calls_io_uring() {
    let default: Value = serde_json::from_slice(&fs::read(docker_default()).unwrap()).unwrap();
    let refused = "ringhub_io_backend_info{backend=\"epoll\",reason=\"io_uring_setup EPERM\"} 1";
    let auto = ["--io", "auto", "--shards", "2"];
    assert_eq!(backend_under(&default, &auto), refused);
    // The profile lets the process give up still more.
    assert_eq!(backend_under(&default, &[&auto[..], &["--sandbox", "on"]].concat()), refused);
    if let Err(error) = ChosenBackend::choose(IoChoice::Uring) {
        println!("the rest is skipped, since this machine has no io_uring: {error}");
        return;
    }
    let completed = profile(&["--base", docker_default().to_str().unwrap()]);
    let allowed = "ringhub_io_backend_info{backend=\"uring\",reason=\"available\"} 1";
    assert_eq!(backend_under(&completed, &auto), allowed);
    assert_eq!(backend_under(&completed, &[&auto[..], &["--sandbox", "on"]].concat()), allowed);
}

/// Becomes a command under a profile. `tests/image` runs the image's program by it.
#[test]
#[ignore = "it is run by tests/image"]
fn a_program_under_a_profile() {
    let (file, command) = (env::var("CONFINED_PROFILE").unwrap(), env::var("CONFINED_COMMAND").unwrap());
    let mut profile: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    // A runtime changes the root before it installs the filter; here a command behind the filter does.
    profile["syscalls"].as_array_mut().unwrap().push(json!({ "names": ["chroot"], "action": "SCMP_ACT_ALLOW" }));
    let filters = compile_profile(&profile);
    let mut words = command.lines();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    filters.iter().for_each(|filter| apply_filter(filter).unwrap());
    panic!("{}", command.exec());
}
