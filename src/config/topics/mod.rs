//! Rules of topics: the tables of a file that say what topics ask for, and who may use them.

pub(super) mod columns;
pub(super) mod config;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::{
    columns::{COLUMNS, names},
    config::GivenTopicRule,
};
use super::{
    routes::reader::{Reader, Value},
    toml::{Masks, TomlFile, in_order, line, toml_pair},
};
use crate::{
    error::{ConfigError, Origin},
    hub::{TopicPattern, TopicRule},
};

/// The key of a file that has the rules of topics.
pub(super) const TOPICS: &str = "topics";

/// Reads the rules of topics of a file. Of two rules with one pattern, the later is an error that names both places.
pub(super) fn read(
    file: &TomlFile,
    value: &Spanned<DeValue<'_>>,
    errors: &mut Vec<ConfigError>,
) -> Vec<GivenTopicRule> {
    let DeValue::Array(tables) = value.get_ref() else {
        let what = format!("tables are expected, each under [[{TOPICS}]], not this {}", value.get_ref().type_str());
        errors.push(ConfigError::of(TOPICS, what).from(file.origin(value.span().start)));
        return Vec::new();
    };
    let mut rules = Vec::new();
    let mut known: Vec<(TopicPattern, Origin)> = Vec::new();
    for table in tables {
        let origin = file.origin(table.span().start);
        let DeValue::Table(keys) = table.get_ref() else {
            let what = format!("a table is expected, not this {}", table.get_ref().type_str());
            errors.push(ConfigError::of(TOPICS, what).from(origin));
            continue;
        };
        let Some((rule, patterns)) = (Reader { file, errors }).topic_rule(keys, origin) else { continue };
        for (pattern, at) in patterns {
            if let Some((_, earlier)) = known.iter().find(|(other, _)| *other == pattern) {
                let what = format!("{:?} has a rule already, at {earlier}", pattern.to_string());
                errors.push(ConfigError::of("topics.match", what).from(at));
            } else {
                known.push((pattern, at));
            }
        }
        rules.push(rule);
    }
    rules
}

