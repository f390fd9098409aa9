//! The rules of topics: what each topic asks for.

use std::{fmt, sync::Arc};

use super::{tag::Tags, topic_name::TopicName};

/// The rules of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TopicRules {
    /// Whether runs and backlogs keep the place and the time of each message of the topic.
    pub tags: Tags,
}

/// The rules of all topics. A shard looks up the rules of a topic once, when it begins to know the topic.
#[derive(Clone)]
pub struct RulesOfTopics(Arc<dyn Fn(&TopicName) -> TopicRules + Send + Sync>);

impl RulesOfTopics {
    /// Returns the rules that `rules` has for each name.
    #[must_use]
    pub fn new(rules: impl Fn(&TopicName) -> TopicRules + Send + Sync + 'static) -> Self {
        RulesOfTopics(Arc::new(rules))
    }

    /// Returns the rules of the topic of that name.
    pub(super) fn of(&self, name: &TopicName) -> TopicRules {
        (self.0)(name)
    }
}

/// No topic asks for anything.
impl Default for RulesOfTopics {
    fn default() -> Self {
        RulesOfTopics::new(|_| TopicRules::default())
    }
}

impl fmt::Debug for RulesOfTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RulesOfTopics").finish_non_exhaustive()
    }
}
