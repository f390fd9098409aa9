//! Losses: what a run has dropped, for each of its members, and when it drops more.

use std::collections::HashMap;

use bytes::Bytes;

use crate::hub::{lag::Lost, memory::ALLOCATION};

/// When a run that keeps the newest messages drops the others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conflation {
    /// The messages that were left the last time.
    pub(super) kept: u32,
    /// The bytes that were left the last time.
    pub(super) kept_bytes: usize,
}

/// The messages that a run has dropped.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Those of every member without losses of its own.
    pub(super) all: Lost,
    /// By slot: those of members that are not owed some of the messages.
    pub(super) own: HashMap<u32, Lost>,
    /// The notice of `all`, once the run is frozen; empty if the format has no notices.
    notice: Bytes,
}

impl Losses {
    /// Returns what the subscriber at `slot` has lost.
    pub(super) fn of(&self, slot: u32) -> Lost {
        self.own.get(&slot).copied().unwrap_or(self.all)
    }

    /// Notes that the subscriber at `slot` joins now.
    pub(super) fn join(&mut self, slot: u32) {
        self.own.insert(slot, Lost::default());
    }

    /// Takes the notice of what members without losses of their own have lost.
    pub(super) fn set_notice(&mut self, encode: impl FnOnce(&Lost) -> Bytes) {
        self.notice = if self.all.count > 0 { encode(&self.all) } else { Bytes::new() };
    }

    /// Returns the notice for the subscriber at `slot`, if it has no losses of its own.
    pub(super) fn notice(&self, slot: u32) -> Option<Bytes> {
        (!self.own.contains_key(&slot)).then(|| self.notice.clone())
    }

    /// Returns the memory that the losses take.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + 2 * ALLOCATION + self.own.capacity() * 2 * (size_of::<(u32, Lost)>() + 1)
    }
}

impl Conflation {
    /// Returns whether a run of so many messages and bytes is to be conflated. So many members have losses of their
    /// own, each of which is looked at.
    #[inline]
    pub(super) fn is_due(&self, messages: u32, bytes: usize, own: usize) -> bool {
        messages as usize > 2 * self.kept as usize + MESSAGES_MORE + own
            || bytes > 2 * self.kept_bytes + BYTES_MORE + BYTES_OF_OWN * own
    }
}

/// A run conflates when it has twice as many messages as it kept the last time and so many more, or twice as many bytes
/// and so many more.
const MESSAGES_MORE: usize = 64;
const BYTES_MORE: usize = 64 * 1_024;

/// The bytes that come for each member with losses of its own before the losses are looked at again.
const BYTES_OF_OWN: usize = 64;
