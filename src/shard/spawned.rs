//! Asynchronous work of handlers, beside the turns.

use std::{collections::HashMap, sync::Arc};

use tokio::task::{AbortHandle, JoinError};

use crate::{
    handler::{Door, Tasks},
    hub::ConnectionId,
    metrics::{Counter, Counters},
    proto::CloseCode,
};

/// What runs for which connection. It ends with its connection.
pub(super) struct Spawned {
    tasks: Tasks,
    counters: Arc<Counters>,
    running: HashMap<ConnectionId, Vec<AbortHandle>>,
}

impl Spawned {
    pub(super) fn new(tasks: Tasks, counters: Arc<Counters>) -> Self {
        Spawned { tasks, counters, running: HashMap::new() }
    }

    /// Starts what handlers have asked for.
    pub(super) fn start(&mut self) {
        while let Some((id, future)) = self.tasks.next_spawned() {
            let work = tokio::task::spawn_local(future);
            let running = self.running.entry(id).or_default();
            running.retain(|handle| !handle.is_finished());
            running.push(work.abort_handle());
            let (tasks, counters) = (self.tasks.clone(), Arc::clone(&self.counters));
            tokio::task::spawn_local(async move {
                if let Err(error) = work.await {
                    fail(id, &tasks, &counters, error);
                }
            });
        }
    }

    /// Ends what runs for connections that have ended.
    pub(super) fn end(&mut self, ended: Vec<ConnectionId>) {
        for id in ended {
            self.running.remove(&id).into_iter().flatten().for_each(|handle| handle.abort());
        }
    }
}

/// A panic closes the connection that it was for.
fn fail(id: ConnectionId, tasks: &Tasks, counters: &Counters, error: JoinError) {
    if error.is_panic() {
        tracing::error!(connection = %id, %error, "work of a handler has panicked; its connection is closed");
        counters.add(Counter::HandlerPanics, 1);
        let close = move |door: &mut dyn Door| door.close(id, CloseCode::INTERNAL_ERROR, "a handler has failed");
        tasks.call(Box::new(close));
    }
}
