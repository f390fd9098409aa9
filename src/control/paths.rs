//! Answers requests at the paths of routes: the checks in front of every endpoint, and then the endpoint.

use std::{
    future::{Future, ready},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hyper::body::Incoming;

use super::{
    answers::{Answer, of_surface, preflight},
    bodies::NoRoom,
    body::{self, BodyMax},
    publisher::NotPublished,
    router::RoutedRequest,
    shared::Shared,
};
use crate::{
    auth::{Credentials, Identities, Identity},
    endpoints::{
        AdmittedSender, BodyLimit, Commands, Denied, Endpoint, Endpoints, Forgetting, HttpEndpoint, HttpRequest,
        Intent, PublishGrant, Publishing, PublishingAll, Reading, ReadingPresence,
    },
    handler::{BodyRoom, Parameters},
    hub::{HistoryQuery, Publication, PublishError, TopicName, home},
    proto::{HandshakeError, Refusal, RefusalCause, RequestHead},
};

/// The answer to the head of a request at a path.
pub(super) enum AtPath {
    /// A browser's question before the request (preflight) is answered.
    Answered(Answer),
    /// An endpoint is to be called.
    Call(Admitted),
}

/// An endpoint of a path, and the outcome of the judge for the request.
pub(super) struct Admitted {
    /// The number of the path.
    number: usize,
    row: &'static HttpEndpoint,
    intent: Intent,
    identities: Identities,
}

/// Begins to answer a request at a path that does not become a WebSocket.
///
/// # Errors
///
/// The refusal of the path itself, 404 where no path of a route is, 503 while the server leaves, the refusal of a query
/// or of the judge, 429 beyond a rate of messages, 426 for a request that could have asked for a WebSocket, and 405 for
/// a method that the path does not have.
pub(super) async fn begin(shared: &Shared, routed: &RoutedRequest) -> Result<AtPath, Refusal> {
    let RoutedRequest { head, endpoints, endpoint, remote, .. } = routed;
    let (endpoint, sender) = (endpoint.as_ref().map_err(Clone::clone)?, &Credentials::new(head, remote.client));
    let &Endpoint::Path { path: number, .. } = endpoint else { return Err(endpoints.nothing_at(head.path())) };
    let path = &endpoints.served_paths()[number];
    if let Some(row) = path.endpoint(head.method()) {
        if shared.is_leaving() {
            return Err(Refusal::leaving());
        }
        let intent = (row.intent)(head)?;
        let identities = shared.authorize(endpoints, sender, intent, endpoint).await?;
        if intent == Intent::Publish && endpoint.topic().is_some() {
            shared.count_publish(sender, identities.all())?;
        }
        return Ok(AtPath::Call(Admitted { number, row, intent, identities }));
    }
    // A page may also ask why no WebSocket opens, see below.
    let asks = path.openings.filter(|openings| openings.intent.is_some()).map_or(&[][..], |openings| openings.methods);
    if head.method() == "OPTIONS" && !(path.endpoints.is_empty() && asks.is_empty()) {
        let rows = path.endpoints;
        let mut methods: Vec<&str> = rows.iter().flat_map(|row| row.methods).copied().collect();
        if methods.is_empty() {
            methods.extend(asks);
        }
        let mut page_headers: Vec<&str> = rows.iter().flat_map(|row| row.page_headers).copied().collect();
        page_headers.sort_unstable();
        page_headers.dedup();
        return Ok(AtPath::Answered(preflight(&methods.join(", "), &page_headers)));
    }
    if !path.opens_by(head.method()) {
        return Err(Refusal::not_allowed(&path.allowed()));
    }
    if let Some(read_intent) = path.openings.and_then(|openings| openings.intent) {
        // A browser hides the response to a failed opening handshake from its page, so the page can ask by this
        // request.
        shared.authorize(endpoints, sender, read_intent(head)?, endpoint).await?;
    }
    Err(HandshakeError::Upgrade.refusal())
}

impl Admitted {
    /// Returns the identity that the authenticator of the route has found.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identities.own()
    }
}

