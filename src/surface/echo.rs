//! The server's handler `echo`: each message goes back to its sender.

use crate::{
    handler::{Connection, Handler},
    proto::Message,
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
