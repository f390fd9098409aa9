//! Makes the table of the rules of topics from all its sources.

use super::BuildError;
use crate::{
    config::TopicRuleConfig,
    endpoints::asking,
    error::Origin,
    hub::{TopicPattern, TopicTable},
};

/// Makes the table of these rules.
///
/// # Errors
///
/// [`BuildError::TopicRules`] if two rules have one pattern, and [`BuildError::NoPermissionSource`] if a rule asks a
/// source of permissions and there is none.
pub(super) fn topic_table<'a>(
    rules: impl Iterator<Item = &'a TopicRuleConfig> + Clone,
    has_source: bool,
) -> Result<TopicTable, BuildError> {
    let place = |pattern: &TopicPattern, number: usize| -> Origin {
        let patterns = rules.clone().flat_map(|given| given.rule.patterns().iter().map(|own| (own, &given.origin)));
        let place = patterns.filter(|(own, _)| *own == pattern).nth(number);
        place.map_or(Origin::Default, |(_, origin)| origin.clone())
    };
    let all = || rules.clone().map(|given| &given.rule);
    if let Some(pattern) = asking(all()).filter(|_| !has_source) {
        return Err(BuildError::NoPermissionSource(pattern.clone(), place(pattern, 0)));
    }
    TopicTable::new(all()).map_err(|pattern| {
        let (first, second) = (place(&pattern, 0), place(&pattern, 1));
        BuildError::TopicRules(pattern, first, second)
    })
}
