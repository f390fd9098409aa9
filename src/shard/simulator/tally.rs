//! Counts the events of a simulated network.

use crate::shard::pace::Pace;

/// The events of a run, or of many.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) sends: u64,
    pub(super) short_sends: u64,
    /// Reports that came when their connection had ended.
    pub(super) stale: u64,
    /// Reports that came when their slot had another owner.
    pub(super) stale_reused: u64,
    pub(super) polls_ended: u64,
    /// Receives that ended in front of an urgent byte.
    pub(super) urgent: u64,
    /// Sends after which a transport kept bytes.
    pub(super) kept: u64,
    /// Ends of the server's side that waited for bytes that a transport kept.
    pub(super) ends_kept: u64,
    /// Sockets dropped before the server had finished, while the client was still there.
    pub(super) cut_off: u64,
}

/// The sends that sockets were offered since the last check, whether they took them or not.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Offered {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    /// Bytes of the largest entry.
    largest: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Tally) {
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.sends += other.sends;
        self.short_sends += other.short_sends;
        self.stale += other.stale;
        self.stale_reused += other.stale_reused;
        self.polls_ended += other.polls_ended;
        self.urgent += other.urgent;
        self.kept += other.kept;
        self.ends_kept += other.ends_kept;
        self.cut_off += other.cut_off;
    }
}

impl Offered {
    pub(super) fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
    }

    /// Returns whether one flush may offer so much. The last entry may have more bytes than are left of the flush's
    /// portion.
    pub(super) fn is_within(&self, pace: &Pace) -> bool {
        self.entries <= pace.flush_entries && self.bytes < pace.flush_bytes + self.largest.max(1)
    }
}
