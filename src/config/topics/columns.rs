//! The columns of the rules of topics, as the settings' file has them.

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
    pub(super) read: fn(&mut Reader<'_>, &'static str, Value<'_, '_>) -> Option<Change>,
}

/// Sets a column of a rule to the value that was read.
pub(super) type Change = Box<dyn FnOnce(TopicRule) -> TopicRule>;

impl Column {
    /// Returns the key as it stands in the table of a rule.
    pub(super) fn name(&self) -> &'static str {
        self.qualified.strip_prefix("topics.").expect("every row has the prefix")
    }
}

/// All columns, in the order in which errors name them.
pub(in crate::config) const COLUMNS: &[Column] = &[
    Column { qualified: "topics.subscribe", read: |r, key, value| r.permission(key, value, TopicRule::subscribe) },
    Column { qualified: "topics.publish", read: |r, key, value| r.permission(key, value, TopicRule::publish) },
    Column { qualified: "topics.presence", read: |r, key, value| r.permission(key, value, TopicRule::presence) },
    Column { qualified: "topics.history", read: |r, key, value| r.permission(key, value, TopicRule::history) },
    Column { qualified: "topics.slow", read: |r, key, value| r.overflow(key, value) },
    Column { qualified: "topics.key", read: |r, key, value| r.key_pointer(key, value) },
    Column {
        qualified: "topics.backlog_bytes",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.backlog_bytes(bytes))),
    },
    Column {
        qualified: "topics.backlog_messages",
        read: |r, key, value| r.count(key, value, TopicRule::backlog_messages),
    },
    Column { qualified: "topics.backlog_age", read: |r, key, value| r.time(key, value, TopicRule::backlog_age_ms) },
    Column {
        qualified: "topics.history_messages",
        read: |r, key, value| r.count(key, value, TopicRule::history_messages),
    },
    Column {
        qualified: "topics.history_bytes",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.history_bytes(bytes))),
    },
    Column { qualified: "topics.history_age", read: |r, key, value| r.time(key, value, TopicRule::history_age_ms) },
    Column {
        qualified: "topics.retain",
        read: |r, key, value| r.boolean(key, value).map(|retains| change(move |rule| rule.retain(retains))),
    },
    Column {
        qualified: "topics.send_buffer",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.send_buffer(bytes))),
    },
    Column {
        qualified: "topics.unsent_low_water",
        read: |r, key, value| r.size(key, value).map(|bytes| change(move |rule| rule.unsent_low_water(bytes))),
    },
    Column {
        qualified: "topics.delivery_interval",
        read: |r, key, value| r.time(key, value, TopicRule::delivery_interval_ms),
    },
];

/// Returns the keys of a rule.
pub(super) fn names() -> Vec<&'static str> {
    ["match"].into_iter().chain(COLUMNS.iter().map(Column::name)).collect()
}

/// The names of permissions in a file.
const PERMISSIONS: [(&str, Permission); 5] = [
    ("admitted", Permission::Admitted),
    ("granted", Permission::Granted),
    ("anyone", Permission::Anyone),
    ("callback", Permission::Callback),
    ("nobody", Permission::Nobody),
];

/// The policies for slow subscribers.
const POLICIES: [Overflow; 4] = [Overflow::Close, Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest];

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

    fn overflow(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Change> {
        let expected = "\"close\", \"drop_oldest\", \"drop_newest\" or \"latest\"";
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
