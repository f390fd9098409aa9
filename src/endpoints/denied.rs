//! The decision of the judge: the sender of an admitted request, or the reason why it is not admitted.

use std::fmt;

use crate::{
    auth::{Credentials, Identities, Later},
    proto::Refusal,
};

/// The reason for which a request is not admitted.
pub(crate) enum Denied {
    Refused(Refusal),
    /// An authenticator has panicked, which has been logged.
    Panicked,
    /// The judge can decide when this work is done. Only a request whose credentials have answers gets this reason.
    Later(Later),
    /// The judge had to wait for too long.
    Undecided,
    /// The client has left while the judge had to wait.
    Left,
}

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
            Denied::Panicked => f.write_str("Panicked"),
            Denied::Later(_) => f.write_str("Later"),
            Denied::Undecided => f.write_str("Undecided"),
            Denied::Left => f.write_str("Left"),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        match denied {
            Denied::Refused(refusal) => refusal,
            Denied::Panicked => Refusal::new(500, "an authenticator of this server has failed"),
            Denied::Later(_) | Denied::Undecided | Denied::Left => Refusal::undecided(),
        }
    }
}

/// The sender of an admitted request.
#[derive(Debug, Default)]
pub(crate) struct Admittance {
    /// The identities that the gates have found: the endpoint's own gate, and those of other routes to the topic.
    pub(crate) identities: Identities,
    /// Whether the decision holds until the rules or the sender's token change: no source of permissions was asked.
    pub(super) is_lasting: bool,
}

/// The sender of a request that its own route has admitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdmittedSender<'a> {
    pub(crate) credentials: Credentials<'a>,
    /// The identities that the sender has so far.
    pub(crate) identities: &'a Identities,
    /// The number of the route.
    pub(crate) route: usize,
}
