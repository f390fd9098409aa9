//! The tokens by which entries and their completions are told apart.

use crate::sys::Key;

/// `user_data` of an entry: 8 bits kind, 24 bits generation, 32 bits slot (or index in the batch). A completion that
/// comes late is recognised by its generation and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(pub(super) u64);

impl Token {
    pub(super) const GENERATION_MAX: u32 = (1 << 24) - 1;

    pub(super) fn new(kind: Kind, key: Key) -> Token {
        debug_assert!(key.generation <= Self::GENERATION_MAX);
        Token((kind as u64) << 56 | u64::from(key.generation) << 32 | u64::from(key.slot))
    }

    pub(super) fn kind(self) -> Option<Kind> {
        let kinds = [Kind::Batch, Kind::Input, Kind::Room, Kind::InputCancel, Kind::RoomCancel];
        kinds.into_iter().find(|&kind| kind as u64 == self.0 >> 56)
    }

    pub(super) fn key(self) -> Key {
        Key { slot: self.0 as u32, generation: (self.0 >> 32) as u32 & Self::GENERATION_MAX }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An entry of the batch whose number is the generation.
    Batch = 1,
    /// The multishot poll for input.
    Input = 2,
    /// The one-shot poll for room to send.
    Room = 3,
    /// The cancellation of the poll for input.
    InputCancel = 4,
    /// The cancellation of the poll for room.
    RoomCancel = 5,
}
