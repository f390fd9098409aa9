//! Names of topics, and the home that a name decides.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
};

/// The name of a topic: 1 to 255 bytes of UTF-8 without control characters.
///
/// ```
/// use ringhub::TopicName;
/// assert!(TopicName::new("news/today").is_ok());
/// assert!(TopicName::new("").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Bytes of the longest name.
    pub const BYTES_MAX: usize = 255;

    /// Checks a name.
    ///
    /// # Errors
    ///
    /// See [`TopicNameError`].
    pub fn new(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if name.len() > Self::BYTES_MAX {
            return Err(TopicNameError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(TopicNameError::ControlCharacter);
        }
        Ok(TopicName(name.into()))
    }

    /// Returns the topic of all connections, whose name no client and no handler can give.
    #[must_use]
    pub(crate) fn everyone() -> Self {
        static EVERYONE: LazyLock<TopicName> = LazyLock::new(|| TopicName("\0everyone".into()));
        EVERYONE.clone()
    }

    /// Returns whether the topic is [`TopicName::everyone`].
    #[must_use]
    pub(crate) fn is_everyone(&self) -> bool {
        self.0.starts_with('\0')
    }

    /// Returns the topic of the joins and leaves of this topic. Its home is that of this topic.
    #[must_use]
    pub(crate) fn events(&self) -> Self {
        TopicName(format!("{EVENTS}{}", self.0).into())
    }

    /// Returns whether the topic is that of the joins and leaves of another one.
    #[must_use]
    pub(crate) fn is_of_events(&self) -> bool {
        self.0.starts_with(EVENTS)
    }

    /// Returns whether no client and no handler can give the name.
    #[must_use]
    pub(crate) fn is_hidden(&self) -> bool {
        self.is_everyone() || self.is_of_events()
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The beginning of the name of a topic of joins and leaves.
const EVENTS: char = '\u{1}';

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicName({:?})", &*self.0)
    }
}

/// The reason for which a topic's name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicNameError {
    /// The name has no characters.
    Empty,
    /// The name has this many bytes, more than [`TopicName::BYTES_MAX`].
    TooLong(usize),
    /// The name has a control character.
    ControlCharacter,
}

impl fmt::Display for TopicNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicNameError::Empty => f.write_str("the topic's name is empty"),
            TopicNameError::TooLong(bytes) => {
                write!(f, "the topic's name has {bytes} bytes, more than {}", TopicName::BYTES_MAX)
            }
            TopicNameError::ControlCharacter => f.write_str("the topic's name has a control character"),
        }
    }
}

impl std::error::Error for TopicNameError {}

/// Returns the topic's home among this many shards: the shard that orders the topic's messages.
pub(crate) fn home(name: &TopicName, shards: u16) -> u16 {
    if shards == 1 {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    name.as_str().trim_start_matches(EVENTS).hash(&mut hasher);
    (hasher.finish() % u64::from(shards)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let check = |text: &str, expected: Result<(), TopicNameError>| {
            assert_eq!(TopicName::new(text).map(|_| ()), expected, "{text:?}");
        };
        check("a", Ok(()));
        check("a/b c/ü", Ok(()));
        check("", Err(TopicNameError::Empty));
        check("a\nb", Err(TopicNameError::ControlCharacter));
        check("a\u{7f}", Err(TopicNameError::ControlCharacter));
        check("a\u{85}", Err(TopicNameError::ControlCharacter));
        check(&"x".repeat(255), Ok(()));
        check(&"x".repeat(256), Err(TopicNameError::TooLong(256)));
    }

    #[test]
    fn events_have_the_home_of_their_topic() {
        for number in 0..100 {
            let name = TopicName::new(&number.to_string()).unwrap();
            assert_eq!(home(&name.events(), 7), home(&name, 7));
            assert!(name.events().is_hidden() && name.events().is_of_events() && !name.is_hidden());
        }
        assert!(TopicName::everyone().is_hidden() && !TopicName::everyone().is_of_events());
    }

    #[test]
    fn every_shard_is_the_home_of_its_share() {
        let mut shares = [0; 4];
        for number in 0..4_000 {
            shares[usize::from(home(&TopicName::new(&number.to_string()).unwrap(), 4))] += 1;
        }
        assert!(shares.iter().all(|share| (800..1_200).contains(share)), "{shares:?}");
    }
}
