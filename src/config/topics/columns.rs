//! The columns of the rules of topics, as the settings' file has them.

use toml::de::DeValue;

use super::super::{
    quantities::Time,
    routes::reader::{Reader, Value},
    value::{Shape, one_of},
};
use crate::hub::{KeyPointer, Overflow, Permission, TopicRule};

/// A column of the rules of topics: a key of the table, and the reader of its value.
pub(in crate::config) struct Column {
    /// The key after the prefix `topics.`, as errors name it.
    pub(in crate::config) qualified: &'static str,
    /// The type of the key's value, in words.
    pub(in crate::config) value: &'static str,
    /// The default, in words.
    pub(in crate::config) preset: &'static str,
    pub(in crate::config) help: &'static str,
    pub(super) read: fn(&mut Reader<'_>, &'static str, Value<'_, '_>) -> Option<Change>,
}

/// Sets a column of a rule to the value that was read.
pub(super) type Change = Box<dyn FnOnce(TopicRule) -> TopicRule>;

impl Column {
    /// Returns the key as it stands in the table of a rule.
    pub(in crate::config) fn name(&self) -> &'static str {
        self.qualified.strip_prefix("topics.").expect("every row has the prefix")
    }
}

/// All columns, in the order in which errors name them.
pub(in crate::config) const COLUMNS: &[Column] = &[
    Column {
        qualified: "topics.subscribe",
        value: WHO,
        preset: "`admitted`",
        help: "Who may subscribe to the topics.",
        read: |r, key, value| r.permission(key, value, TopicRule::subscribe),
    },
    Column {
        qualified: "topics.publish",
        value: WHO,
        preset: "`admitted`",
        help: "Who may publish to the topics, by WebSocket and by HTTP.",
        read: |r, key, value| r.permission(key, value, TopicRule::publish),
    },
    Column {
        qualified: "topics.presence",
        value: "`true`, `false`, `admitted`, `granted`, `anyone`, `callback` or `nobody`",
        preset: "`false`",
        help: "Whether the server keeps who is subscribed, and who may see that; `true` is `admitted`.",
        read: |r, key, value| r.presence(key, value),
    },
    Column {
        qualified: "topics.history",
        value: WHO,
        preset: "`admitted`",
        help: "Who may read the topic's earlier messages.",
        read: |r, key, value| r.permission(key, value, TopicRule::history),
    },
    Column {
        qualified: "topics.slow",
        value: "`close`, `drop_oldest`, `drop_newest`, `latest` or `replay`",
        preset: "`close`",
        help: "What becomes of a subscriber that is over a budget: its connection is closed, the topic's oldest \
            or newest waiting messages are dropped, only the newest of each key is kept, or all are read from the \
            history later.",
        read: |r, key, value| r.overflow(key, value),
    },
    Column {
        qualified: "topics.key",
        value: "JSON pointer",
        preset: "none",
        help: "The part of a message that is its key, for `slow = \"latest\"`, if the publisher gives none. A \
            message without it is refused: 422, or `no_key`.",
        read: |r, key, value| r.key_pointer(key, value),
    },
    Column {
        qualified: "topics.backlog_bytes",
        value: "size, at least `max_message`",
        preset: "`max_backlog`",
        help: "Memory of the topic's messages that may wait for a subscriber: their frames, and some 60 to 250 \
            bytes for each. One message may always wait.",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.backlog_bytes(bytes))),
    },
    Column {
        qualified: "topics.backlog_messages",
        value: "count, at least 1",
        preset: "`max_backlog_messages`",
        help: "Messages of the topic that may wait for a subscriber.",
        read: |r, key, value| r.count(key, value, TopicRule::backlog_messages),
    },
    Column {
        qualified: "topics.backlog_age",
        value: "time, at least 1 ms",
        preset: "any time",
        help: "How long the topic's first message may wait for a subscriber before it begins to be sent.",
        read: |r, key, value| r.time(key, value, TopicRule::backlog_age_ms),
    },
    Column {
        qualified: "topics.history_messages",
        value: "count, at least 1",
        preset: "any number",
        help: "The most messages of a topic that are kept, if one of the `history_` keys is there.",
        read: |r, key, value| r.count(key, value, TopicRule::history_messages),
    },
    Column {
        qualified: "topics.history_bytes",
        value: "size",
        preset: "any size",
        help: "The most bytes of payloads and names that are kept of a topic, if one of the `history_` keys is there.",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.history_bytes(bytes))),
    },
    Column {
        qualified: "topics.history_age",
        value: "time, at least 1 ms",
        preset: "any time",
        help: "The longest time for which a message is kept, if one of the `history_` keys is there.",
        read: |r, key, value| r.time(key, value, TopicRule::history_age_ms),
    },
    Column {
        qualified: "topics.retain",
        value: "`true` or `false`",
        preset: "`false`",
        help: "Whether the newest message of a topic is kept beyond `history_age`; alone, it keeps one message.",
        read: |r, key, value| r.boolean(key, value).map(|retains| change(move |rule| rule.retain(retains))),
    },
    Column {
        qualified: "topics.leave_delay",
        value: "time, 0 to an hour",
        preset: "3 s",
        help: "How long after its last subscription a member has left, with `presence`.",
        read: |r, key, value| r.time(key, value, TopicRule::leave_delay_ms),
    },
    Column {
        qualified: "topics.presence_max_members",
        value: "count, at least 1",
        preset: "10000",
        help: "The most members of a topic that are listed; further ones are counted.",
        read: |r, key, value| r.count(key, value, TopicRule::presence_max_members),
    },
    Column {
        qualified: "topics.presence_events_max_members",
        value: "count",
        preset: "1000",
        help: "The most members of a topic whose joins and leaves are told by name; of more, the counts are told.",
        read: |r, key, value| r.count(key, value, TopicRule::presence_events_max_members),
    },
    Column {
        qualified: "topics.send_buffer",
        value: "size, at most 1 GiB",
        preset: "the server's `send_buffer`",
        help: "Send buffer of the sockets of the topic's subscribers (SO_SNDBUF).",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.send_buffer(bytes))),
    },
    Column {
        qualified: "topics.unsent_low_water",
        value: "size, at most 1 GiB",
        preset: "the server's `unsent_low_water`",
        help: "Unsent bytes from which on a subscriber's socket takes no more.",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.unsent_low_water(bytes))),
    },
    Column {
        qualified: "topics.delivery_interval",
        value: "time, 1 ms to a minute",
        preset: "none",
        help: "Shortest time between two deliveries of the topic; of each key the newest message is delivered.",
        read: |r, key, value| r.time(key, value, TopicRule::delivery_interval_ms),
    },
];

