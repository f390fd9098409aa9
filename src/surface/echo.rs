//! Every message goes back to who has sent it: the server's handler `echo`.

use crate::{
    handler::{Connection, Handler},
    proto::Message,
};

/// Sends each message back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

impl Handler for Echo {
    type State = ();

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        if let crate::handler::Sent::Refused(refused) = connection.send_prepared(&message.prepare()) {
            tracing::debug!(connection = %connection.id(), %refused, "a message is not echoed");
        }
    }
}
