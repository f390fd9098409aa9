//! The columns of the rules of topics, as the settings' file has them.

use super::super::{
    routes::reader::{Reader, Value},
    value::one_of,
};
use crate::hub::{Permission, TopicRule};

/// A column of the rules of topics: a key of the table, and the field of a rule that it sets.
pub(in crate::config) struct Column {
    /// The key after the prefix `topics.`, as errors name it.
    pub(in crate::config) qualified: &'static str,
    pub(super) set: fn(TopicRule, Permission) -> TopicRule,
}

impl Column {
    /// Returns the key as it stands in the table of a rule.
    pub(super) fn name(&self) -> &'static str {
        self.qualified.strip_prefix("topics.").expect("every row has the prefix")
    }
}

/// All columns, in the order in which errors name them.
pub(in crate::config) const COLUMNS: &[Column] = &[
    Column { qualified: "topics.subscribe", set: TopicRule::subscribe },
    Column { qualified: "topics.publish", set: TopicRule::publish },
    Column { qualified: "topics.presence", set: TopicRule::presence },
    Column { qualified: "topics.history", set: TopicRule::history },
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

impl Reader<'_> {
    pub(super) fn permission(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Permission> {
        let expected = "\"admitted\", \"granted\", \"anyone\", \"callback\" or \"nobody\"";
        let name = self.text(key, expected, value)?;
        self.checked(key, value, || one_of(&name, &PERMISSIONS))
    }
}
