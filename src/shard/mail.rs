//! The mail of a shard: deliveries, requests and commands of the other shards and of the control thread.

use super::{
    pace::{Mail, MailLeft},
    state::Shard,
};
use crate::sys::Io;

impl<I: Io> Shard<I> {
    /// Takes the mail of a turn out of the lanes.
    pub(super) fn begin_mail(&mut self) {
        let part = self.part_of_turn(self.pace.mail);
        self.mail_left = MailLeft { deliveries: part, requests: part };
        self.take_mail();
    }

    /// Returns whether the turn has taken mail.
    pub(super) fn has_taken_mail(&self) -> bool {
        let part = self.part_of_turn(self.pace.mail);
        self.mail_left.deliveries < part || self.mail_left.requests < part
    }

    /// Takes mail out of the lanes, up to the rest of the turn's part, as long as there is room to gather it.
    pub(super) fn take_mail(&mut self) {
        let (order, had_room) = (self.mail_order, self.hub.has_room_for_mail());
        for kind in order {
            match kind {
                Mail::Deliveries => self.take_deliveries(),
                Mail::Requests => self.take_requests(),
            }
            if had_room && kind == order[0] && !self.hub.has_room_for_mail() {
                self.mail_order = [order[1], order[0]];
            }
        }
        self.end_marked();
    }

    fn take_deliveries(&mut self) {
        while self.mail_left.deliveries > 0 && self.hub.has_room_for_mail() && self.hub.take_delivery(&mut self.joined)
        {
            self.mail_left.deliveries -= 1;
            // A part of a history stands before the messages that are gathered from here on.
            if self.hub.has_resumed() {
                self.report_resumed();
            }
        }
        let may_have_left = self.mail_left.deliveries == 0 || !self.hub.has_room_for_mail();
        if may_have_left && self.hub.has_deliveries() {
            self.marks.note_left_mail(self.now);
        }
        self.report_joined();
        self.report_answered();
    }

    /// Takes requests, and runs the commands among them. Each command runs before the next request is taken: no
    /// request is taken while too many replies wait for room.
    fn take_requests(&mut self) {
        while self.mail_left.requests > 0 && self.hub.has_room_for_mail() && self.hub.take_request(&mut self.commands) {
            self.mail_left.requests -= 1;
            if let Some(command) = self.commands.pop() {
                self.run_command(command);
            }
        }
        if self.hub.has_engine_mail() {
            self.marks.note_left_mail(self.now);
        }
        // A command may have made a subscription.
        self.report_joined();
        self.report_answered();
    }

    /// Ends the waits for which the last mark has come: down a delivery lane from another home, or down a request lane
    /// from an engine.
    fn end_marked(&mut self) {
        for id in self.hub.take_marks() {
            if self.marks.arrive(id) {
                self.end_marks(id);
            }
        }
    }
}
