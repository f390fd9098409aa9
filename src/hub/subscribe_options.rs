//! What a subscription asks for.

/// The options of a subscription. By default, a subscriber does not see the messages that it publishes itself.
///
/// ```
/// use ringhub::SubscribeOptions;
/// assert!(!SubscribeOptions::default().echo);
/// assert!(SubscribeOptions::default().echo().echo);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Whether the subscriber sees the messages that it publishes itself.
    pub echo: bool,
}

impl SubscribeOptions {
    /// Shows the subscriber the messages that it publishes itself, too.
    #[must_use]
    pub fn echo(mut self) -> Self {
        self.echo = true;
        self
    }
}
