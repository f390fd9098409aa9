//! Makes the table of the rules of topics from all its sources.

use crate::{
    config::{Limits, Size, TopicRuleConfig},
    endpoints::asking,
    error::Origin,
    hub::{Overflow, PresenceRules, TopicPattern, TopicRule, TopicRules, TopicTable},
};

/// The reason for which rules of topics cannot hold together.
#[derive(Debug)]
pub(super) enum TopicConflict {
    /// Two rules have this pattern, at these places.
    Clash(TopicPattern, Origin, Origin),
    /// The rule of this pattern, at this place, asks a source of permissions, and there is none.
    NoSource(TopicPattern, Origin),
    /// The columns of the rule of this pattern, at this place, cannot hold together, for this reason.
    Columns(TopicPattern, Origin, String),
}

/// Makes the table of these rules.
///
/// # Errors
///
/// See [`TopicConflict`].
pub(super) fn topic_table<'a>(
    rules: impl Iterator<Item = &'a TopicRuleConfig> + Clone,
    has_source: bool,
    message_bytes_max: u32,
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
    for TopicRuleConfig { rule, origin } in rules.clone() {
        let fault = slow_fault(rule.rules(), message_bytes_max).or_else(|| history_fault(rule.rules()));
        let fault = fault.or_else(|| presence_fault(rule.rules()));
        if let (Some(fault), Some(pattern)) = (fault, rule.patterns().first()) {
            return Err(TopicConflict::Columns(pattern.clone(), origin.clone(), fault));
        }
    }
    TopicTable::new(all()).map_err(|pattern| {
        let (first, second) = (place(&pattern, 0), place(&pattern, 1));
        TopicConflict::Clash(pattern, first, second)
    })
}

/// Returns what is wrong with the columns of a rule about its history.
fn history_fault(TopicRules { kept, .. }: &TopicRules) -> Option<String> {
    let zero = [
        ("history_messages is 0", kept.messages_max),
        ("history_bytes is 0", kept.bytes_max),
        ("history_age is less than a millisecond", kept.age_max_ms),
    ];
    let (what, _) = zero.into_iter().find(|(_, most)| *most == Some(0))?;
    Some(format!("{what}: a topic that is to keep nothing has no such rule"))
}

/// Returns what is wrong with the columns of a rule about presence.
fn presence_fault(TopicRules { members, .. }: &TopicRules) -> Option<String> {
    let PresenceRules { leave_delay_ms, members_max, .. } = (*members)?;
    if leave_delay_ms > PresenceRules::LEAVE_DELAY_MS_MAX {
        return Some(format!("leave_delay is {leave_delay_ms} ms, more than an hour"));
    }
    (members_max == 0).then(|| "presence_max_members is 0, less than one member".into())
}

