//! From a connection to the next: what becomes of a life that `connect` began.

use std::sync::Arc;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    connection,
    error::ConnectError,
    event::{Cause, Closed, Event},
    life::Life,
    link::{Link, Outgoing},
    open::{self, Connected, random},
    reconnect::{Reconnect, is_final, is_refusal_final, retry_after},
    shared::Shared,
    stats::Operation,
};
use crate::proto::CloseCode;

/// Keeps a life going. Dropping it ends the life: when all is done, but also when the caller cancels `connect`, when a
/// callback panics and when the runtime stops.
pub(super) struct Tenure(Arc<Life>);

impl Tenure {
    pub(super) fn new(life: Arc<Life>) -> Self {
        Self(life)
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Opens a connection, unless the wish to close comes first.
pub(super) async fn open(shared: &Arc<Shared>, life: &Life) -> Result<Connected, ConnectError> {
    let begin = Instant::now();
    let connected = tokio::select! {
        biased;
        () = life.close_requested() => Err(ConnectError::Cancelled),
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

/// From here on there is something to send to.
pub(super) fn link(shared: &Arc<Shared>, life: &Life, connected: Connected) -> Linked {
    let (link, queue) = Link::new(connected.opened.connection_id, &shared.config.limits);
    life.set_open(Arc::new(link));
    Linked { connected, queue }
}

/// An open connection and what handles want to send there.
pub(super) struct Linked {
    connected: Connected,
    queue: mpsc::Receiver<Outgoing>,
}

/// Lives it to its end.
pub(super) async fn run(shared: Arc<Shared>, tenure: Tenure, linked: Linked) {
    let closed = live(&shared, &tenure.0, linked).await;
    tracing::debug!(url = %shared.config.url, %closed, "closed");
    // Who waits for the end finds the event there, but does not wait for its being taken.
    if let Err(event) = shared.try_deliver(Event::Closed(closed)) {
        drop(tenure);
        shared.deliver_at_length(*event).await;
    }
}

async fn live(shared: &Arc<Shared>, life: &Life, first: Linked) -> Closed {
    let (mut linked, mut attempt) = (first, 0);
    loop {
        let begin = Instant::now();
        let closed = connection::run(shared, life, linked.connected, linked.queue).await;
        let Some(reconnect) = &shared.config.reconnect else { return closed };
        if life.close_request().is_some() || is_final(&closed) {
            return closed;
        }
        if begin.elapsed() >= reconnect.stable_after {
            attempt = 0;
        }
        tracing::debug!(url = %shared.config.url, %closed, "lost");
        life.set_reconnecting();
        shared.deliver(life, Event::Lost(closed)).await;
        linked = match reopen(shared, life, reconnect, &mut attempt).await {
            Ok(connected) => link(shared, life, connected),
            Err(cause) => return Closed { code: CloseCode::ABNORMAL, reason: String::new(), clean: false, cause },
        };
        shared.counters.reconnects.add(1);
        shared.deliver(life, Event::Reconnected(Box::new(linked.connected.opened.clone()))).await;
    }
}

/// Tries until there is a connection again, or a reason not to try any more.
async fn reopen(
    shared: &Arc<Shared>,
    life: &Life,
    reconnect: &Reconnect,
    attempt: &mut u32,
) -> Result<Connected, Cause> {
    let mut error = None;
    loop {
        *attempt = attempt.saturating_add(1);
        if !reconnect.may_attempt(*attempt) {
            return Err(Cause::GaveUp(error));
        }
        let wished = error.as_ref().and_then(retry_after).unwrap_or_default().min(reconnect.delay_max);
        let delay = reconnect.delay(*attempt, u32::from_ne_bytes(random())).max(wished);
        shared.deliver(life, Event::Reconnecting { attempt: *attempt, delay, error }).await;
        let attempted = tokio::select! {
            biased;
            () = life.close_requested() => Err(ConnectError::Cancelled),
            attempted = async { sleep(delay).await; open(shared, life).await } => attempted,
        };
        if let Some(request) = life.close_request() {
            return Err(request.requester.cause());
        }
        match attempted {
            Ok(connected) => return Ok(connected),
            Err(refusal) if is_refusal_final(&refusal) => return Err(Cause::Refused(refusal)),
            Err(failure) => error = Some(failure),
        }
    }
}