/// Returns the keys of a rule.
pub(super) fn names() -> Vec<&'static str> {
    ["match"].into_iter().chain(COLUMNS.iter().map(Column::name)).collect()
}

/// The values of a column about a permission, in words.
const WHO: &str = "`admitted`, `granted`, `anyone`, `callback` or `nobody`";

/// The names of permissions in a file.
const PERMISSIONS: [(&str, Permission); 5] = [
    ("admitted", Permission::Admitted),
    ("granted", Permission::Granted),
    ("anyone", Permission::Anyone),
    ("callback", Permission::Callback),
    ("nobody", Permission::Nobody),
];

/// The policies for slow subscribers.
const POLICIES: [Overflow; 5] =
    [Overflow::Close, Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Replay];

fn change(set: impl FnOnce(TopicRule) -> TopicRule + 'static) -> Change {
    Box::new(set)
}

impl Reader<'_> {
    fn permission(
        &mut self,
        key: &'static str,
        value: Value<'_, '_>,
        set: fn(TopicRule, Permission) -> TopicRule,
    ) -> Option<Change> {
        let expected = "\"admitted\", \"granted\", \"anyone\", \"callback\" or \"nobody\"";
        let name = self.text(key, expected, value)?;
        let permission = self.checked(key, value, || one_of(&name, &PERMISSIONS))?;
        Some(change(move |rule| set(rule, permission)))
    }

    /// Reads whether presence is kept, and who may see it.
    fn presence(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Change> {
        let expected = "true, false, \"admitted\", \"granted\", \"anyone\", \"callback\" or \"nobody\"";
        let shape = Shape { key, is_list: false, takes_integers: false, expected };
        match value.get_ref() {
            DeValue::Boolean(true) => Some(change(|rule| rule.presence(Permission::Admitted))),
            DeValue::Boolean(false) => Some(change(|rule| rule)),
            _ => {
                let items = self.keep(self.file.items(shape, value))?;
                let name = items.into_iter().next().map(|(text, _)| text)?;
                let permission = self.checked(key, value, || one_of(&name, &PERMISSIONS))?;
                Some(change(move |rule| rule.presence(permission)))
            }
        }
    }

    fn overflow(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Change> {
        let expected = "\"close\", \"drop_oldest\", \"drop_newest\", \"latest\" or \"replay\"";
        let name = self.text(key, expected, value)?;
        let overflow = self.checked(key, value, || one_of(&name, &POLICIES.map(|policy| (policy.name(), policy))))?;
        Some(change(move |rule| rule.slow(overflow)))
    }

    fn key_pointer(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Change> {
        let text = self.text(key, "a JSON pointer in quotes, such as \"/symbol\"", value)?;
        let pointer = text.parse::<KeyPointer>();
        let pointer = self.checked(key, value, || pointer.map_err(|error| format!("{text:?} is no key: {error}")))?;
        Some(change(move |rule| rule.key(pointer)))
    }

    fn count(
        &mut self,
        key: &'static str,
        value: Value<'_, '_>,
        set: fn(TopicRule, u64) -> TopicRule,
    ) -> Option<Change> {
        let shape = Shape { key, is_list: false, takes_integers: true, expected: "a number" };
        let items = self.keep(self.file.items(shape, value))?;
        let text = items.into_iter().next().map(|(text, _)| text)?;
        let count = self.checked(key, value, || text.parse::<u64>().map_err(|_| format!("{text:?} is no number")))?;
        Some(change(move |rule| set(rule, count)))
    }

    fn time(
        &mut self,
        key: &'static str,
        value: Value<'_, '_>,
        set: fn(TopicRule, u64) -> TopicRule,
    ) -> Option<Change> {
        let text = self.text(key, "a time in quotes, such as \"500ms\"", value)?;
        let Time(age) = self.checked(key, value, || text.parse())?;
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Some(change(move |rule| set(rule, ms)))
    }
}