/// Returns what is wrong with the columns of a rule about slow subscribers.
fn slow_fault(
    TopicRules { slow, key, delivery_interval_ms, kernel, kept, .. }: &TopicRules,
    message_bytes_max: u32,
) -> Option<String> {
    let message = u64::from(message_bytes_max);
    if let Some(bytes) = slow.bytes_max.filter(|&bytes| bytes < message) {
        let (bytes, message) = (Size(bytes), Size(message));
        return Some(format!(
            "backlog_bytes is {bytes}, less than one of the largest messages (max_message), {message}"
        ));
    }
    if slow.messages_max == Some(0) {
        return Some("backlog_messages is 0, less than one message".into());
    }
    if slow.age_max_ms == Some(0) {
        return Some("backlog_age is less than a millisecond".into());
    }
    let kernel = [("send_buffer", kernel.send_buffer_bytes, 0), ("unsent_low_water", kernel.unsent_low_water_bytes, 1)];
    for (column, bytes, least) in kernel {
        if let Some(bytes) = bytes.filter(|bytes| !(least..=Limits::SEND_BUFFER_MAX).contains(bytes)) {
            let [bytes, least, most] = [bytes, least, Limits::SEND_BUFFER_MAX].map(Size);
            return Some(format!("{column} is {bytes}, not between {least} and {most}"));
        }
    }
    if *delivery_interval_ms == Some(0) {
        return Some("delivery_interval is less than a millisecond".into());
    }
    if let Some(ms) = delivery_interval_ms.filter(|&ms| ms > TopicRule::DELIVERY_INTERVAL_MS_MAX) {
        return Some(format!("delivery_interval is {ms} ms, more than a minute"));
    }
    if slow.overflow == Overflow::Replay && !kept.keeps_messages() {
        return Some(
            "slow = \"replay\" needs a history: history_messages, history_bytes, history_age or retain".into(),
        );
    }
    if slow.overflow == Overflow::Replay && slow.age_max_ms.is_some() {
        return Some("backlog_age has no effect with slow = \"replay\"; history_age has".into());
    }
    let is_unused = key.is_some() && slow.overflow != Overflow::Latest;
    is_unused.then(|| format!("key has no effect with slow = {:?}, only with \"latest\"", slow.overflow.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_columns_are_named() {
        let rule = || TopicRule::new(["a/*".parse().unwrap()]);
        let pointer = || "/key".parse().unwrap();
        for (rule, expected) in [
            (rule().slow(Overflow::Latest).key(pointer()).backlog_bytes(1_024).backlog_messages(1), None),
            (rule().backlog_age_ms(1), None),
            (
                rule().backlog_bytes(1_023),
                Some("backlog_bytes is 1023, less than one of the largest messages (max_message), 1KiB"),
            ),
            (rule().backlog_messages(0), Some("backlog_messages is 0, less than one message")),
            (rule().backlog_age_ms(0), Some("backlog_age is less than a millisecond")),
            (rule().history_messages(1).history_bytes(1).history_age_ms(1), None),
            (
                rule().history_messages(0),
                Some("history_messages is 0: a topic that is to keep nothing has no such rule"),
            ),
            (
                rule().history_bytes(0).retain(true),
                Some("history_bytes is 0: a topic that is to keep nothing has no such rule"),
            ),
            (
                rule().history_age_ms(0),
                Some("history_age is less than a millisecond: a topic that is to keep nothing has no such rule"),
            ),
            (rule().leave_delay_ms(0).presence_max_members(1).presence_events_max_members(0), None),
            (rule().leave_delay_ms(3_600_000), None),
            (rule().leave_delay_ms(3_600_001), Some("leave_delay is 3600001 ms, more than an hour")),
            (rule().presence_max_members(0), Some("presence_max_members is 0, less than one member")),
            (rule().slow(Overflow::Replay).retain(true).backlog_messages(1), None),
            (
                rule().slow(Overflow::Replay),
                Some("slow = \"replay\" needs a history: history_messages, history_bytes, history_age or retain"),
            ),
            (
                rule().slow(Overflow::Replay).history_age_ms(1).backlog_age_ms(1),
                Some("backlog_age has no effect with slow = \"replay\"; history_age has"),
            ),
            (rule().send_buffer(0).unsent_low_water(1), None),
            (rule().send_buffer(1 << 30).unsent_low_water(1 << 30), None),
            (rule().send_buffer((1 << 30) + 1), Some("send_buffer is 1073741825, not between 0 and 1GiB")),
            (rule().unsent_low_water(0), Some("unsent_low_water is 0, not between 1 and 1GiB")),
            (rule().delivery_interval_ms(1), None),
            (rule().delivery_interval_ms(60_000), None),
            (rule().delivery_interval_ms(0), Some("delivery_interval is less than a millisecond")),
            (rule().delivery_interval_ms(60_001), Some("delivery_interval is 60001 ms, more than a minute")),
            (rule().key(pointer()), Some("key has no effect with slow = \"close\", only with \"latest\"")),
            (
                rule().slow(Overflow::DropNewest).key(pointer()),
                Some("key has no effect with slow = \"drop_newest\", only with \"latest\""),
            ),
        ] {
            let rules = [TopicRuleConfig { rule, origin: Origin::Default }];
            let fault = topic_table(rules.iter(), false, 1_024).err().map(|conflict| match conflict {
                TopicConflict::Columns(pattern, _, what) => (pattern.to_string(), what),
                other => panic!("{other:?}"),
            });
            assert_eq!(fault, expected.map(|what| ("a/*".into(), what.into())));
        }
    }
}
