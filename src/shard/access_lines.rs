//! The lines of a shard's connections in the access log.

use std::{collections::HashMap, net::SocketAddr, time::Instant};

use crate::{
    access_log::{Access, AccessLog},
    hub::ConnectionId,
    proto::CloseCode,
};

/// The connections of a shard that have lines in the access log. While the log is off, there is none.
#[derive(Debug)]
pub(super) struct AccessLines {
    log: AccessLog,
    open: HashMap<ConnectionId, OpenConnection>,
}

#[derive(Debug)]
struct OpenConnection {
    since: Instant,
    peer: Option<SocketAddr>,
    /// The code of the client's close frame.
    code: CloseCode,
}

impl AccessLines {
    pub(super) fn new(log: AccessLog) -> Self {
        AccessLines { log, open: HashMap::new() }
    }

    /// Writes the line of a connection's opening, if the connection has lines. `status` is that of the opening answer.
    pub(super) fn note_opened(&mut self, id: ConnectionId, access: Option<Box<Access>>, status: u16) {
        if let Some(access) = access
            && self.log.opened(id, &access, status)
        {
            let open = OpenConnection { since: Instant::now(), peer: access.peer, code: CloseCode::ABNORMAL };
            self.open.insert(id, open);
        }
    }

    /// Notes the code of a client's close frame.
    pub(super) fn note_code(&mut self, id: ConnectionId, code: CloseCode) {
        if !self.open.is_empty()
            && let Some(open) = self.open.get_mut(&id)
        {
            open.code = code;
        }
    }

    /// Writes the line of a connection's end, if the connection has lines.
    pub(super) fn note_ended(&mut self, id: ConnectionId) {
        if !self.open.is_empty()
            && let Some(OpenConnection { since, peer, code }) = self.open.remove(&id)
        {
            self.log.ended(id, peer, since, code.0);
        }
    }
}
