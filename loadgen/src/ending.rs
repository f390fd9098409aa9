//! What happens when a connection ends or does not open.

use crate::connection::{Posting, Role, State, opening_answer};
use crate::error::Error;
use crate::generator::{Generator, is_in_share};
use crate::http::Input;
use crate::options::Activity;

impl Generator<'_> {
    /// Takes the end of a connection: a disconnection, or a refusal if the connection is not open yet.
    pub(crate) fn ended(&mut self, index: usize, why: &str) -> Result<(), Error> {
        let connection = &mut self.connections[index];
        if connection.socket.is_none() {
            return Ok(());
        }
        match &mut connection.state {
            State::Opening(answer) => {
                let why = match opening_answer(answer, Input::Ended) {
                    Err(answer) => format!("the server answered {answer}"),
                    Ok(_) => format!("{why}, before the handshake was done"),
                };
                return self.refuse(index, why);
            }
            State::Connecting => return self.refuse(index, why.to_owned()),
            State::Reading(reading) if !reading.is_open() => {
                return self.refuse(index, format!("{why}, before the subscription was done"));
            }
            State::Posting(posting) => {
                let last = posting.take(&[], Input::Ended).err();
                if last.is_none() && posting.may_reopen() {
                    return self.reopen(index);
                }
                self.end(index, last.as_deref().unwrap_or(why));
            }
            State::Reading(_) | State::Dropping { .. } => self.end(index, why),
        }
        Ok(())
    }

    /// Opens a connection anew that publishes by HTTP. What the server has accepted on the old one still counts.
    fn reopen(&mut self, index: usize) -> Result<(), Error> {
        let State::Posting(posting) = &mut self.connections[index].state else { return Ok(()) };
        let accepted = Posting::accepting(std::mem::take(&mut posting.accepted));
        match self.socket(index) {
            Ok(socket) => {
                self.reopening.push((index, accepted));
                self.replace(index, socket)
            }
            Err(error) => {
                self.end(index, &error.to_string());
                Ok(())
            }
        }
    }

    /// Gives up a connection that did not open. Without `refused` this ends the run.
    pub(crate) fn refuse(&mut self, index: usize, why: String) -> Result<(), Error> {
        if self.reopening.iter().any(|(at, _)| *at == index) {
            self.end(index, &why);
            return Ok(());
        }
        let role = self.role(index);
        let (address, name) = (self.endpoint(role).address, self.name_of(role));
        let Some(refused) = &mut self.refused else {
            let hint = hint(&why);
            return Err(Error::Connect(format!("{name} could not connect to {address}: {why}{hint}")));
        };
        self.connections[index].socket = None;
        refused.push((index, why));
        Ok(())
    }

    fn end(&mut self, index: usize, why: &str) {
        if self.connections[index].socket.take().is_some() {
            self.count_ended(index, why);
        }
    }

    /// Counts a connection as ended by the server. A stall counts its own subscribers itself.
    pub(crate) fn count_ended(&mut self, index: usize, why: &str) {
        let role = self.role(index);
        if let (Activity::Stall { share, .. }, Role::Subscriber(number)) = (&self.plan.activity, role)
            && is_in_share(*share, number)
        {
            return;
        }
        self.disconnected += 1;
        let name = self.name_of(role);
        let reasons = &mut self.disconnections[usize::from(matches!(role, Role::Subscriber(_)))];
        if reasons.len() < REASONS_MAX {
            reasons.push(format!("{name}: {why}"));
        }
    }

    fn name_of(&self, role: Role) -> String {
        match role {
            Role::Subscriber(number) if self.echoed.is_some() || self.plan.publishers == 0 => {
                format!("connection {number}")
            }
            Role::Subscriber(number) => format!("subscriber {number}"),
            Role::Publisher(publisher) => format!("publisher {publisher}"),
        }
    }
}

/// Returns the remedy of a failed connect, as the end of a sentence; empty if there is none.
pub(crate) fn hint(why: &str) -> &'static str {
    match why {
        why if why.starts_with("Connection refused") => "; does a server listen there (--url)?",
        why if ["Cannot assign requested address", "Address already in use"]
            .iter()
            .any(|text| why.starts_with(text)) =>
        {
            "; the local ports are used up: wait a minute, or give more --source-addresses"
        }
        why if why.starts_with("the server answered HTTP/1.1 404") => {
            "; is the path of --url right, or does the server need a --preset?"
        }
        why if why.contains("before the handshake was done") => {
            "; does the server speak WebSocket at this port, and without TLS (wss:// is with TLS)?"
        }
        _ => "",
    }
}

/// The largest number of reasons in the report; the count of disconnections is always exact.
pub(crate) const REASONS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::io;

    #[test]
    fn a_failed_connect_has_a_remedy() {
        for (error, remedy) in [
            (Errno::CONNREFUSED, "--url"),
            (Errno::ADDRNOTAVAIL, "--source-addresses"),
            (Errno::ADDRINUSE, "--source-addresses"),
        ] {
            for why in [error.to_string(), io::Error::from(error).to_string()] {
                assert!(hint(&why).contains(remedy), "{why}");
            }
        }
        assert!(hint("the server answered HTTP/1.1 404 Not Found: no").contains("--preset"));
        assert!(hint("closed by the server without a close frame, before the handshake was done").contains("wss://"));
        assert_eq!(hint(&Errno::CONNRESET.to_string()), "");
    }
}
