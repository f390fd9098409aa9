//! What the other shards and the control thread have sent.

use std::mem;

use super::{io_state::Hub, state::Shard};
use crate::sys::Io;

impl<I: Io> Shard<I> {
    /// Takes what has come down the lanes, up to a bound: deliveries as long as there is room to gather them, then
    /// requests.
    pub(super) fn take_mail(&mut self) {
        let may_gather = |hub: &Hub| hub.gathered_bytes() <= self.limits.gathered_bytes_max;
        for _ in 0..self.pace.mail {
            if !may_gather(&self.hub) || !self.hub.take_delivery(&mut self.joined) {
                break;
            }
        }
        for _ in 0..self.pace.mail {
            if !may_gather(&self.hub) || !self.hub.take_request(&mut self.commands) {
                break;
            }
        }
        self.tell_joined();
        let mut commands = mem::take(&mut self.commands);
        commands.drain(..).for_each(|command| self.obey(command));
        self.commands = commands;
    }
}
