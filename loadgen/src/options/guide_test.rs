//! The guide docs/loadgen.md has commands that run, and names every command and every preset.

use crate::cli::Cli;
use crate::preset::PresetName;
use clap::{CommandFactory as _, Parser as _, ValueEnum as _};

#[test]
fn each_command_of_the_guide_becomes_a_plan() {
    let commands = commands();
    assert!(commands.len() > 12, "{commands:?}");
    for words in &commands {
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let Some(options) = cli.into_options() else { continue };
        match options.plan() {
            Ok(_) => {}
            // The file of the example, and a host that a test does not look up.
            Err(error) => assert!(
                ["recorded.jsonl", "example.org"].iter().any(|name| error.to_string().contains(name)),
                "{words:?}: {error}"
            ),
        }
    }
}

#[test]
fn the_guide_names_every_command_flag_and_preset() {
    let guide = guide();
    let program = Cli::command();
    for scenario in
        program.get_subcommands().filter(|command| command.get_arguments().any(|flag| flag.get_id() == "url"))
    {
        assert!(guide.contains(&format!("| `{}` |", scenario.get_name())), "{scenario}");
    }
    for preset in PresetName::value_variants() {
        let name = preset.to_possible_value().unwrap();
        assert!(guide.contains(&format!("`{}`", name.get_name())), "{preset:?}");
    }
    let known = |flag: &str| {
        let has = |command: &clap::Command| command.get_arguments().any(|known| known.get_long() == Some(flag));
        has(&program) || program.get_subcommands().any(has)
    };
    let flags: Vec<&str> = guide
        .split(|letter: char| !letter.is_ascii_lowercase() && !letter.is_ascii_digit() && letter != '-')
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|flag| {
            flag.starts_with(|letter: char| letter.is_alphabetic())
                && !["entrypoint", "rm", "network", "locked", "path", "pid", "help"].contains(flag)
        })
        .collect();
    assert!(flags.len() > 80, "{flags:?}");
    for flag in flags {
        assert!(known(flag), "--{flag}");
    }
}

#[test]
fn the_help_of_every_scenario_explains_placeholders_and_shows_its_own_flags_first() {
    let mut program = Cli::command();
    for scenario in program.get_subcommands_mut() {
        let help = scenario.render_long_help().to_string();
        if !help.contains("--url") {
            continue;
        }
        assert!(help.contains("{any}         in a PATTERN only"), "{help}");
        let of_scenario = help.find("Scenario:\n");
        assert!(scenario.get_name() == "fanout" || of_scenario < help.find("Server:\n"), "{help}");
        assert!(scenario.get_name() == "fanout" || of_scenario.is_some(), "{help}");
    }
}

fn guide() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/loadgen.md")).unwrap()
}

/// Returns the words of each command of the program in the guide's blocks for a shell.
fn commands() -> Vec<Vec<String>> {
    let guide = guide().replace(" \\\n", " ");
    let blocks = guide.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines = blocks.flat_map(str::lines).filter(|line| line.starts_with("ringhub-loadgen "));
    let given = |line: &str| line.replace("\"$url\"", "ws://127.0.0.1:8080/live").replace("\"$pid\"", "1");
    lines.map(|line| words(&given(line))).collect()
}

/// Splits a line as a shell does, as far as the guide needs: quotes, comments and redirections.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            letter => words.last_mut().unwrap().push(letter),
        }
    }
    words.into_iter().filter(|word| !word.is_empty()).take_while(|word| word != "#" && word != ">").collect()
}
