//! The options of a subscription.

/// The options of a subscription. By default, a subscriber does not see the messages that it publishes itself.
///
/// ```
/// use ringhub::SubscribeOptions;
/// assert!(!SubscribeOptions::default().has_echo);
/// assert!(SubscribeOptions::default().echo().has_echo);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Whether the subscriber sees the messages that it publishes itself.
    pub has_echo: bool,
}

impl SubscribeOptions {
    /// Lets the subscriber also see the messages that it publishes itself.
    #[must_use]
    pub fn echo(mut self) -> Self {
        self.has_echo = true;
        self
    }
}
