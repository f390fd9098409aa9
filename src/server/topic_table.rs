//! Makes the table of the rules of topics from all its sources.

use crate::{
    config::TopicRuleConfig,
    endpoints::asking,
    error::Origin,
    hub::{TopicPattern, TopicTable},
};

/// The reason for which rules of topics cannot hold together.
#[derive(Debug)]
pub(super) enum TopicConflict {
    /// Two rules have this pattern, at these places.
    Clash(TopicPattern, Origin, Origin),
    /// The rule of this pattern, at this place, asks a source of permissions, and there is none.
    NoSource(TopicPattern, Origin),
}

/// Makes the table of these rules.
///
/// # Errors
///
/// See [`TopicConflict`].
pub(super) fn topic_table<'a>(
    rules: impl Iterator<Item = &'a TopicRuleConfig> + Clone,
    has_source: bool,
) -> Result<TopicTable, TopicConflict> {
    let place = |pattern: &TopicPattern, number: usize| -> Origin {
        let patterns = rules.clone().flat_map(|given| given.rule.patterns().iter().map(|own| (own, &given.origin)));
        let place = patterns.filter(|(own, _)| *own == pattern).nth(number);
        place.map_or(Origin::Default, |(_, origin)| origin.clone())
    };
    let all = || rules.clone().map(|given| &given.rule);
    if let Some(pattern) = asking(all()).filter(|_| !has_source) {
        return Err(TopicConflict::NoSource(pattern.clone(), place(pattern, 0)));
    }
    TopicTable::new(all()).map_err(|pattern| {
        let (first, second) = (place(&pattern, 0), place(&pattern, 1));
        TopicConflict::Clash(pattern, first, second)
    })
}
