//! What the program prints and writes, its exit status, and how it ends at Ctrl-C.

#[path = "support/schema.rs"]
mod schema;
mod support;

use ringhub_loadgen::{Outcome, Report};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use support::{Echo, broadcaster};

#[test]
fn an_assertion_decides_the_exit_status() {
    for (assertion, status, word) in [
        ("lost==0", 0, "holds         lost==0 (found: 0)"),
        ("p99<60s", 0, "holds         p99<60s (found: "),
        ("published==50", 0, "holds         published==50 (found: 50)"),
        ("published>50", 4, "FAILS         published>50 (found: 50)"),
        ("p50<1ns", 4, "FAILS         p50<1ns (found: "),
        ("cpu_ns_per_delivery<1", 4, "FAILS         cpu_ns_per_delivery<1 (found: not measured)"),
    ] {
        let output = run(Echo::All, &["--assert", assertion]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{assertion}: {text}");
        assert!(text.lines().any(|line| line.starts_with(word)), "{assertion}: {text}");
    }
    let both = run(Echo::All, &["--assert", "lost==0", "--assert", "published>50", "--json"]);
    assert_eq!(both.status.code(), Some(4));
    let complaint = String::from_utf8(both.stderr).unwrap();
    assert_eq!(complaint, "ringhub-loadgen: FAILS published>50 (found: 50)\n");
    let broken = run(Echo::AllButTheFirst, &["--json"]);
    let complaint = String::from_utf8(broken.stderr).unwrap();
    assert_eq!((broken.status.code(), &*complaint), (Some(2), "ringhub-loadgen: BROKEN: lost 4\n"));
    let report: Report = serde_json::from_slice(&both.stdout).unwrap();
    let checked: Vec<(&str, bool)> =
        report.assertions.iter().map(|checked| (&*checked.assertion, checked.holds)).collect();
    assert_eq!(checked, [("lost==0", true), ("published>50", false)]);
}

#[test]
fn an_asserted_number_of_mistakes_is_forgiven() {
    let loses = || Echo::AllButTheFirst;
    assert_eq!(run(loses(), &[]).status.code(), Some(2));
    assert_eq!(run(loses(), &["--assert", "published==50"]).status.code(), Some(2));
    assert_eq!(run(loses(), &["--assert", "lost<=4"]).status.code(), Some(0));
    assert_eq!(run(loses(), &["--assert", "lost<4"]).status.code(), Some(4));
}

#[test]
fn a_wrong_assertion_prevents_the_run() {
    let output = run(Echo::All, &["--assert", "p99<5"]);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("p99 is a time: write its unit, ns, us, ms or s"), "{complaint}");
}

#[test]
fn a_command_after_flags_is_told_its_place() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"))
        .args(["--url", "ws://127.0.0.1:1/", "ramp", "--from", "10"])
        .output()
        .unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.ends_with("ringhub-loadgen: the command comes first: ringhub-loadgen ramp --url …\n"),
        "{complaint}"
    );
}

#[test]
fn braces_that_are_no_placeholder_are_told() {
    let output = run(Echo::All, &["--ignore", "{\"x\":{typing}}"]);
    let complaint = String::from_utf8(output.stderr).unwrap();
    let warning = "ringhub-loadgen: warning: --ignore: {typing} is no placeholder, and stands for itself\n";
    assert_eq!((output.status.code(), &*complaint), (Some(0), warning));
}

