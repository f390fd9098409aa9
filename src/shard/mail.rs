//! The mail of a shard: deliveries, requests and commands of the other shards and of the control thread.

use std::mem;

use super::{io_state::IoHub, pace::MailLeft, state::Shard};
use crate::sys::Io;

impl<I: Io> Shard<I> {
    /// Takes the mail of a turn out of the lanes.
    pub(super) fn begin_mail(&mut self) {
        let part = self.part_of_turn(self.pace.mail);
        self.mail_left = MailLeft { deliveries: part, requests: part };
        self.take_mail();
    }

    /// Takes mail out of the lanes, up to the rest of the turn's part: deliveries as long as there is room to gather
    /// them, then requests.
    pub(super) fn take_mail(&mut self) {
        let may_gather = |hub: &IoHub| hub.gathered_bytes() <= self.limits.gathered_bytes_max;
        let MailLeft { mut deliveries, mut requests } = mem::take(&mut self.mail_left);
        while deliveries > 0 && may_gather(&self.hub) && self.hub.take_delivery(&mut self.joined) {
            deliveries -= 1;
        }
        while requests > 0 && may_gather(&self.hub) && self.hub.take_request(&mut self.commands) {
            requests -= 1;
        }
        self.mail_left = MailLeft { deliveries, requests };
        for id in self.hub.take_marks() {
            if self.marks.arrive(id) {
                self.end_marks(id);
            }
        }
        self.report_joined();
        let mut commands = mem::take(&mut self.commands);
        commands.drain(..).for_each(|command| self.run_command(command));
        self.commands = commands;
    }
}
