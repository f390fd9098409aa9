//! The rules of a topic for its presence: how long a member that is gone stays in the list, and how many are listed.

/// The rules of a topic for its presence. A topic without them keeps no list of its members.
///
/// ```
/// use ringhub::PresenceRules;
/// assert_eq!(PresenceRules::default().leave_delay_ms, 3_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresenceRules {
    /// Milliseconds from the end of a member's last subscription until the member has left: 0 to
    /// [`PresenceRules::LEAVE_DELAY_MS_MAX`]. A member that comes back within this time has not left.
    pub leave_delay_ms: u64,
    /// The most members that are listed, from 1 on. Further members are counted, and not listed.
    pub members_max: u64,
    /// The most members for which joins and leaves are told by name. Of more members only the counts are told.
    pub events_members_max: u64,
}

impl PresenceRules {
    /// The longest time in milliseconds for which a member that is gone stays in the list: an hour.
    pub const LEAVE_DELAY_MS_MAX: u64 = 3_600_000;
}

impl Default for PresenceRules {
    fn default() -> Self {
        PresenceRules { leave_delay_ms: 3_000, members_max: 10_000, events_members_max: 1_000 }
    }
}