#[test]
fn percentiles_are_written_for_hdr_histogram() {
    let path = folder().join("percentiles.hgrm");
    fs::write(&path, "x".repeat(100_000)).unwrap();
    let output = run(Echo::All, &["--hgrm", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("       Value   Percentile   TotalCount 1/(1-Percentile)\n\n"), "{text}");
    // The 50 messages reach 4 subscribers each.
    assert!(text.contains("     1.000000          200          inf\n#[Mean    ="), "{text}");
    assert!(text.ends_with("#[Buckets =           32, SubBuckets     =         2048]\n"), "{text}");
}

#[test]
fn a_file_that_cannot_be_written_costs_no_run() {
    for flag in ["--hgrm", "--report"] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"))
            .args(["--rate", "1", "--url", "ws://127.0.0.1:1/", flag, "/no/such/folder/file"])
            .output()
            .unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let why = "/no/such/folder/file: cannot open the file: No such file or directory (os error 2)";
        assert_eq!(complaint, format!("ringhub-loadgen: {flag} {why}\n"));
        let output = run(Echo::All, &[flag, "-"]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        let why = "-: cannot open the file: - is no file; standard output is /dev/stdout";
        assert_eq!((output.status.code(), complaint), (Some(1), format!("ringhub-loadgen: {flag} {why}\n")));
        let output = run(Echo::All, &[flag, "/dev/full"]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag}");
        let why = "/dev/full: cannot write the file: No space left on device (os error 28)";
        assert_eq!(complaint, format!("ringhub-loadgen: {flag} {why}\n"));
    }
}

#[test]
fn latency_that_was_not_measured_is_no_file() {
    let path = folder().join("none.hgrm");
    // Of an earlier run of the tests.
    drop(fs::remove_file(&path));
    let output = run(Echo::All, &["--size", "20", "--hgrm", path.to_str().unwrap()]);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert_eq!(complaint, "ringhub-loadgen: --hgrm needs a latency: messages with a --size of at least 32\n");
    assert!(!path.exists());
    // A server that delivers nothing is a mistake of the server, whatever else is missing.
    let output = run(Echo::Nothing, &["--hgrm", path.to_str().unwrap()]);
    assert_eq!((output.status.code(), fs::read_to_string(&path).unwrap()), (Some(2), String::new()));
}

#[test]
fn two_reports_are_compared() {
    let report = run(Echo::All, &["--json"]).stdout;
    let [one, other, page] = ["one.json", "other.json", "both.html"].map(|name| folder().join(name));
    fs::write(&one, &report).unwrap();
    fs::write(&other, &report).unwrap();
    let compare = |arguments: &[&PathBuf]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"));
        let output = command.arg("compare").args(arguments).arg("-o").arg(&page).output().unwrap();
        let streams = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), streams)
    };
    let (status, [text, _]) = compare(&[&one, &other]);
    assert!(
        status == Some(0) && text.lines().any(|line| line.starts_with("p99 ") && line.ends_with(" 1.000")),
        "{text}"
    );
    assert!(fs::read_to_string(&page).unwrap().contains("<h1>Two runs compared</h1>"));
    for (content, why) in [
        (Some("no JSON"), "this is no report of --json: expected ident at line 1 column 2"),
        (Some("{}"), "this is no report of --json: missing field `outcome`"),
        (Some("{\"schema_version\": 99}"), "the report has version 99 of the schema; this program knows up to 1"),
        (None, "No such file or directory (os error 2)"),
    ] {
        drop(fs::remove_file(&other));
        if let Some(content) = content {
            fs::write(&other, content).unwrap();
        }
        let (status, [text, complaint]) = compare(&[&one, &other]);
        assert_eq!((status, &*text), (Some(1), ""));
        assert_eq!(complaint, format!("ringhub-loadgen: {}: {why}\n", other.display()));
    }
}

#[test]
fn real_reports_have_the_documented_fields() {
    let own_id = std::process::id().to_string();
    for (echo, flags) in [
        (Echo::All, vec!["--json", "--assert", "p99<60s", "--server-pid", &own_id]),
        (Echo::AllButTheFirst, vec!["--json"]),
        (Echo::All, vec!["--json", "--size", "20"]),
    ] {
        let report = serde_json::from_slice(&run(echo, &flags).stdout).unwrap();
        let found = schema::check(&report);
        assert!(found.contains("figures.series[].own_cpu_ns") && found.contains("counts.lost"), "{found:?}");
    }
}

#[test]
fn the_first_signal_ends_the_run_and_the_report_says_so() {
    for signal in [Signal::INT, Signal::TERM] {
        let (address, published) = broadcaster(Echo::All);
        let child = start(&address, &["--rate", "500", "--warmup", "0", "--duration", "60s", "--json"]);
        // The run is under way when a message has arrived.
        published.recv().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: Report = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report.interrupted && report.outcome == Outcome::Exact && report.counts.published > 0, "{report}");
        assert!(report.command_line.contains(&"500".to_owned()), "{report:?}");
    }
}