/// A call of an endpoint, whose body is still to be read.
pub(super) struct EndpointCall {
    row: &'static HttpEndpoint,
    /// The limit of the body; `None` if the endpoint wants none.
    body_max: Option<BodyMax>,
    request: Box<HttpRequest>,
}

impl EndpointCall {
    /// Returns the call of an endpoint for an admitted request.
    ///
    /// # Errors
    ///
    /// The refusal of the path.
    pub(super) fn new(
        shared: &Arc<Shared>,
        routed: RoutedRequest,
        admitted: Admitted,
    ) -> Result<EndpointCall, Refusal> {
        let RoutedRequest { head, endpoints, endpoint, remote, .. } = routed;
        let (Admitted { number, row, intent, identities }, endpoint) = (admitted, endpoint?);
        let body_max = match row.body {
            BodyLimit::Nothing => None,
            BodyLimit::Message => {
                Some(BodyMax { bytes: endpoints.message_bytes_max(&endpoint), what: "the largest message" })
            }
            BodyLimit::Bytes(bytes) => Some(BodyMax { bytes, what: "the largest body that this path takes" }),
        };
        let granted = endpoints.granted(intent, &endpoint);
        let path = &endpoints.served_paths()[number];
        let (values, route) = (Arc::clone(&path.values), path.route);
        let identity = identities.own().cloned();
        let commands = Box::new(RequestCommands { shared: Arc::clone(shared), endpoints, identities });
        let request = Box::new(HttpRequest {
            head,
            topic: endpoint.into_topic(),
            granted,
            identity,
            peer: remote.client,
            body: Bytes::new(),
            values,
            path: number,
            route,
            commands,
        });
        Ok(EndpointCall { row, body_max, request })
    }

    /// Reads the body, and calls the endpoint.
    pub(super) fn answer(
        self,
        shared: &Shared,
        body: Incoming,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send {
        let EndpointCall { row, body_max, mut request } = self;
        async move {
            // The room is kept until the endpoint has answered. From then on the mesh and the shards count the memory
            // of a message.
            let mut room = None;
            if let Some(body_max) = body_max {
                let (whole, taken) = body::read(shared, body_max, body).await?;
                // The judge has seen the head alone, and the client may have taken its time since.
                request.commands.check_again()?;
                request.body = whole;
                room = Some(taken);
            }
            let answer = (row.answer)(request).await;
            drop(room);
            answer.map(|response| of_surface(shared, response))
        }
    }
}

/// The commands of an endpoint, which use the [`Endpoints`] of its request.
struct RequestCommands {
    shared: Arc<Shared>,
    endpoints: Arc<Endpoints>,
    /// The identities of the sender of the request.
    identities: Identities,
}

impl Commands for RequestCommands {
    fn parameters(&self, path: usize, head: &RequestHead) -> Parameters {
        self.endpoints.parameters(path, head)
    }

    fn topic(&self, route: usize, name: &str) -> Result<TopicName, Refusal> {
        self.endpoints.topic(route, name)
    }

    fn judge(
        &self,
        sender: &Credentials<'_>,
        route: usize,
        topic: &TopicName,
    ) -> Result<(PublishGrant, Identities), Denied> {
        let admitted = AdmittedSender { credentials: *sender, identities: &self.identities, route };
        self.endpoints.authorize_publish(&admitted, topic)
    }

    fn count(&self, sender: &Credentials<'_>, others: &Identities) -> Result<(), Refusal> {
        self.shared.count_publish(sender, self.identities.all().chain(others.all()))
    }

    fn refusal(&self, denied: Denied) -> Refusal {
        self.shared.refusal_of(denied)
    }

    fn check_again(&self) -> Result<(), Refusal> {
        self.identities.check_again(self.endpoints.revocations())
    }

    fn wait_max(&self) -> Duration {
        self.endpoints.wait_max()
    }

