//! The handler of the simulated clients, for messages that are not forwarded to a topic.

use crate::{
    handler::{Connection, Handler, Refused, Sent},
    proto::{CloseCode, Message},
};

/// Answers `?1` with `!1`, closes after `close`, and closes with 1008 after any other message.
pub(super) struct Answering;

impl Handler for Answering {
    type State = ();

    fn on_message(&self, connection: &mut Connection<'_, ()>, message: Message<'_>) {
        let text = std::str::from_utf8(message.payload()).expect("clients ask in text");
        let outcome = match text.strip_prefix('?') {
            Some(number) => match connection.send_text(format!("!{number}")) {
                Sent::Refused(Refused::Full) => connection.close(CLOSED_AS_FULL, "no room for an answer"),
                _ => Ok(()),
            },
            None if text == "close" => connection.close(CLOSED_AS_ASKED, "as asked"),
            None => connection.close(CloseCode::POLICY_VIOLATION, "this connection only receives"),
        };
        outcome.expect("a closing connection has no more events");
    }
}

pub(super) const CLOSED_AS_ASKED: CloseCode = CloseCode(4_000);
pub(super) const CLOSED_AS_FULL: CloseCode = CloseCode(4_001);
