//! The rules of topics, as a file has given them.

use crate::{error::Origin, hub::TopicRule};

/// A rule of topics of a file.
#[derive(Debug, Clone)]
pub(in crate::config) struct GivenTopicRule {
    pub(in crate::config) rule: TopicRule,
    /// The place of the rule's table in the file.
    pub(in crate::config) origin: Origin,
    /// The keys and values as they are shown.
    pub(in crate::config) shown: String,
}

/// A rule of topics, and the place of its table in the settings' file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRuleConfig {
    /// The rule.
    pub rule: TopicRule,
    /// The place.
    pub origin: Origin,
}

impl From<&GivenTopicRule> for TopicRuleConfig {
    fn from(given: &GivenTopicRule) -> Self {
        TopicRuleConfig { rule: given.rule.clone(), origin: given.origin.clone() }
    }
}
