//! Serves connections that speak HTTP: connections that shards hand over, and connections to the address of the
//! metrics.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tracing::field::display;

use super::{
    http_connection::{EndReason, HttpConnection},
    permits::{ConnectionPermit, ConnectionPermits, Farewells},
    router::RequestRouter,
    service::{ServedEndpoints, Service},
    shared::Shared,
};
use crate::{
    auth::Remote,
    config::Limits,
    handover::{AddressPermit, HandedOff, SocketPermits},
    log_throttle::LogThrottle,
    metrics::{Counter, Counters},
    proto::{HEADERS_MAX, ProxyHeader},
    sys::transport::Transport,
};

/// A port for connections: the endpoints that it serves, and the limits of its connections.
#[derive(Debug)]
pub(super) struct Port {
    served: ServedEndpoints,
    permits: Arc<ConnectionPermits>,
    farewells: Farewells,
    full: LogThrottle,
}

impl Port {
    pub(super) fn new(served: ServedEndpoints, permits_max: usize, farewells_max: usize) -> Port {
        let (permits, farewells) = (ConnectionPermits::new(permits_max), Farewells::new(farewells_max));
        Port { served, permits, farewells, full: LogThrottle::of_limit() }
    }

    /// Sets the most connections with a permit. Connections beyond a smaller number keep their permits.
    pub(super) fn set_permits_max(&self, permits_max: usize) {
        self.permits.set_max(permits_max);
    }

    /// Serves a connection to its end. Returns the connection if it is to become a WebSocket.
    ///
    /// A connection without a permit gets one answer: a refusal, or the metrics.
    async fn serve(
        &self,
        shared: &Arc<Shared>,
        caller: Caller,
        finishing: &watch::Receiver<()>,
    ) -> Option<HttpConnection> {
        let Some(permit) = self.permits.admit(|| shared.counters.add(Counter::HttpDisplaced, 1)) else {
            self.note_full(shared);
            self.answer_one(shared, caller, finishing, &self.farewells).await;
            return None;
        };
        match converse(shared, caller, self.served, Some(permit), finishing.clone()).await? {
            (connection, Some(EndReason::Shard)) => Some(connection),
            (mut connection, reason) => {
                if matches!(reason, Some(EndReason::Quiet) | None) && !connection.deliver().await {
                    shared.counters.add(Counter::HttpTooSlow, 1);
                    return None;
                }
                self.farewells.run(part(shared, connection, reason, finishing)).await;
                None
            }
        }
    }

    /// Answers one request of a connection without a permit: with the metrics, or with a refusal.
    async fn answer_one(
        &self,
        shared: &Arc<Shared>,
        caller: Caller,
        finishing: &watch::Receiver<()>,
        farewells: &Farewells,
    ) {
        let farewell = async {
            if let Some((connection, reason)) = converse(shared, caller, self.served, None, finishing.clone()).await {
                part(shared, connection, reason, finishing).await;
            }
        };
        farewells.run(farewell).await;
    }

    fn note_full(&self, shared: &Shared) {
        let Some(suppressed) = self.full.allow(Instant::now()) else { return };
        match self.served {
            ServedEndpoints::Operations => {
                tracing::warn!(
                    limit = Limits::METRICS_CONNECTIONS_MAX,
                    suppressed,
                    "the limit of connections to the metrics is reached: further ones are answered once"
                );
            }
            ServedEndpoints::Everything => {
                let limit = shared.config.get().http.connections_max;
                tracing::warn!(
                    limit,
                    suppressed,
                    "there are as many connections as --max-http-connections allows, and none is idle: further ones \
                     are refused"
                );
            }
        }
    }
}

/// A connection that is to be served.
#[derive(Debug)]
struct Caller {
    stream: Transport<Arc<TcpStream>>,
    /// Received bytes that are to be read first.
    received: BytesMut,
    of_address: Option<AddressPermit>,
    /// The header of the PROXY protocol by which a trusted proxy has begun the connection.
    header: Option<ProxyHeader>,
}