#[test]
fn the_second_signal_ends_the_program() {
    // Nothing comes back, so that the first signal leads to a long wait for deliveries.
    let (address, published) = broadcaster(Echo::Nothing);
    let mut child = start(&address, &["--rate", "500", "--warmup", "0", "--duration", "60s", "--drain", "60s"]);
    published.recv().unwrap();
    let id = Pid::from_child(&child);
    // Two signals that arrive before the program runs again count as one, so there are as many as it takes.
    let status = loop {
        kill_process(id, Signal::INT).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::INT.as_raw()), "{status}");
}

#[test]
fn progress_is_drawn_on_a_terminal_only() {
    let flags = ["--rate", "500", "--warmup", "0", "--duration", "350ms"];
    let drawn = on_terminal(&flags);
    assert!(drawn.contains("\r\x1b[2Kconnecting [########################] 5 of 5"), "{drawn:?}");
    assert!(drawn.contains(" of 0.35 s  5 connections  ") && drawn.contains("  p99 "), "{drawn:?}");
    assert!(!drawn.contains("warming up"), "{drawn:?}");
    let drawn = on_terminal(&["--rate", "500", "--warmup", "300ms", "--duration", "10ms"]);
    assert!(drawn.contains("\r\x1b[2Kwarming up for 0.3 s"), "{drawn:?}");
    assert!(drawn.ends_with("\r\x1b[2K"), "{drawn:?}");
    for silent in ["--quiet", "--json"] {
        let drawn = on_terminal(&[&flags[..], &[silent]].concat());
        assert_eq!(drawn, "", "{silent}");
    }
    let output = run(Echo::All, &[]);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn the_command_line_is_described() {
    let print = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen")).args(arguments).output().unwrap();
        let streams = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), streams)
    };
    for (shell, sign) in [
        ("bash", "complete -F _ringhub__loadgen"),
        ("zsh", "#compdef ringhub-loadgen"),
        ("fish", "complete -c ringhub-loadgen"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let (status, [script, _]) = print(&["completions", shell]);
        assert!(status == Some(0) && script.contains(sign) && script.contains("--in-flight"), "{shell}: {script}");
    }
    let (status, [page, _]) = print(&["man"]);
    assert!(status == Some(0) && page.contains(".TH ringhub-loadgen 1") && page.contains("Exit status"), "{page}");
    assert!(page.contains("ringhub\\-loadgen\\-fanout(1)"), "{page}");
    let (_, [help, _]) = print(&["help"]);
    let commands = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let commands: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(commands.contains(&"fanout") && commands.contains(&"compare"), "{commands:?}");
    for command in commands {
        let (status, [page, _]) = print(&["man", command]);
        assert!(status == Some(0) && page.contains(&format!(".TH ringhub-loadgen-{command} 1")), "{command}: {page}");
    }
    let (status, [page, complaint]) = print(&["man", "nothing"]);
    assert_eq!((status, &*page), (Some(1), ""));
    assert!(
        complaint.starts_with("ringhub-loadgen: there is no command \"nothing\"; there are fanout, "),
        "{complaint}"
    );
}

/// Runs the program with standard error on a terminal of 100 columns, and returns what was drawn there.
fn on_terminal(flags: &[&str]) -> String {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcsetwinsize};
    let (address, _) = broadcaster(Echo::All);
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 20, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut command = program(&address, flags);
    command.stdout(Stdio::null()).stderr(OwnedFd::from(terminal)).env("TERM", "xterm");
    let mut child = command.spawn().unwrap();
    // The command keeps the terminal open, which would be no end for the reader.
    drop(command);
    let mut drawn = Vec::new();
    // Reading fails when the last user of the terminal has closed it.
    drop(File::from(controller).read_to_end(&mut drawn));
    assert!(child.wait().unwrap().success());
    String::from_utf8(drawn).unwrap()
}

/// Publishes 50 messages to 4 subscribers of a new server.
fn run(echo: Echo, flags: &[&str]) -> Output {
    let (address, _) = broadcaster(echo);
    let usual = ["--in-flight", "4", "--messages", "50", "--drain", "300ms"];
    start(&address, &[&usual, flags].concat()).wait_with_output().unwrap()
}

fn start(address: &str, flags: &[&str]) -> Child {
    program(address, flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn program(address: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"));
    // A machine that is busy with other tests makes no run void.
    command
        .args(["--url", &format!("ws://{address}/t/x"), "--subscribers", "4", "--allow-disturbance"])
        .args(flags)
        .stdin(Stdio::null());
    command
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