impl Reader<'_> {
    /// Reads the table of a rule, and notes all its errors. Returns the rule, and the places of its patterns.
    fn topic_rule(
        mut self,
        keys: &DeTable<'_>,
        origin: Origin,
    ) -> Option<(GivenTopicRule, Vec<(TopicPattern, Origin)>)> {
        let count = self.errors.len();
        let (mut patterns, mut columns, mut shown) = (None, Vec::new(), String::new());
        for (key, value) in in_order(keys) {
            match &**key.get_ref() {
                "match" => patterns = self.topic_patterns(value),
                other => match COLUMNS.iter().find(|column| column.name() == other) {
                    Some(column) => {
                        columns.extend((column.read)(&mut self, column.qualified, value));
                    }
                    None => {
                        self.unknown(self.file.origin(key.span().start), TOPICS, "a rule of topics", other, &names());
                    }
                },
            }
            line(&mut shown, &toml_pair(key.get_ref(), value.get_ref(), Masks::None));
        }
        if self.errors.len() > count {
            return None;
        }
        let Some(patterns) = patterns else {
            let what = "a rule of topics needs their names or a pattern, such as match = \"orders/*\"";
            return self.fail("topics.match", origin, what);
        };
        let rule = TopicRule::new(patterns.iter().map(|(pattern, _)| pattern.clone()));
        let rule = columns.into_iter().fold(rule, |rule, change| change(rule));
        Some((GivenTopicRule { rule, origin, shown }, patterns))
    }

    /// Reads one pattern, or a list of patterns. A single one is not split at its commas, which names may have.
    fn topic_patterns(&mut self, value: Value<'_, '_>) -> Option<Vec<(TopicPattern, Origin)>> {
        const EXPECTED: &str = "a topic's name or a pattern in quotes, such as \"orders/*\"";
        let texts = match value.get_ref() {
            DeValue::String(_) => {
                let text = self.text("topics.match", EXPECTED, value)?;
                vec![(text, self.file.origin(value.span().start))]
            }
            _ => self.texts("topics.match", EXPECTED, value)?,
        };
        let mut patterns: Vec<(TopicPattern, Origin)> = Vec::new();
        for (text, at) in texts {
            let pattern = text.parse::<TopicPattern>();
            let pattern = pattern.map_err(|error| {
                ConfigError::of("topics.match", format!("{text:?} is no pattern: {error}")).from(at.clone())
            });
            patterns.push((self.keep(pattern)?, at));
        }
        Some(patterns)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicU64, Ordering},
    };

    use crate::{
        config::{Config, Flags, Given, effective},
        hub::{KernelRules, Overflow, Permission, SlowRules, Tags, TopicName, TopicTable},
    };

    /// Reads a file with this text, of which the first line is a setting. Returns the configuration and its printed
    /// form, or the text of its errors, with the path as `FILE`.
    fn read(text: &str) -> Result<(Config, String), String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("topics-{}-{number}.toml", std::process::id()));
        fs::write(&path, format!("shards = 1\n{text}")).unwrap();
        let mut flags = Flags::default();
        flags.read_file(path.clone(), "test");
        let given = Given::read(&flags, []);
        let config = given.config(20_000);
        fs::remove_file(&path).unwrap();
        let config = config.map_err(|errors| errors.to_string().replace(&path.display().to_string(), "FILE"))?;
        let shown = effective(&given, &config);
        Ok((config, shown))
    }

    #[test]
    fn rules_are_read() {
        let text = "[[topics]]\nmatch = [\"orders/*\", \"a,b\"]\nsubscribe = \"granted\"\nhistory = \"callback\"\n\
                    [[topics]]\nmatch = \"c,d\"\npublish = \"nobody\"\npresence = \"anyone\"\n";
        let (config, shown) = read(text).unwrap();
        assert!(shown.contains(&text["[[topics]]\n".len()..text.find("[[topics]]\nmatch = \"c").unwrap()]), "{shown}");
        let table = TopicTable::new(config.topics.iter().map(|given| &given.rule)).unwrap();
        for (name, expected) in [
            ("orders/1", [Permission::Granted, Permission::Admitted, Permission::Admitted, Permission::Callback]),
            ("a,b", [Permission::Granted, Permission::Admitted, Permission::Admitted, Permission::Callback]),
            ("c,d", [Permission::Admitted, Permission::Nobody, Permission::Anyone, Permission::Admitted]),
            ("c", [Permission::Admitted; 4]),
        ] {
            let rules = table.of(&TopicName::new(name).unwrap());
            assert_eq!([rules.subscribe, rules.publish, rules.presence, rules.history], expected, "{name}");
        }
        assert!(config.topics[0].origin.to_string().ends_with(":2"));
    }

    #[test]
    fn policies_are_read() {
        let text = "[[topics]]\nmatch = \"prices/*\"\nslow = \"latest\"\nkey = \"/symbol\"\nbacklog_bytes = \"2MiB\"\n\
                    backlog_messages = 100\nbacklog_age = \"5s\"\n\
                    [[topics]]\nmatch = \"log\"\nslow = \"drop_oldest\"\n\
                    [[topics]]\nmatch = \"first\"\nslow = \"drop_newest\"\n\
                    [[topics]]\nmatch = \"few\"\nslow = \"close\"\nbacklog_messages = 7\n\
                    [[topics]]\nmatch = \"kernel\"\nsend_buffer = \"32KiB\"\nunsent_low_water = \"16KiB\"\n\
                    [[topics]]\nmatch = \"paced\"\ndelivery_interval = \"20ms\"\n\
                    [[topics]]\nmatch = \"newest\"\ndelivery_interval = \"1s\"\nslow = \"latest\"\n";
        let (config, shown) = read(text).unwrap();
        assert!(shown.contains("slow = \"latest\"\nkey = \"/symbol\"\nbacklog_bytes = \"2MiB\""), "{shown}");
        let table = TopicTable::new(config.topics.iter().map(|given| &given.rule)).unwrap();
        let of = |name| table.of(&TopicName::new(name).unwrap());
        let slow = |overflow| SlowRules { overflow, ..SlowRules::default() };
        let limits = (Some(2 << 20), Some(100), Some(5_000));
        let (bytes_max, messages_max, age_max_ms) = limits;
        let prices = SlowRules { bytes_max, messages_max, age_max_ms, overflow: Overflow::Latest };
        assert_eq!((of("prices/x").slow, of("prices/x").key), (prices, "/symbol".parse().ok()));
        assert_eq!(of("log").slow, slow(Overflow::DropOldest));
        assert_eq!(of("first").slow, slow(Overflow::DropNewest));
        assert_eq!(of("few").slow, SlowRules { messages_max: Some(7), ..slow(Overflow::Close) });
        let tags = ["prices/x", "few", "paced", "newest", "other"].map(|name| of(name).tags);
        assert_eq!(tags, [Tags::On, Tags::On, Tags::Off, Tags::Newest, Tags::Off], "only what needs tags has them");
        let kernel = KernelRules { send_buffer_bytes: Some(32 << 10), unsent_low_water_bytes: Some(16 << 10) };
        assert_eq!((of("kernel").kernel, of("kernel").tags), (kernel, Tags::Off));
        let interval = |name| of(name).delivery_interval_ms;
        assert_eq!((interval("paced"), interval("newest"), interval("few")), (Some(20), Some(1_000), None));
    }

    /// Each error has its place, and all errors of a file are found together.
    #[test]
    fn wrong_rules_are_named() {
        let rule = |lines: &str| format!("[[topics]]\n{lines}");
        let admitted = "\"admitted\", \"granted\", \"anyone\", \"callback\" or \"nobody\"";
        for (text, expected) in [
            (rule(""), "FILE:2: topics.match: a rule of topics needs their names or a pattern".into()),
            (
                rule("match = \"a/*/b\""),
                "FILE:3: topics.match: \"a/*/b\" is no pattern: an asterisk stands only at the end".into(),
            ),
            (
                rule("match = [\n\"a\",\n\"\"]"),
                "FILE:5: topics.match: \"\" is no pattern: the topic's name is empty".into(),
            ),
            (rule("match = []"), "FILE:3: topics.match: the list is empty".into()),
            (rule("match = 7"), "FILE:3: topics.match: a topic's name or a pattern in quotes".into()),
            (rule("match = \"a\"\npublish = \"all\""), "FILE:4: topics.publish: \"all\" is none of admitted, ".into()),
            (rule("match = \"a\"\nsubscribe = true"), format!("FILE:4: topics.subscribe: {admitted} is expected")),
            (
                rule("match = \"a\"\nslow = \"drop\""),
                "FILE:4: topics.slow: \"drop\" is none of close, drop_oldest, drop_newest, latest, replay".into(),
            ),
            (rule("match = \"a\"\nslow = 7"), "FILE:4: topics.slow: \"close\", \"drop_oldest\", ".into()),
            (
                rule("match = \"a\"\nkey = \"symbol\""),
                "FILE:4: topics.key: \"symbol\" is no key: a JSON pointer begins with a slash".into(),
            ),
            (rule("match = \"a\"\nbacklog_bytes = \"7 cows\""), "FILE:4: topics.backlog_bytes: ".into()),
            (
                rule("match = \"a\"\nbacklog_messages = \"many\""),
                "FILE:4: topics.backlog_messages: \"many\" is no number".into(),
            ),
            (rule("match = \"a\"\nbacklog_messages = -1"), "FILE:4: topics.backlog_messages: ".into()),
            (rule("match = \"a\"\nbacklog_age = \"soon\""), "FILE:4: topics.backlog_age: \"soon\" is no time".into()),
            (
                rule("match = \"a\"\ndelivery_interval = 7"),
                "FILE:4: topics.delivery_interval: a time in quotes, ".into(),
            ),
            (
                rule("match = \"a\"\nsubscibe = \"anyone\""),
                "FILE:4: unknown key \"subscibe\" of a rule of topics; did you mean \"subscribe\"?".into(),
            ),
            (
                rule("match = \"a\"\nshards = 2"),
                "key of a rule of topics but of the server: it has to stand before the first [[topics]]".into(),
            ),
            (
                rule("match = \"a\"\n") + &rule("match = [\"b\", \"a\"]"),
                "FILE:5: topics.match: \"a\" has a rule already, at FILE:3".into(),
            ),
            (
                rule("match = [\"a/**\", \"a/**\"]"),
                "FILE:3: topics.match: \"a/**\" has a rule already, at FILE:3".into(),
            ),
            (
                "topics = 7".into(),
                "FILE:2: topics: tables are expected, each under [[topics]], not this integer".into(),
            ),
            ("topics = [7]".into(), "topics: a table is expected, not this integer".into()),
            ("[[topic]]\nmatch = \"a\"".into(), "unknown key \"topic\"; did you mean \"topics\"?".to_string()),
        ] {
            let errors = read(&text).map(|(config, _)| config.topics).expect_err(&text);
            assert!(errors.contains(&expected), "{expected:?} is not in {errors}");
            assert_eq!(errors.lines().count(), 1, "{errors}");
        }
        let errors = read(&(rule("match = \"a\"\npublish = 7\n") + &rule("subscribe = \"granted\""))).map(drop);
        assert_eq!(errors.unwrap_err().lines().count(), 2);
    }
}
