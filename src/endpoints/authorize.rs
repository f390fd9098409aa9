//! Judges whether a request may use an endpoint: one judge for every thread and every surface.

use super::{Endpoint, Endpoints};
use crate::{
    auth::{Credentials, Gate, Identity, Right},
    handler::{Panicked, Pattern, sendable},
    hub::TopicName,
    proto::Refusal,
};

/// The use that a request wants to make of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Open a WebSocket of a handler, or read files, the page, or another endpoint that needs only the gate.
    Use,
    /// Open a WebSocket at a topic, to receive, to publish, or for both.
    Attach { subscribes: bool, publishes: bool },
    /// Publish to a topic.
    Publish,
    /// Read the metrics.
    ReadMetrics,
}

/// The reason for which a request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    Refused(Refusal),
    /// An authenticator has panicked, which has been logged.
    Panicked,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        match denied {
            Denied::Refused(refusal) => refusal,
            Denied::Panicked => Refusal::new(500, "an authenticator of this server has failed"),
        }
    }
}

impl Endpoints {
    /// Judges whether a request may use an endpoint as it intends, and returns the sender that the endpoint's own
    /// authenticator has found.
    ///
    /// The access to a topic depends on the topic, not on the path by which it is reached: besides the gate of the
    /// route of the request, the gates of all routes hold whose topics include it, for every spelling of its name. All
    /// of them must admit the request, and then the server's tokens.
    ///
    /// # Errors
    ///
    /// 403 for a page of another origin or a token for another right, 401 for a missing or wrong token, and the refusal
    /// of an authenticator.
    pub(crate) fn authorize(
        &self,
        credentials: &Credentials<'_>,
        intent: Intent,
        endpoint: &Endpoint,
    ) -> Result<Option<Identity>, Denied> {
        let mut identity = None;
        for (at, (gate, elsewhere)) in self.gates(endpoint).enumerate() {
            let admitted = Panicked::catch(|| gate.admit(&self.access.origins, credentials));
            let admitted = admitted.map_err(|Panicked(panic)| {
                tracing::error!(panic, "an authenticator has panicked over a request");
                Denied::Panicked
            })?;
            match admitted {
                Ok(found) if at == 0 => identity = found,
                Ok(_) => {}
                Err(refusal) => return Err(Denied::Refused(refused_by(elsewhere, sendable(refusal)))),
            }
        }
        let rights: &[Right] = match intent {
            Intent::Use => &[],
            Intent::Attach { subscribes: true, publishes: true } => &[Right::Subscribe, Right::Publish],
            Intent::Attach { subscribes: true, publishes: false } => &[Right::Subscribe],
            Intent::Attach { subscribes: false, .. } | Intent::Publish => &[Right::Publish],
            Intent::ReadMetrics => &[Right::Metrics],
        };
        self.access.check_tokens(credentials, rights).map_err(Denied::Refused)?;
        Ok(identity)
    }

    /// Returns whether pages of an origin may use an endpoint and read its answers; without an endpoint, whether the
    /// server's own origins allow them.
    pub(crate) fn allow_origin(&self, origin: &[u8], endpoint: Option<&Endpoint>) -> bool {
        let allow = |(gate, _): (&Gate, _)| gate.origins.as_ref().unwrap_or(&self.access.origins).allow(origin);
        endpoint.map_or_else(|| self.access.origins.allow(origin), |endpoint| self.gates(endpoint).all(allow))
    }

    /// Returns every gate that holds at an endpoint, its own first, and the others with the patterns of their routes.
    fn gates<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = (&'a Gate, Option<&'a Pattern>)> {
        static OPEN: Gate = Gate { origins: None, authenticator: None };
        let (own, topic): (&Gate, Option<(usize, &TopicName)>) = match endpoint {
            Endpoint::Topic { route, topic, .. } => (&self.routes[*route].rules.gate, Some((*route, topic))),
            Endpoint::WebSocket { route, .. } => (&self.routes[*route].rules.gate, None),
            Endpoint::Files { mount, .. } => (&self.mounts[*mount].gate, None),
            Endpoint::Page { page: Some(page) } => (&self.pages[*page], None),
            Endpoint::Page { page: None }
            | Endpoint::Health
            | Endpoint::Ready
            | Endpoint::Metrics
            | Endpoint::Nothing => (&OPEN, None),
        };
        let others = self
            .routes
            .iter()
            .enumerate()
            .filter(move |(at, route)| topic.is_some_and(|(own, topic)| own != *at && route.leads_to(topic)));
        std::iter::once((own, None)).chain(others.map(|(_, route)| (&route.rules.gate, Some(&route.pattern))))
    }
}

/// Names the route whose rule refuses, if it is not the route of the request.
fn refused_by(elsewhere: Option<&Pattern>, refusal: Refusal) -> Refusal {
    let Some(pattern) = elsewhere else { return refusal };
    let error = format!("{}: by the rules of the route {pattern}, which leads to the same topic", refusal.error);
    Refusal { error, ..refusal }
}
