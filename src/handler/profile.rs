//! The optional data of a connection in addition to its state.

use std::{fmt, net::SocketAddr, sync::Arc};

use tracing::Span;

use super::{closed::Closed, permitted::PermittedTopics, request::OpeningRequest, waiting::Waiting};
use crate::{
    auth::{Identities, Identity},
    hub::MemberInfo,
    proto::ProtocolError,
};

/// The optional data of a connection in addition to its state. A connection without such data has no profile.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    /// The opening request, which questions of the judge share.
    pub(crate) request: Option<Arc<OpeningRequest>>,
    /// The identities of the sender of the opening request.
    pub(crate) identities: Identities,
    pub(crate) protocol: Option<String>,
    pub(crate) error: Option<ProtocolError>,
    pub(crate) closed: Option<Closed>,
    /// Frames of a message from the handler that is not finished.
    pub(crate) fragments: Option<Vec<u8>>,
    /// The span in which the handler is called. It is kept only while a `tracing` subscriber is enabled for its level.
    pub(crate) span: Option<Span>,
    /// The client's address, for that span, where the route forgets its requests.
    pub(crate) peer: Option<SocketAddr>,
    /// The token that has been renewed last.
    pub(crate) token: Option<RenewedToken>,
    /// The number of renewals so far, which wraps around.
    pub(crate) renewals: u32,
    /// The topics that the judge has permitted lately.
    pub(crate) permitted: Option<Box<PermittedTopics>>,
    /// The messages of the client that wait for a decision about an earlier one.
    pub(crate) waiting: Option<Box<Waiting>>,
}

/// The token that has been renewed last on a connection. A clone shares the text.
#[derive(Clone)]
pub(crate) struct RenewedToken(Arc<str>);

impl RenewedToken {
    pub(crate) fn new(token: &str) -> Self {
        RenewedToken(token.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Never shows the token.
impl fmt::Debug for RenewedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RenewedToken")
    }
}

/// What a profile says about the opening of its connection.
#[derive(Debug, Default)]
pub(crate) struct About {
    /// The path of the opening request.
    pub(crate) path: Option<Box<str>>,
    /// The subprotocol that was chosen.
    pub(crate) protocol: Option<Box<str>>,
    /// The client's address.
    pub(crate) peer: Option<SocketAddr>,
}

impl Profile {
    /// Returns what the profile says about the opening of its connection.
    pub(super) fn about(&self) -> About {
        About {
            path: self.request.as_ref().map(|request| request.path().into()),
            protocol: self.protocol.as_deref().map(Into::into),
            peer: self.peer(),
        }
    }

    /// Returns the bytes of memory of what the profile keeps of requests, tokens and decisions, roughly. The messages
    /// that wait are not among them.
    pub(crate) fn bytes(&self) -> usize {
        let request = self.request.as_deref().map_or(0, OpeningRequest::bytes);
        let identities = self.identities.bytes();
        let texts = [self.protocol.as_deref(), self.token.as_ref().map(RenewedToken::as_str)];
        let texts: usize = texts.into_iter().flatten().map(str::len).sum();
        let permitted = self.permitted.as_ref().map_or(0, |topics| topics.bytes());
        size_of::<Profile>() + request + identities + texts + permitted
    }

    /// Returns whether the profile has no data, so that it can be dropped.
    pub(super) fn is_empty(&self) -> bool {
        let Profile { request, identities, protocol, error, closed, fragments, span, peer, .. } = self;
        let Profile { token, renewals, permitted, waiting, .. } = self;
        request.is_none()
            && identities.is_empty()
            && protocol.is_none()
            && error.is_none()
            && closed.is_none()
            && fragments.is_none()
            && span.is_none()
            && peer.is_none()
            && token.is_none()
            && *renewals == 0
            && permitted.is_none()
            && waiting.is_none()
    }

    /// Returns the sender of the opening request, if an authenticator has found it.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        let of_request = || self.request.as_deref().and_then(OpeningRequest::identity);
        self.identities.own().or_else(of_request)
    }

    /// Returns the member of topics that the connection counts for: the first of its identities that is not a network,
    /// which many clients share.
    pub(super) fn member(&self) -> Option<MemberInfo> {
        let of_request = self.request.as_deref().and_then(OpeningRequest::identity).into_iter();
        let mut all = self.identities.all().chain(of_request.flat_map(Identity::each));
        let Identity { name, info, .. } = all.find(|identity| !identity.is_network)?;
        Some(MemberInfo::new(name, info.as_ref()))
    }

    /// Returns the client's address.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.request.as_deref().and_then(OpeningRequest::peer).or(self.peer)
    }
}
