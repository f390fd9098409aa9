//! The limits of the lanes of a mesh.

use super::entry::{Delivery, Request};

/// Limits of all lanes of a mesh together. Each lane has an equal part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshLimits {
    /// Bytes of the lanes themselves. If they would take more, lanes get shorter, down to
    /// [`MeshLimits::LANE_ENTRIES_MIN`].
    pub lane_bytes_max: usize,
    /// Bytes of the entries in lanes, each with its message. A lane beyond its part takes no entry until some are taken
    /// out.
    pub message_bytes_max: usize,
    /// Bytes of the deliveries of one shard that wait for room; beyond this limit the shard takes no requests. The same
    /// limit holds for the requests of the shard that wait; beyond it, connections that may publish to any home wait.
    pub overflow_bytes_max: usize,
    /// The most entries that a lane has places for.
    pub lane_entries_max: usize,
}

impl MeshLimits {
    /// The fewest entries that a lane has places for.
    pub const LANE_ENTRIES_MIN: usize = 2;

    /// Returns how many entries each lane of a mesh with this many ends has places for.
    #[must_use]
    pub fn lane_entries(&self, ends: usize) -> usize {
        let pairs = (ends * ends.saturating_sub(1)).max(1);
        let most = self.lane_entries_max.max(Self::LANE_ENTRIES_MIN);
        (self.lane_bytes_max / pairs / ENTRY_PAIR).clamp(Self::LANE_ENTRIES_MIN, most)
    }

    /// Returns the memory of all lanes of a mesh with this many ends.
    #[must_use]
    pub fn lane_memory(&self, ends: usize) -> usize {
        ends * ends.saturating_sub(1) * ENTRY_PAIR * self.lane_entries(ends)
    }
}

impl Default for MeshLimits {
    fn default() -> Self {
        MeshLimits {
            lane_bytes_max: 32 << 20,
            message_bytes_max: 256 << 20,
            overflow_bytes_max: 4 << 20,
            lane_entries_max: 1_024,
        }
    }
}

/// Bytes of an entry of a request lane and of an entry of a delivery lane.
const ENTRY_PAIR: usize = size_of::<Request>() + size_of::<Delivery>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_memory_has_one_limit() {
        let limits = MeshLimits::default();
        for ends in [1, 2, 3, 16, 64, 128] {
            assert!(limits.lane_memory(ends) <= limits.lane_bytes_max, "{ends}");
        }
        assert!(limits.lane_entries(64) >= 16, "{}", limits.lane_entries(64));
        assert_eq!(limits.lane_entries(2), limits.lane_entries_max);
        assert_eq!(MeshLimits { lane_bytes_max: 0, ..limits }.lane_entries(64), MeshLimits::LANE_ENTRIES_MIN);
    }
}
