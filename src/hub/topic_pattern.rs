//! Patterns of topics' names: one name, or all names below a prefix.

use std::{cmp::Ordering, fmt, str::FromStr};

use super::topic_name::{TopicName, TopicNameError};

/// A pattern of topics' names, as rules and permissions have it:
///
/// | pattern | topics |
/// | --- | --- |
/// | `orders/42` | the topic of this name |
/// | `orders/*` | `orders/` and one segment more: `orders/42`, not `orders/42/items` |
/// | `orders/**` | `orders/` and anything more: `orders/42`, `orders/42/items` |
/// | `*` | every name of one segment |
/// | `**` | every name |
///
/// A segment is a part of a name between slashes, and is not empty. An asterisk stands only at the end, as a segment of
/// its own: every other one is refused, so that a misspelt pattern does not name a topic by accident.
///
/// ```
/// use ringhub::{TopicName, TopicPattern};
/// let pattern: TopicPattern = "orders/*".parse()?;
/// assert!(pattern.matches(&TopicName::new("orders/42")?));
/// assert!(!pattern.matches(&TopicName::new("orders/42/items")?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TopicPattern {
    /// The name, or the part before the asterisks, which is empty or ends with a slash.
    text: Box<str>,
    reach: Reach,
}

/// The names that a pattern reaches from its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reach {
    Name,
    Segment,
    Everything,
}

impl TopicPattern {
    /// Returns the pattern of one name.
    #[must_use]
    pub fn of(name: &TopicName) -> TopicPattern {
        TopicPattern { text: name.as_str().into(), reach: Reach::Name }
    }

    /// Returns the bytes of memory of the pattern.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<TopicPattern>() + self.text.len()
    }

    /// Returns whether the pattern has this topic.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.is_hidden() {
            return false;
        }
        match self.reach {
            Reach::Name => *self.text == *topic.as_str(),
            Reach::Segment => self.rest(topic).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
            Reach::Everything => self.rest(topic).is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// Compares how precise two patterns are: a name is more precise than a pattern with an asterisk, a longer text is
    /// more precise than a shorter one, and `*` is more precise than `**` after the same text. Of all different
    /// patterns that have one topic in common, no two are equally precise.
    #[must_use]
    pub fn cmp_precision(&self, other: &TopicPattern) -> Ordering {
        let rank = |pattern: &TopicPattern| match pattern.reach {
            Reach::Name => (1, 0, 0),
            Reach::Segment => (0, pattern.text.len(), 1),
            Reach::Everything => (0, pattern.text.len(), 0),
        };
        rank(self).cmp(&rank(other))
    }

    /// Returns the name, if the pattern is that of one name.
    #[must_use]
    pub fn as_name(&self) -> Option<&str> {
        (self.reach == Reach::Name).then_some(&self.text)
    }

    /// Returns the part of a name after the text of this pattern.
    fn rest<'a>(&self, topic: &'a TopicName) -> Option<&'a str> {
        topic.as_str().strip_prefix(&*self.text)
    }
}

impl FromStr for TopicPattern {
    type Err = TopicPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let split = |asterisks| text.strip_suffix(asterisks).filter(|text| text.is_empty() || text.ends_with('/'));
        let (text, reach) = match (split("**"), split("*")) {
            (Some(before), _) => (before, Reach::Everything),
            (None, Some(before)) => (before, Reach::Segment),
            (None, None) => (text, Reach::Name),
        };
        if text.contains('*') {
            return Err(TopicPatternError::Asterisk);
        }
        if !(text.is_empty() && reach != Reach::Name) {
            TopicName::new(text).map_err(TopicPatternError::Name)?;
        }
        Ok(TopicPattern { text: text.into(), reach })
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(match self.reach {
            Reach::Name => "",
            Reach::Segment => "*",
            Reach::Everything => "**",
        })
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicPattern({:?})", self.to_string())
    }
}

/// The reason for which a text is no pattern of topics' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicPatternError {
    /// An asterisk does not stand alone in the last segment.
    Asterisk,
    /// The text before the asterisks, or the whole text, cannot begin a topic's name.
    Name(TopicNameError),
}

impl fmt::Display for TopicPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicPatternError::Asterisk => f.write_str("an asterisk stands only at the end, like news/* or news/**"),
            TopicPatternError::Name(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TopicPatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        text.parse().unwrap()
    }

    #[test]
    fn patterns_match_names() {
        let check = |text: &str, names: &[&str], others: &[&str]| {
            let pattern = pattern(text);
            assert_eq!(pattern.to_string(), text);
            let matches = |name: &&str| pattern.matches(&TopicName::new(name).unwrap());
            assert!(names.iter().all(matches), "{text} {names:?}");
            assert!(!others.iter().any(matches), "{text} {others:?}");
        };
        check("a", &["a"], &["b", "a/", "/a", "aa", "A"]);
        check("a/b", &["a/b"], &["a", "a/b/c", "a/"]);
        check("a/*", &["a/b", "a/ü"], &["a", "a/", "a/b/", "a/b/c", "b/a/b", "a//"]);
        check("a/**", &["a/b", "a/b/c", "a/b/", "a//"], &["a", "a/", "b/a/b", "ab/c"]);
        check("*", &["a", "ü"], &["a/b", "/", "/a"]);
        check("**", &["a", "a/b", "/", "/a"], &[]);
        assert!(!pattern("**").matches(&TopicName::everyone()));
    }

    #[test]
    fn texts_that_are_no_pattern() {
        for text in ["a*", "a/*b", "*/a", "**/a", "a/**/b", "***", "a/***", "* ", "a/*/*", "a**"] {
            assert_eq!(text.parse::<TopicPattern>(), Err(TopicPatternError::Asterisk), "{text}");
        }
        let long = "a".repeat(256);
        for (text, error) in [
            ("", TopicNameError::Empty),
            ("a\n", TopicNameError::ControlCharacter),
            ("a\n/*", TopicNameError::ControlCharacter),
            (&long, TopicNameError::TooLong(256)),
        ] {
            assert_eq!(text.parse::<TopicPattern>(), Err(TopicPatternError::Name(error)), "{text}");
        }
    }

    #[test]
    fn the_order_of_precision_decides_between_all_that_match() {
        let all = ["a/b/c", "a/b/*", "a/b/**", "a/*", "a/**", "*", "**", "a/b"].map(pattern);
        let name = |text: &str| TopicName::new(text).unwrap();
        let best = |text: &str| {
            let of_topic = all.iter().filter(|pattern| pattern.matches(&name(text)));
            of_topic.max_by(|a, b| a.cmp_precision(b)).unwrap().to_string()
        };
        for (topic, expected) in [
            ("a/b/c", "a/b/c"),
            ("a/b/d", "a/b/*"),
            ("a/b/d/e", "a/b/**"),
            ("a/b", "a/b"),
            ("a/c", "a/*"),
            ("a/c/d", "a/**"),
            ("a", "*"),
            ("b/c", "**"),
        ] {
            assert_eq!(best(topic), expected, "{topic}");
        }
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                let meets = |topic: &str| one.matches(&name(topic)) && other.matches(&name(topic));
                if ["a", "a/b", "a/c", "a/b/c", "a/b/d", "a/b/d/e"].into_iter().any(meets) {
                    assert_ne!(one.cmp_precision(other), Ordering::Equal, "{one} {other}");
                }
            }
        }
    }
}