/// Serves a connection that a shard has handed over.
pub(super) async fn serve_handed_off(
    shared: Arc<Shared>,
    port: Arc<Port>,
    handed_off: HandedOff,
    finishing: watch::Receiver<()>,
) {
    let HandedOff { socket, received, permits, header, is_refused } = handed_off;
    let SocketPermits { of_all, of_address } = permits;
    let stream = match socket.try_map(|socket| TcpStream::from_std(socket.into()).map(Arc::new)) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection could not be taken over"),
    };
    let open = Open::new(&shared.counters);
    let caller = Caller { stream, received, of_address, header };
    if is_refused {
        return port.answer_one(&shared, caller, &finishing, &shared.monitors).await;
    }
    let returned = port.serve(&shared, caller, &finishing).await;
    drop(open);
    if let Some((socket, received, of_address)) = returned.and_then(|connection| connection.into_parts().ok()) {
        let permits = SocketPermits { of_all, of_address };
        shared.hand_back(HandedOff { socket, received, permits, header, is_refused }).await;
    }
}

/// Accepts and serves connections on the address of the metrics.
pub(super) async fn serve_metrics(shared: Arc<Shared>, listener: TcpListener, mut finishing: watch::Receiver<()>) {
    let port = Arc::new(Port::new(
        ServedEndpoints::Operations,
        Limits::METRICS_CONNECTIONS_MAX,
        Limits::METRICS_FAREWELLS_MAX,
    ));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting for the metrics pauses");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = ended(&mut finishing) => return,
        };
        let (shared, port, finishing) = (Arc::clone(&shared), Arc::clone(&port), finishing.clone());
        let caller =
            Caller { stream: Arc::new(stream).into(), received: BytesMut::new(), of_address: None, header: None };
        connections.spawn(async move { drop(port.serve(&shared, caller, &finishing).await) });
    }
}

/// Lets hyper serve a connection. Returns the connection and the reason of hyper's end; `None` if no more bytes can be
/// sent.
async fn converse(
    shared: &Arc<Shared>,
    Caller { stream, received, of_address, header }: Caller,
    served: ServedEndpoints,
    permit: Option<ConnectionPermit>,
    mut finishing: watch::Receiver<()>,
) -> Option<(HttpConnection, Option<EndReason>)> {
    let has_permit = permit.is_some();
    let may_upgrade = has_permit && served == ServedEndpoints::Everything;
    let of_connection = Remote::of_socket(stream.socket().peer_addr().ok(), header);
    let socket = Arc::downgrade(stream.socket());
    let router = Arc::new(RequestRouter::new(Arc::clone(shared), may_upgrade, of_connection, socket));
    let connection =
        HttpConnection::new(stream, received, Arc::clone(&router), &shared.config.get().http, permit, of_address);
    let service = Service { shared: Arc::clone(shared), router, served, has_permit };
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        // A client may end its side after its request, and still waits for the answer.
        .half_close(true)
        // `HttpConnection` has the timeouts of heads.
        .header_read_timeout(None)
        .keep_alive(has_permit)
        // Answers have one already.
        .auto_date_header(false)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut serving = builder.serve_connection(connection, service);
    let outcome = loop {
        let seen = finishing.clone();
        tokio::select! {
            biased;
            outcome = &mut serving => break outcome,
            // After a change the server leaves, and the connection checks again whether it may go on.
            changed = seldom(finishing.changed(), || matches!(seen.has_changed(), Ok(false))) => if changed.is_err() {
                Pin::new(&mut serving).graceful_shutdown();
                break (&mut serving).await;
            },
        }
    };
    let connection = serving.into_parts().io;
    if let Err(error) = outcome {
        // The rest of the output is dropped with the socket.
        if connection.was_too_slow() {
            shared.counters.add(Counter::HttpTooSlow, 1);
        }
        let (peer, proxy) = (of_connection.client.map(display), of_connection.proxy.map(display));
        tracing::debug!(peer, proxy, %error, "an HTTP connection has ended");
        return None;
    }
    let reason = connection.end_reason();
    Some((connection, reason))
}

/// Polls a future only once for each waker for as long as `is_pending` holds: the caller waits for another future too,
/// which is ready far more often. `is_pending` must not hold any more once the future is ready.
async fn seldom<F: Future>(future: F, is_pending: impl Fn() -> bool) -> F::Output {
    let mut future = pin!(future);
    let mut waker: Option<Waker> = None;
    poll_fn(|cx| {
        if waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) && is_pending() {
            return Poll::Pending;
        }
        waker = Some(cx.waker().clone());
        future.as_mut().poll(cx)
    })
    .await
}

