//! The server's handler `echo`: each message goes back to its sender.

use std::sync::Arc;

use super::surface::{PathRow, Surface, TopicUse, any_values};
use crate::{
    endpoints::Openings,
    handler::{Connection, Handler, Typed},
    proto::Message,
};

/// The surface of echoes.
pub(crate) const ECHO: Surface = Surface {
    name: "echo",
    effect: "returns every message to its sender, and stops reading from a client that does not read",
    topics: TopicUse::Nothing,
    keys: &[],
    check: any_values,
    forgets_request: false,
    skips_broadcasts: false,
    paths: &[PathRow { below: "", openings: Some(Openings::OF_ANY_HANDLER), endpoints: &[] }],
    protocol: None,
    beside: &[],
    handler: |_| Arc::new(Typed(Arc::new(Echo))),
    encodings: &[],
};

/// Sends each message back to its sender.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Handler for Echo {
    type State = ();

    const PUBLISHES: bool = false;

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        if let crate::handler::Sent::Refused(refused) = connection.send_prepared(&message.prepare()) {
            tracing::debug!(connection = %connection.id(), %refused, "a message is not echoed");
        }
    }
}
