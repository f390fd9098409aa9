//! The sequence of connections that one `connect` begins: open, run, reconnect, until a close is final.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    connection,
    error::ConnectError,
    event::{Cause, ClientEvent, ConnectionEnd},
    lifecycle::Lifecycle,
    open::{self, Connected, random},
    reconnect::{Reconnect, is_final, is_refusal_final, retry_after, retry_hint},
    send_queue::{Queued, SendQueue},
    shared::Shared,
    stats::Operation,
};
use crate::proto::CloseCode;

/// Marks the lifecycle as ended when this guard is dropped: after the last event, and also when the caller cancels
/// `connect`, when a callback panics and when the runtime stops.
pub(super) struct LifetimeGuard(Arc<Lifecycle>);

impl LifetimeGuard {
    pub(super) fn new(lifecycle: Arc<Lifecycle>) -> Self {
        Self(lifecycle)
    }
}

impl Drop for LifetimeGuard {
    fn drop(&mut self) {
        self.0.set_ended();
    }
}

/// Opens a connection, unless a close request comes first.
pub(super) async fn open(shared: &Arc<Shared>, lifecycle: &Lifecycle) -> Result<Connected, ConnectError> {
    let begin = Instant::now();
    let connected = tokio::select! {
        biased;
        () = lifecycle.close_requested() => Err(ConnectError::Cancelled),
        connected = open::open(&shared.config) => connected,
    };
    shared.measure(Operation::Connect, begin);
    match &connected {
        Ok(Connected { opened, .. }) => {
            shared.counters.connections.add(1);
            tracing::debug!(id = opened.connection_id, url = opened.url, "connected");
        }
        Err(error) => {
            shared.counters.failures.add(1);
            tracing::debug!(url = %shared.config.url, %error, "not connected");
        }
    }
    connected
}

/// Gives handles a send queue for the connection. From here on the client is open.
pub(super) fn establish(shared: &Arc<Shared>, lifecycle: &Lifecycle, connected: Connected) -> Established {
    let (queue, receiver) = SendQueue::new(connected.opened.connection_id, &shared.config.limits);
    lifecycle.set_open(Arc::new(queue));
    Established { connected, receiver }
}

/// An open connection, and the receiving end of its send queue.
pub(super) struct Established {
    connected: Connected,
    receiver: mpsc::Receiver<Queued>,
}

/// Runs a connection and the connections that follow it, and delivers [`ClientEvent::Closed`] at the end.
pub(super) async fn run(shared: Arc<Shared>, guard: LifetimeGuard, established: Established) {
    let closed = run_all(&shared, &guard.0, established).await;
    tracing::debug!(url = %shared.config.url, %closed, "closed");
    // A caller of `Client::closed` finds the event in the queue, but does not wait until a full queue has room for it.
    if let Err(event) = shared.try_deliver(ClientEvent::Closed(closed)) {
        drop(guard);
        shared.deliver_at_length(*event).await;
    }
}

async fn run_all(shared: &Arc<Shared>, lifecycle: &Lifecycle, first: Established) -> ConnectionEnd {
    let (mut established, mut attempt) = (first, 0);
    loop {
        let begin = Instant::now();
        let closed = connection::run(shared, lifecycle, established.connected, established.receiver).await;
        let Some(reconnect) = &shared.config.reconnect else { return closed };
        if lifecycle.close_request().is_some() || is_final(&closed) {
            return closed;
        }
        if begin.elapsed() >= reconnect.stable_after {
            attempt = 0;
        }
        tracing::debug!(url = %shared.config.url, %closed, "lost");
        lifecycle.set_reconnecting();
        let hint = retry_hint(&closed);
        shared.deliver(lifecycle, ClientEvent::Lost(closed)).await;
        established = match reopen(shared, lifecycle, reconnect, &mut attempt, hint).await {
            Ok(connected) => establish(shared, lifecycle, connected),
            Err(cause) => {
                return ConnectionEnd { code: CloseCode::ABNORMAL, reason: String::new(), is_clean: false, cause };
            }
        };
        shared.counters.reconnects.add(1);
        shared.deliver(lifecycle, ClientEvent::Reconnected(Box::new(established.connected.opened.clone()))).await;
    }
}

/// Repeats attempts until one opens a connection, the attempts are used up, or a refusal or a close request is final.
/// `hint` is the delay before the first attempt, if the server has asked for one.
async fn reopen(
    shared: &Arc<Shared>,
    lifecycle: &Lifecycle,
    reconnect: &Reconnect,
    attempt: &mut u32,
    mut hint: Option<Duration>,
) -> Result<Connected, Cause> {
    let mut error = None;
    loop {
        *attempt = attempt.saturating_add(1);
        if !reconnect.may_attempt(*attempt) {
            return Err(Cause::GaveUp(error));
        }
        let delay_min = error.as_ref().and_then(retry_after).unwrap_or_default().min(reconnect.delay_max);
        let delay = match hint.take() {
            Some(hint) => hint.min(reconnect.delay_max),
            None => reconnect.delay(*attempt, u32::from_ne_bytes(random())).max(delay_min),
        };
        shared.deliver(lifecycle, ClientEvent::Reconnecting { attempt: *attempt, delay, error }).await;
        let attempted = tokio::select! {
            biased;
            () = lifecycle.close_requested() => Err(ConnectError::Cancelled),
            attempted = async { sleep(delay).await; open(shared, lifecycle).await } => attempted,
        };
        if let Some(request) = lifecycle.close_request() {
            return Err(request.requester.cause());
        }
        match attempted {
            Ok(connected) => return Ok(connected),
            Err(refusal) if is_refusal_final(&refusal) => return Err(Cause::Refused(refusal)),
            Err(failure) => error = Some(failure),
        }
    }
}
