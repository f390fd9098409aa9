//! Tests that the pages of `ringhub reference` are up to date and true.

use std::fs;

use ringhub::config::{Flags, Given, SETTINGS, Setting, Settings, Size, Time};

use super::{Scratch, check_config, command};
use crate::support::run_to_end;

/// The example on the page of settings is a valid file.
#[test]
fn the_file_of_the_page_of_settings() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let file = Scratch::new(example);
    let output = run_to_end(check_config(&file));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && log.is_empty(), "{log}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches(&file.name()).count(), example.lines().count());
}

/// `ringhub reference settings >docs/settings.md` rewrites the page; `reference routes` writes the other page.
#[test]
fn the_pages_of_reference_are_up_to_date() {
    for name in ["settings", "routes"] {
        let output = run_to_end(command(&["reference", name]));
        let page = fs::read_to_string(format!("{}/docs/{name}.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let is_same = String::from_utf8(output.stdout).unwrap() == page;
        assert!(is_same, "docs/{name}.md is not what `ringhub reference {name}` prints");
    }
}

/// The ranges on the page of settings are true: both ends are accepted, and the next value beyond each end is refused.
#[test]
fn ranges_are_those_that_hold() {
    const SHARDS: u64 = 2;
    let factor = |text: &str, is_time: bool| match text {
        "max_message" => Settings::default().max_message.0,
        "max_backlog" => 13 << 20,
        "shards" => SHARDS,
        "handshake_timeout" => Settings::default().handshake_timeout.0.as_millis() as u64,
        text if is_time => text.parse::<Time>().unwrap().0.as_millis() as u64,
        text => text.parse::<Size>().unwrap().0,
    };
    let error = |setting: &Setting, value: u64| {
        let unit = if setting.value_name == "TIME" { "ms" } else { "" };
        let shards = ("RINGHUB_SHARDS".into(), SHARDS.to_string().into());
        let others = [shards].into_iter().filter(|_| setting.key != "shards");
        let callback = [("URL", "https://app.example/"), ("SECRETS", "a-secret-of-16-characters")];
        let callback = callback.map(|(name, value)| (format!("RINGHUB_CALLBACK_{name}").into(), value.into()));
        let others = others.chain(callback.into_iter().filter(|_| setting.key == "callback_timeout"));
        let variables = others.chain([(setting.variable().into(), format!("{value}{unit}").into())]);
        let config = Given::read(&Flags::default(), variables).config(1 << 40);
        config.map(drop).map_err(|errors| errors.0.iter().filter_map(|error| error.setting()).collect::<Vec<_>>())
    };
    let mut ends = 0;
    for setting in SETTINGS {
        let has_range = ["COUNT", "SIZE", "TIME"].contains(&setting.value_name);
        assert_eq!(setting.range.is_some(), has_range, "{}", setting.key);
        let Some(range) = setting.range else { continue };
        let is_time = setting.value_name == "TIME";
        let end = |text: &str| text.split(" × ").map(|text| factor(text, is_time)).product::<u64>();
        let (least, most) = match range.split_once(" to ") {
            Some((least, most)) => (end(least), Some(end(most))),
            None => (end(range.strip_suffix(" or more").unwrap()), None),
        };
        let refused = Err(vec![setting.key]);
        assert_eq!(error(setting, least), Ok(()), "{} from {least}", setting.key);
        assert!(least == 0 || error(setting, least - 1) == refused, "{} from {least}", setting.key);
        ends += usize::from(least > 0);
        if let Some(most) = most {
            assert_eq!(error(setting, most), Ok(()), "{} to {most}", setting.key);
            assert_eq!(error(setting, most + 1), refused, "{} to {most}", setting.key);
            ends += 1;
        }
    }
    assert!(ends > 20, "only {ends} ends");
}
