//! `ringhub completions` and `ringhub man`.

use std::process::{Command, Output};

use ringhub::config::SETTINGS;

use crate::support::{program, run_to_end};

fn run(arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments);
    run_to_end(command)
}

fn printed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The completions of every shell have every setting and every subcommand.
#[test]
fn completions_have_all_flags() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for setting in SETTINGS {
            assert!(script.contains(&setting.flag()), "{shell}: {}", setting.flag());
        }
        for command in ["check-config", "seccomp-profile", "completions"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    // The script is valid for bash.
    let script = printed(&["completions", "bash"]);
    let check = Command::new("bash").args(["-n", "-c", &script]).output();
    assert!(check.is_ok_and(|check| check.status.success()));
    assert_eq!(run(&["completions", "sh"]).status.code(), Some(2));
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH ringhub 1"), "{page}");
    for setting in SETTINGS {
        // A dash is escaped in roff.
        let flag = setting.flag().replace('-', "\\-");
        assert!(page.contains(&format!("\\-\\-{flag}")), "{flag}");
    }
    for command in ["serve", "check-config", "example-config", "reference", "health", "reload", "drain", "man"] {
        let page = printed(&["man", command]);
        assert!(page.contains(&format!(".TH ringhub-{command} 1")), "{page}");
    }
    let output = run(&["man", "server"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let known = told.trim_end().strip_prefix("ringhub: there is no subcommand \"server\"; there are ").unwrap_or(&told);
    // The package contains a manual page of each command.
    let commands: Vec<&str> = known.split(", ").filter(|command| *command != "help").collect();
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/deb")).unwrap();
    assert!(script.contains(&format!("pages ringhub {}\n", commands.join(" "))), "{commands:?}");
}
