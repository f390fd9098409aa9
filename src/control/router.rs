//! Routes each request on a connection that speaks HTTP to the side that answers it: hyper, or a shard.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::net::TcpStream;

use super::shared::Shared;
use crate::{
    auth::{Answers, Credentials, Remote},
    endpoints::{Denied, Endpoint, Endpoints, OpeningAt, Opens},
    proto::{Framing, Refusal, RequestHead, Upgrade},
    sys::net::is_reset,
};

/// Judges the heads of one connection, and hands each request from its connection to its service.
#[derive(Debug)]
pub(super) struct RequestRouter {
    shared: Arc<Shared>,
    /// Whether the connection may go to a shard, to become a WebSocket or an event stream.
    may_upgrade: bool,
    /// The other side of the connection. A trusted proxy names another client with each request.
    of_connection: Remote,
    routed: Mutex<Option<Box<RoutedRequest>>>,
    /// The socket of the connection, whose owner is the connection.
    socket: Weak<TcpStream>,
}

/// A request that the service is to answer.
#[derive(Debug)]
pub(super) struct RoutedRequest {
    pub(super) head: Arc<RequestHead>,
    /// The table that holds for the request, to its end.
    pub(super) endpoints: Arc<Endpoints>,
    /// The endpoint of its path, or the refusal of its path.
    pub(super) endpoint: Result<Endpoint, Refusal>,
    /// The refusal of the WebSocket, or of the event stream, that the request asks for.
    pub(super) refusal: Option<Refusal>,
    pub(super) remote: Remote,
    /// The client's address, if a header line of the request has named it.
    pub(super) named: Option<SocketAddr>,
}

/// The side that answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// The service answers, and begins with [`RequestRouter::take`].
    Http,
    /// A shard answers: only a shard may answer that a client subscribes.
    Shard,
}

impl RequestRouter {
    pub(super) fn new(
        shared: Arc<Shared>,
        may_upgrade: bool,
        of_connection: Remote,
        socket: Weak<TcpStream>,
    ) -> RequestRouter {
        RequestRouter { shared, may_upgrade, of_connection, routed: Mutex::default(), socket }
    }

    /// Waits until the client has reset the connection. While a request is answered nothing reads from the connection,
    /// and a client that has only ended its side still waits for the answer.
    pub(super) async fn until_reset(&self) {
        loop {
            tokio::time::sleep(LOOK_AFTER_CLIENT).await;
            // The look holds the socket only for a moment, on the thread of the connection.
            if self.socket.upgrade().is_none_or(|socket| is_reset(&*socket)) {
                return;
            }
        }
    }

    /// Routes the next request. The request is judged as on a shard, except for the answer of a handler, which only a
    /// shard can call. Openings whose intent depends on the head are judged here, so that a refused client
    /// keeps its connection, unless the judge has to wait. They count against the rate of openings as on a shard.
    pub(super) fn route(&self, head: Arc<RequestHead>) -> Destination {
        let endpoints = self.shared.endpoints.get();
        let endpoint = endpoints.resolve(&head);
        let remote = self.shared.config.get().trusted_proxies.remote(self.of_connection, &head);
        let mut refusal = None;
        if self.may_upgrade && endpoints.opens(&head) {
            match self.open(&endpoints, &head, remote, &endpoint) {
                Ok(()) => return Destination::Shard,
                Err(refused) => refusal = Some(refused),
            }
        }
        let named = remote.client.filter(|_| remote != self.of_connection);
        *self.lock() = Some(Box::new(RoutedRequest { head, endpoints, endpoint, refusal, remote, named }));
        Destination::Http
    }

    fn open(
        &self,
        endpoints: &Endpoints,
        head: &RequestHead,
        remote: Remote,
        endpoint: &Result<Endpoint, Refusal>,
    ) -> Result<(), Refusal> {
        let endpoint = endpoint.as_ref().map_err(Clone::clone)?;
        let opening = endpoints.opening(endpoint, head);
        let OpeningAt { openings, .. } = opening.ok_or_else(|| endpoints.no_websocket_at(head.path()))?;
        match openings.opens {
            Opens::WebSocket => drop(Upgrade::from_request(head).map_err(|error| error.refusal())?),
            Opens::EventStream => drop(Framing::of_answer_to(head)?),
        }
        if self.shared.is_leaving() {
            return Err(Refusal::leaving());
        }
        if let Some(read_intent) = openings.intent {
            let answers = Answers::default();
            let credentials = Credentials::new(head, remote.client).with_answers(&answers);
            let intent = read_intent(head)?;
            self.shared.check_handshake(&credentials)?;
            match endpoints.authorize(&credentials, intent, endpoint) {
                // The shard judges the request again, and can wait.
                Ok(_) | Err(Denied::Later(_)) => {}
                Err(denied) => {
                    self.shared.count_refused_handshake(&credentials);
                    return Err(self.shared.refusal_of(denied));
                }
            }
        }
        Ok(())
    }

    /// Takes the request that is to be answered.
    pub(super) fn take(&self) -> Option<Box<RoutedRequest>> {
        self.lock().take()
    }

    /// Returns whether the server leaves.
    pub(super) fn is_leaving(&self) -> bool {
        self.shared.is_leaving()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Box<RoutedRequest>>> {
        // Only one task locks it.
        self.routed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The interval of looks at whether a client still waits for the answer of a service.
const LOOK_AFTER_CLIENT: Duration = Duration::from_secs(1);
