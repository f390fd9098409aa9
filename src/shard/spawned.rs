//! Asynchronous work of handlers, between the turns.

use std::collections::HashMap;

use tokio::task::{AbortHandle, JoinError};

use crate::{
    handler::{Panicked, Tasks},
    hub::ConnectionId,
};

/// The running work of handlers, by connection. Work ends with its connection.
pub(super) struct Spawned {
    tasks: Tasks,
    running: HashMap<ConnectionId, Vec<AbortHandle>>,
}

impl Spawned {
    pub(super) fn new(tasks: Tasks) -> Self {
        Spawned { tasks, running: HashMap::new() }
    }

    /// Starts the work that handlers have spawned.
    pub(super) fn start(&mut self) {
        while let Some((id, future)) = self.tasks.next_spawned() {
            let work = tokio::task::spawn_local(future);
            let running = self.running.entry(id).or_default();
            running.retain(|handle| !handle.is_finished());
            running.push(work.abort_handle());
            let tasks = self.tasks.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = work.await {
                    fail(id, &tasks, error);
                }
            });
        }
    }

    /// Ends the work of connections that have ended.
    pub(super) fn end(&mut self, ended: Vec<ConnectionId>) {
        for id in ended {
            self.running.remove(&id).into_iter().flatten().for_each(|handle| handle.abort());
        }
    }
}

/// Closes a connection whose work has panicked.
fn fail(id: ConnectionId, tasks: &Tasks, error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        let panicked = Panicked::new(&*panic);
        tasks.call(id, Box::new(move |shard| shard.fail(id, &panicked)));
    }
}
