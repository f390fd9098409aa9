//! The messages of a client that wait while the judge decides about an earlier one.

use std::{cell::Cell, collections::VecDeque, fmt, rc::Rc};

use crate::hub::Publication;

/// The messages of a client that wait while the judge decides about an earlier one. They belong to the profile of the
/// connection, so that the shard knows their memory, and gives them up without the handler: a connection that is
/// closing carries out none of them.
#[derive(Default)]
pub(crate) struct Waiting {
    /// The later messages, as they came.
    behind: VecDeque<Box<str>>,
    /// The bytes of these messages, without their entries.
    behind_bytes: usize,
    /// The publication that the judge decides about.
    held: Option<HeldPublication>,
    /// The bytes of what the judge decides about: a publication, or a token with the topics that are judged by it.
    held_bytes: usize,
}

/// A publication that the judge decides about. Whoever carries out the decision takes the publication; there is none
/// if the server has given it up.
pub(crate) type HeldPublication = Rc<Cell<Option<Publication>>>;

impl Waiting {
    /// The most bytes of messages that wait behind another, beyond the first, with their entries.
    pub(crate) const BEHIND_BYTES_MAX: usize = 64 * 1_024;

    /// The bytes that a message takes beyond its text: its place in the queue, which doubles, and its allocation.
    pub(crate) const ENTRY: usize = 2 * size_of::<Box<str>>() + 16;

    /// The most bytes of a connection's messages that wait, if none has more than `message_bytes_max`: the publication
    /// that the judge decides about, the first message behind it, and the others.
    pub(crate) const fn bytes_max(message_bytes_max: u64) -> u64 {
        let entries = size_of::<Waiting>() + size_of::<Publication>() + Waiting::ENTRY;
        2 * message_bytes_max + (Waiting::BEHIND_BYTES_MAX + entries) as u64
    }

    /// Adds a message that waits behind another. Returns whether there was room.
    pub(super) fn add(&mut self, text: &str) -> bool {
        // One message of any size has room, and is not counted.
        let first = self.behind.front().map_or(text.len(), |first| first.len());
        let beyond_first = self.behind_bytes + text.len() - first + self.behind.len() * Waiting::ENTRY;
        let has_room = beyond_first <= Waiting::BEHIND_BYTES_MAX;
        if has_room {
            self.behind_bytes += text.len();
            self.behind.push_back(text.into());
        }
        has_room
    }

    /// Takes the message that came first.
    pub(super) fn next(&mut self) -> Option<Box<str>> {
        let text = self.behind.pop_front()?;
        self.behind_bytes -= text.len();
        Some(text)
    }

    /// Keeps what the judge decides about, and its size.
    pub(super) fn hold(&mut self, held: Option<HeldPublication>, bytes: usize) {
        (self.held, self.held_bytes) = (held, bytes);
    }

    /// Returns whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.behind.is_empty() && self.held_bytes == 0
    }

    /// Returns the bytes of memory of all that waits, roughly.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Waiting>() + self.held_bytes + self.behind_bytes + self.behind.len() * Waiting::ENTRY
    }
}

impl Drop for Waiting {
    /// Drops the publication that the judge decides about, too.
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held.take();
        }
    }
}

/// Never shows the messages: one may have a token.
impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { behind, behind_bytes, held_bytes, .. } = self;
        let mut shown = f.debug_struct("Waiting");
        shown.field("behind", &behind.len()).field("behind_bytes", behind_bytes).field("held_bytes", held_bytes);
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: usize = Waiting::BEHIND_BYTES_MAX / 2 - Waiting::ENTRY;

    #[test]
    fn messages_behind_another_are_bounded() {
        let mut waiting = Waiting::default();
        let (large, half) = ("x".repeat(Waiting::BEHIND_BYTES_MAX + 1), "x".repeat(HALF));
        assert!(waiting.add(&large), "one of any size has room");
        assert!(waiting.add(&half) && waiting.add(&half) && !waiting.add(""), "an entry counts too");
        assert_eq!(waiting.bytes(), size_of::<Waiting>() + large.len() + 2 * HALF + 3 * Waiting::ENTRY);
        assert_eq!(waiting.next().as_deref(), Some(&*large));
        assert!(waiting.add(&half) && !waiting.add(&half));
        assert_eq!(std::iter::from_fn(|| waiting.next()).count(), 3);
        assert!(waiting.is_empty() && waiting.bytes() == size_of::<Waiting>());
    }

    /// As many bytes as may wait do wait, and no more.
    #[test]
    fn the_largest_sum_is_reached() {
        let message = 1_000_000;
        let large = "x".repeat(message);
        let mut waiting = Waiting::default();
        waiting.hold(Some(Rc::default()), message + size_of::<Publication>());
        assert!(waiting.add(&large));
        while waiting.add("") {}
        let (bytes, most) = (waiting.bytes() as u64, Waiting::bytes_max(message as u64));
        assert!(bytes <= most && bytes + Waiting::ENTRY as u64 > most, "{bytes} of {most}");
    }

    #[test]
    fn what_is_given_up_is_not_published() {
        let held = HeldPublication::new(Cell::new(Some(Publication::text("x"))));
        let mut waiting = Waiting::default();
        waiting.hold(Some(Rc::clone(&held)), 1);
        assert!(!waiting.is_empty());
        drop(waiting);
        assert!(held.take().is_none());
    }

    #[test]
    fn no_debug_shows_what_waits() {
        let mut waiting = Waiting::default();
        assert!(waiting.add(r#"{"refresh":{"token":"s3cret"}}"#));
        assert!(!format!("{waiting:?}").contains("s3cret"));
    }
}
