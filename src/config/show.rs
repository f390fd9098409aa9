//! Settings for people: a file with all of them, and those that hold.

use std::fmt::Write as _;

use super::{Config, Given, Preset, SETTINGS, Setting};

/// A file of TOML with every setting, commented out, and what it means.
///
/// A line that begins with `#` and no space is a setting; without the `#` it holds.
#[must_use]
pub fn example() -> String {
    let mut text = String::from(EXAMPLE_HEAD);
    by_heading(&mut text, |text, setting| {
        text.push('\n');
        comment(text, setting.help());
        let given = match setting.preset {
            Preset::Value(value) => value,
            Preset::Otherwise { words, example, .. } => {
                comment(text, &format!("Default: {words}."));
                example
            }
        };
        line(text, &format!("#{} = {}", setting.key, setting.toml(&setting.split(given))));
    });
    text
}

/// The settings that hold, as TOML, and where each comes from. Tokens are masked.
#[must_use]
pub fn effective(given: &Given, config: &Config) -> String {
    let mut text = String::new();
    by_heading(&mut text, |text, setting| {
        let Setting { key, preset, .. } = setting;
        let mut items = (setting.items)(&given.settings);
        let mut from = given.origin(key).to_string();
        if let (true, Preset::Otherwise { words, effective, .. }) = (items.is_empty(), preset) {
            items = effective(config);
            write!(from, ": {words}").expect("writing to memory never fails");
        }
        let what = if items.is_empty() { format!("#{key} =") } else { format!("{key} = {}", setting.toml(&items)) };
        line(text, &format!("{what:<EFFECTIVE_WIDTH$}  # {from}"));
    });
    text
}

fn by_heading(text: &mut String, show: impl Fn(&mut String, &Setting)) {
    for (at, setting) in SETTINGS.iter().enumerate() {
        if at == 0 || SETTINGS[at - 1].heading != setting.heading {
            if !text.is_empty() {
                text.push('\n');
            }
            line(text, &format!("# ---- {} ----", setting.heading));
        }
        show(text, setting);
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// As many lines as the words need.
fn comment(text: &mut String, words: &str) {
    let mut width = 0;
    for word in words.split(' ') {
        if width == 0 || width + 1 + word.len() > COMMENT_WIDTH {
            text.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + word.len();
    }
    text.push('\n');
}

const EXAMPLE_HEAD: &str = "\
# Settings of ringhub: every one with its default, or else with a value that it could have. Made
# by `ringhub example-config`. Take the # away before what you change, name the file by
# --config FILE or RINGHUB_CONFIG, and let `ringhub check-config FILE` look at it.
#
# The flag --max-message wins over the variable RINGHUB_MAX_MESSAGE, and that over the key
# max_message here; so it is with all of them.
#
# Sizes are bytes: 65536, \"64KiB\", \"32MiB\", \"1GiB\", or \"64kB\", \"32MB\", \"1GB\" in powers of ten.
# Times have a unit: \"500ms\", \"10s\", \"2m\", \"1h\". A list with one value may do without brackets.
";

const COMMENT_WIDTH: usize = 98;
const EFFECTIVE_WIDTH: usize = 36;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `ringhub example-config > ringhub.example.toml` writes it anew.
    #[test]
    fn the_committed_example_is_this_one() {
        assert!(include_str!("../../ringhub.example.toml") == example(), "ringhub.example.toml is not up to date");
    }

    #[test]
    fn with_everything_uncommented_it_holds() {
        let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        let example = example();
        let lines: Vec<&str> = example.lines().filter(is_setting).map(|line| &line[1..]).collect();
        let table = toml::de::DeTable::parse(&lines.join("\n")).map(|table| table.get_ref().len());
        assert_eq!(table, Ok(SETTINGS.len()));
        let keys: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(" = ").next()).collect();
        assert_eq!(keys, SETTINGS.iter().map(|setting| setting.key).collect());
        assert!(example.lines().all(|line| line.chars().count() <= 100), "{example}");
    }

    #[test]
    fn what_holds_is_shown_with_its_origin() {
        let given = Given::read(&Default::default(), [("RINGHUB_PUBLISH_TOKENS".into(), "hush,hush2".into())]);
        let config = Config::new(&given.settings, 1_000).unwrap();
        let text = effective(&given, &config);
        let shown: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once("  # ")).collect();
        let check = |what: &str, from: &str| {
            assert!(shown.iter().any(|shown| (shown.0.trim_end(), shown.1) == (what, from)), "{what} {from}:\n{text}");
        };
        check("listen = [\"127.0.0.1:6455\"]", "default");
        check("publish_tokens = [\"***\", \"***\"]", "RINGHUB_PUBLISH_TOKENS");
        check("max_connections = 872", "default: from the descriptor limit");
        check("#send_buffer =", "default: the kernel's tuning");
        assert!(!text.contains("hush") && toml::de::DeTable::parse(&text).is_ok(), "{text}");
    }
}