/// Ends a connection so that its peer can read the last answer. The wait ends when the shards end: an answer that was
/// sent earlier has had enough time by then.
async fn part(shared: &Shared, connection: HttpConnection, reason: Option<EndReason>, finishing: &watch::Receiver<()>) {
    tokio::select! {
        () = take_leave(shared, connection, reason) => {}
        () = end_of_shards(finishing.clone()) => {}
    }
}

async fn take_leave(shared: &Shared, connection: HttpConnection, reason: Option<EndReason>) {
    match reason {
        Some(EndReason::Malformed(error)) => {
            let refusal = error.refusal();
            tracing::debug!(status = refusal.status, %error, "refused");
            shared.counters.add(Counter::HttpRequests, 1);
            shared.note_cause(shared.cause(&refusal), refusal.status);
            connection.refuse(&refusal).await;
        }
        Some(EndReason::Timeout) => shared.counters.add(Counter::HandshakeTimeout, 1),
        Some(EndReason::Quiet | EndReason::Shard) | None => connection.finish().await,
    }
}

/// Waits for the end of the shards, or forever if they have ended already: then the control thread's own end bounds the
/// wait ([`FINISH`](super::FINISH)).
///
/// No end is missed. The sender is a local variable of the control thread, which drops it when every shard has dropped
/// its `ControlHandoff`. A shard has its `ControlHandoff` only on its own thread, on the stack or in values that a
/// panic drops. The control thread has the sender in the same way.
async fn end_of_shards(mut finishing: watch::Receiver<()>) {
    if finishing.has_changed().is_err() {
        std::future::pending::<()>().await;
    }
    ended(&mut finishing).await;
}

/// Waits until all shards have ended. A change before that end only tells that the server leaves.
async fn ended(finishing: &mut watch::Receiver<()>) {
    while finishing.changed().await.is_ok() {}
}

/// Counts an open connection until this value is dropped.
struct Open<'a>(&'a Counters);

impl<'a> Open<'a> {
    fn new(counters: &'a Counters) -> Self {
        counters.add(Counter::HttpConnections, 1);
        counters.set(Counter::HttpConnectionsOpen, counters.get(Counter::HttpConnectionsOpen) + 1);
        Open(counters)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set(Counter::HttpConnectionsOpen, self.0.get(Counter::HttpConnectionsOpen) - 1);
    }
}

/// The most bytes of an incomplete head, or of a body, that hyper keeps.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;

/// The pause of accepting when descriptors are used up.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        task::{Context, Wake},
    };

    use super::*;

    /// Another waker, or a reason to be ready, lets the future be polled again.
    #[test]
    fn a_future_that_is_pending_is_polled_once_for_each_waker() {
        let (polls, is_pending) = (Cell::new(0), Cell::new(true));
        let counted = poll_fn(|_| {
            polls.set(polls.get() + 1);
            if is_pending.get() { Poll::Pending } else { Poll::Ready("ready") }
        });
        let mut seldom = pin!(seldom(counted, || is_pending.get()));
        let wakers: [Waker; 2] = std::array::from_fn(|_| Arc::new(Woken).into());
        for (waker, expected) in [(0, 1), (0, 1), (1, 2), (1, 2), (0, 3)] {
            let mut cx = Context::from_waker(&wakers[waker]);
            assert_eq!((seldom.as_mut().poll(&mut cx), polls.get()), (Poll::Pending, expected));
        }
        is_pending.set(false);
        assert_eq!(seldom.poll(&mut Context::from_waker(&wakers[0])), Poll::Ready("ready"));
    }

    struct Woken;

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {}
    }

    /// The end is noticed, however the thread that has the sender ends.
    #[test]
    fn the_end_of_the_shards_is_noticed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for panics in [false, true] {
                let (finish, finishing) = watch::channel(());
                let waiting = tokio::spawn(end_of_shards(finishing.clone()));
                tokio::task::yield_now().await;
                assert!(!waiting.is_finished());
                // The server leaves, and its shards go on.
                finish.send_replace(());
                tokio::task::yield_now().await;
                assert!(!waiting.is_finished());
                let thread = std::thread::spawn(move || {
                    let _finish = finish;
                    assert!(!panics, "as intended");
                });
                assert_eq!(thread.join().is_err(), panics);
                tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it is noticed").unwrap();
                // The wait for an answer that is sent later is not bounded here.
                let later = tokio::spawn(end_of_shards(finishing));
                tokio::task::yield_now().await;
                assert!(!later.is_finished());
            }
        });
    }
}