    fn publish(&self, grant: PublishGrant, message: Publication) -> Publishing {
        let message = match grant.check(message) {
            Ok(message) => message,
            Err(refusal) => return Box::pin(ready(Err(refusal))),
        };
        let publishing = self.shared.publisher.publish_body(grant.into_topic(), message);
        Box::pin(async move { publishing.await.map_err(refused) })
    }

    fn read_history(&self, topic: TopicName, query: HistoryQuery) -> Reading {
        let (shared, wait_max) = (Arc::clone(&self.shared), self.endpoints.wait_max());
        Box::pin(async move {
            let home = home(&topic, shared.shards.len() as u16);
            let read = shared.publisher.read_history(topic.clone(), query);
            shared.history_reads.wait(home, &topic, wait_max, read).await?.ok_or_else(Refusal::leaving)
        })
    }

    fn wall_start_ms(&self) -> u64 {
        self.shared.wall_start.of(&self.shared.clock)
    }

    fn read_presence(&self, topic: TopicName, has_members: bool) -> ReadingPresence {
        let (shared, wait_max) = (Arc::clone(&self.shared), self.endpoints.wait_max());
        Box::pin(async move {
            let home = home(&topic, shared.shards.len() as u16);
            let read = shared.publisher.read_presence(topic.clone(), has_members);
            shared.history_reads.wait(home, &topic, wait_max, read).await?.ok_or_else(Refusal::leaving)
        })
    }

    fn hold(&self, page: Bytes) -> Result<Bytes, Refusal> {
        self.shared.history_reads.hold(page)
    }

    fn take_room(&self, bytes: usize) -> Result<Box<dyn BodyRoom>, Refusal> {
        let no_room = |NoRoom| Refusal::not_now("as many batches of messages are under way as this server allows");
        Ok(Box::new(self.shared.bodies.take_for_batch(bytes).map_err(no_room)?))
    }

    fn forget_history(&self, topic: TopicName) -> Forgetting {
        let publisher = self.shared.publisher.clone();
        Box::pin(async move { publisher.forget_history(topic).await.ok_or_else(Refusal::leaving) })
    }

    fn publish_all(&self, messages: Vec<(PublishGrant, Publication)>) -> PublishingAll {
        let publisher = self.shared.publisher.clone();
        Box::pin(async move {
            let checked = messages.into_iter().map(|(grant, message)| {
                let message = grant.check(message)?;
                Ok((grant.into_topic(), message))
            });
            let (mut answers, mut accepted): (Vec<Option<Refusal>>, Vec<_>) = (Vec::new(), Vec::new());
            for checked in checked {
                match checked {
                    Ok(message) => {
                        accepted.push(message);
                        answers.push(None);
                    }
                    Err(refusal) => answers.push(Some(refusal)),
                }
            }
            let mut published = publisher.publish_bodies(accepted).await.into_iter();
            let answers = answers.into_iter().map(|refused_before| match refused_before {
                Some(refusal) => Err(refusal),
                None => published.next().unwrap_or(Err(NotPublished::Leaving)).map_err(refused),
            });
            answers.collect()
        })
    }
}

/// Returns the refusal of a message whose id does not let it be published.
fn refused_for_id(error: PublishError) -> Refusal {
    match error {
        PublishError::OtherContents => Refusal::new(422, error.to_string()),
        PublishError::IdsFull { free_in_ms } => {
            let what = format!("{error} (max_idempotency); the message was not published");
            let seconds = free_in_ms.div_ceil(1_000).to_string();
            Refusal::new(503, what).header("Retry-After", &seconds).because(RefusalCause::Limit)
        }
    }
}

/// Returns the refusal of a message that was not published.
fn refused(reason: NotPublished) -> Refusal {
    match reason {
        NotPublished::Leaving => Refusal::leaving(),
        NotPublished::HomeIsBehind => Refusal::not_now(
            "the shard of this topic is behind, and as many requests wait for it as this server allows",
        ),
        NotPublished::Refused(error) => refused_for_id(error),
    }
}
