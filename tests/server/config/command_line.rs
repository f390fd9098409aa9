//! The command line: help, mistyped commands, secrets, and an output that cannot be written.

use std::{fs, process::Command};

use ringhub::config::SETTINGS;

use super::{Scratch, check_config, command};
use crate::support::{Server, program, run_to_end};

/// No output shows a token, valid or not, from any source.
#[test]
fn tokens_stay_secret() {
    let check = |mut command: Command, is_right: bool| {
        command.env("RINGHUB_LOG", "trace");
        let output = run_to_end(command);
        assert_eq!(output.status.success(), is_right, "{}", String::from_utf8_lossy(&output.stderr));
        for text in [output.stdout, output.stderr] {
            let text = String::from_utf8(text).unwrap();
            assert!(!text.contains("hush"), "{text}");
        }
    };
    let file = |text: &str, is_right: bool| {
        let file = Scratch::new(text);
        check(check_config(&file), is_right);
    };
    file("publish_tokens = [\"hush\"]\nmetrics_tokens = \"hush,hush\"", true);
    file("publish_tokens = [\"hush hush\"]", false);
    file("publish_tokens = [\"hush\", 1]", false);
    file("publish_tokens = \"hush\npublish_tokens = 'hush'", false);
    file("publish_tokens = hush", false);
    file("publish_tokens = \"\\hush\"", false);
    file("publish_tokens = {hush = 1}", false);
    file("publish_tokens = \"hush\"\npublish_tokens = \"hush\"", false);
    file("publish_token = \"hush\"", false);
    let route = "[[routes]]\nmatch = \"/{topic}\"\nhandler = \"hub\"\n";
    file(&format!("{route}[routes.basic.users]\na = \"hush\"\n[routes.bearer.tokens]\na = \"hush\""), true);
    for bad in [
        "[routes.basic]\nusers = \"hush\"",
        "[routes.basic]\nusers = [\"hush\"]",
        "[routes.basic]\nuser = \"hush\"",
        "[routes.basic.users]\na = \"sha256:hush\"",
        "[routes.basic.users]\na = {b = \"hush\"}",
        "[routes.basic.users]\na = \"hush",
        "[routes.basic.users]\na = \"hush\"\n\"\" = \"hush\"",
        "[routes.bearer]\ntokens = \"hush\"",
        "[routes.bearer]\na = \"hush\"",
        "[routes.bearer.tokens]\na = \"hush hush\"",
        "[routes.bearer.tokens]\na = [\"hush\", \"hush\"]",
        "bearer = \"hush\"",
        "basic = \"hush\"",
        "[routes.bearer.tokens]\na = hush",
    ] {
        file(&format!("{route}{bad}"), false);
    }
    check(command(&["check-config", "--subscribe-tokens", "hush"]), true);
    check(command(&["check-config", "--subscribe-tokens", "hush,"]), false);
    check(command(&["check-config", "--subscribe-token=hush"]), false);
    check(command(&["--subscribe-tokens", "a,", "hush"]), false);
    check(command(&["serve", "--subscribe-tokens=a", "hush"]), false);
    check(command(&["check-config", "no-such-file", "hush", "--metrics-tokens", "a"]), false);
    for help in ["-h", "--help", "help", "example-config"] {
        let mut command = command(&[help]);
        command.env("RINGHUB_PUBLISH_TOKENS", "hush");
        check(command, true);
    }
    let mut command = program();
    command.env("RINGHUB_PUBLISH_TOKENS", "hush").args(["--log", "trace"]);
    let log = Server::start_command(command).end();
    assert!(!log.contains("hush"), "{log}");
}

/// A mistyped command line gets an error that shows the right form.
#[test]
fn a_command_line_that_is_none_says_how_to_write_it() {
    let told = |arguments: &[&str]| {
        let output = run_to_end(command(arguments));
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let spaced = "ringhub: a value has no space in it: write 4MiB\n";
    assert_eq!(told(&["--max-message", "4", "MiB"]), spaced);
    assert_eq!(told(&["check-config", "FILE", "--max-message", "4", "MiB"]), spaced);
    assert_eq!(told(&["serve", "--ping-interval", "10", "s"]), spaced.replace("4MiB", "10s"));
    let after = "ringhub: flags go after the subcommand: ringhub check-config --FLAG VALUE\n";
    assert_eq!(told(&["--shards", "2", "check-config"]), after);
    assert_eq!(told(&["--publish-tokens", "hush", "check-config", "--shards", "2"]), after);
    for (arguments, words) in [(&["--max-message", "4", "x"][..], "'x'"), (&["--nonsense"], "--nonsense")] {
        let told = told(arguments);
        assert!(told.starts_with("error: ") && told.contains(words), "{told}");
    }
    let hidden = told(&["--publish-tokens", "4", "MiB"]);
    assert!(hidden.contains("may be a token") && !hidden.contains('4'), "{hidden}");
}

/// If the output cannot be written, the command fails with status 1.
#[test]
fn an_output_that_takes_nothing_is_a_failure() {
    for arguments in [
        &["check-config"][..],
        &["example-config"],
        &["reference", "routes"],
        &["--help"],
        &["help", "serve"],
        &["--version"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(arguments).stdout(full).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?} {told}");
        assert!(told.starts_with("ringhub: standard output cannot be written: No space left"), "{arguments:?} {told}");
    }
}

#[test]
fn help_is_short_or_long_and_fits() {
    let help = |arguments: &[&str]| {
        let output = run_to_end(command(arguments));
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (short, long) = (help(&["-h"]), help(&["--help"]));
    assert!(short.lines().count() < long.lines().count());
    assert_eq!(help(&["help"]), long);
    assert_eq!(help(&["help", "serve"]), help(&["serve", "--help"]));
    for text in [&short, &long] {
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        for setting in SETTINGS {
            assert!(text.contains(&format!("--{} ", setting.flag())), "{} is missing:\n{text}", setting.key);
            assert!(text.contains(&format!("\n{}:\n", setting.heading)), "{} is missing:\n{text}", setting.heading);
        }
        assert!(text.contains("[default: 10000]") && text.contains("RINGHUB_MAX_MESSAGE"), "{text}");
    }
}
