//! The topics that an identity may use, as its token or the application says.

use crate::hub::{TopicName, TopicPattern};

/// The topics that an identity may use. Where the rule of a topic is `Admitted` or `Granted`, an identity with grants
/// may use the topic only if its grants have the topic. With `Admitted`, an identity without grants may use the topic
/// too. The other rules do not look at grants.
///
/// ```
/// use ringhub::{TopicName, auth::{Grants, TopicRight}};
/// let grants = Grants::default().allow(TopicRight::Subscribe, ["orders/42".parse()?, "news/*".parse()?]);
/// assert!(grants.has(TopicRight::Subscribe, &TopicName::new("orders/42")?));
/// assert!(!grants.has(TopicRight::Subscribe, &TopicName::new("orders/43")?));
/// assert!(!grants.has(TopicRight::Publish, &TopicName::new("orders/42")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    subscribe: Vec<TopicPattern>,
    publish: Vec<TopicPattern>,
    presence: Vec<TopicPattern>,
    history: Vec<TopicPattern>,
}

/// What an identity may do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicRight {
    /// Receive its messages.
    Subscribe,
    /// Publish to it.
    Publish,
    /// See who is subscribed to it.
    Presence,
    /// Read its earlier messages.
    History,
}

impl Grants {
    /// Adds a right over all topics of these patterns.
    #[must_use]
    pub fn allow(mut self, right: TopicRight, topics: impl IntoIterator<Item = TopicPattern>) -> Grants {
        let patterns = match right {
            TopicRight::Subscribe => &mut self.subscribe,
            TopicRight::Publish => &mut self.publish,
            TopicRight::Presence => &mut self.presence,
            TopicRight::History => &mut self.history,
        };
        patterns.extend(topics);
        self
    }

    /// Returns whether the identity has a right over a topic.
    #[must_use]
    pub fn has(&self, right: TopicRight, topic: &TopicName) -> bool {
        self.patterns(right).iter().any(|pattern| pattern.matches(topic))
    }

    /// Returns the bytes of memory of the grants, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let all = [&self.subscribe, &self.publish, &self.presence, &self.history];
        size_of::<Grants>() + all.into_iter().flatten().map(TopicPattern::bytes).sum::<usize>()
    }

    /// Returns the patterns of the topics over which the identity has a right.
    #[must_use]
    pub fn patterns(&self, right: TopicRight) -> &[TopicPattern] {
        match right {
            TopicRight::Subscribe => &self.subscribe,
            TopicRight::Publish => &self.publish,
            TopicRight::Presence => &self.presence,
            TopicRight::History => &self.history,
        }
    }
}
