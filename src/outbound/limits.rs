//! The limits of the server's own requests.

use std::time::Duration;

/// The limits of a server's own requests.
#[derive(Debug, Clone, Copy)]
pub struct OutboundLimits;

impl OutboundLimits {
    /// Requests that are under way, each on a connection of its own. Further requests wait, within their time. The
    /// networks whose clients callbacks ask about take turns, among each other and with the other requests.
    pub const IN_FLIGHT_MAX: usize = 64;

    /// Requests that are under way or wait. One more fails at once. So does a callback's request for a client whose
    /// network, an IPv4 address or a /48 of IPv6, has as many places as are left for clients.
    pub const REQUESTS_MAX: usize = 1_024;

    /// Of [`OutboundLimits::REQUESTS_MAX`], the places that callbacks' requests leave for the requests of an embedder
    /// and for fetches of issuers' keys.
    pub const OF_SERVER_MIN: usize = 16;

    /// Of [`OutboundLimits::REQUESTS_MAX`] and of [`OutboundLimits::IN_FLIGHT_MAX`], the places that are kept for
    /// fetches of issuers' keys. All tokens of an issuer may wait for such a fetch, and clients decide how many other
    /// requests there are.
    pub const OF_KEYS_MAX: usize = 4;

    /// Idle connections that are kept for the next requests. For one more, the one that has been idle longest is
    /// closed.
    pub const IDLE_MAX: usize = 16;

    /// The time after which an idle connection is closed.
    pub const IDLE_TIME: Duration = Duration::from_secs(30);

    /// Names that are resolved at the same time.
    pub const LOOKUPS_MAX: usize = 2;

    /// Bytes of the head of an answer, and of the buffer that it is read into.
    pub const HEAD_BYTES_MAX: usize = 64 << 10;

    /// Descriptors of the requests under way, of the idle connections, and of names that are resolved.
    pub const DESCRIPTORS_MAX: usize = Self::IN_FLIGHT_MAX + Self::IDLE_MAX + 4 * Self::LOOKUPS_MAX;
}
