//! Awaited receipts: the messages of a backlog whose publishers wait for receipts.

use std::collections::VecDeque;

use super::{cut::Cut, memory::ALLOCATION, receipt::Ticket};

/// The messages of a backlog whose publishers wait for receipts, in order.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// The bytes that have been sent since there are such messages.
    gone: usize,
    /// Where each message ends, counted from where `gone` begins.
    messages: VecDeque<(usize, Ticket)>,
}

impl Awaited {
    /// Adds messages, each by its end among the bytes that follow the first `length` unsent bytes.
    pub(super) fn add(&mut self, length: usize, tickets: Vec<(usize, Ticket)>) {
        if self.messages.len() + tickets.len() > self.messages.capacity() {
            self.messages.retain(|(_, ticket)| !ticket.is_void());
        }
        let begin = self.gone + length;
        self.messages.extend(tickets.into_iter().map(|(end, ticket)| (begin + end, ticket)));
    }

    /// Notes that the socket has taken `count` bytes. Returns whether no message is left.
    pub(super) fn advance(&mut self, count: usize) -> bool {
        self.gone += count;
        let sent = self.messages.partition_point(|(end, _)| *end <= self.gone);
        self.messages.drain(..sent).for_each(|(_, ticket)| ticket.sent());
        self.messages.is_empty()
    }

    /// Notes that a policy has taken these parts out of the unsent bytes. Returns whether no message is left.
    pub(super) fn cut(&mut self, cuts: &[Cut]) -> bool {
        let mut left = VecDeque::with_capacity(self.messages.len());
        // Both are in order.
        let (mut cuts, mut before) = (cuts.iter().peekable(), 0);
        for (end, ticket) in self.messages.drain(..) {
            let at = end - self.gone;
            while let Some(cut) = cuts.next_if(|cut| cut.at + cut.bytes < at) {
                before += cut.bytes;
            }
            if cuts.peek().is_some_and(|cut| cut.at < at) {
                ticket.dropped();
            } else {
                left.push_back((end - before, ticket));
            }
        }
        self.messages = left;
        self.messages.is_empty()
    }

    /// Notes that a notice after `at` unsent bytes has so many bytes now, and had `before`.
    pub(super) fn replace(&mut self, at: usize, before: usize, now: usize) {
        for (end, _) in &mut self.messages {
            if *end - self.gone > at {
                *end = *end + now - before;
            }
        }
    }

    /// Gives up all messages that end after the next `length` bytes. Returns whether no message is left.
    pub(super) fn truncate(&mut self, length: usize) -> bool {
        let kept = self.messages.partition_point(|(end, _)| *end - self.gone <= length);
        self.messages.truncate(kept);
        self.messages.is_empty()
    }

    /// Returns the memory, in bytes, that the messages take here.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + 2 * ALLOCATION + size_of::<(usize, Ticket)>() * self.messages.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::hub::receipt::{Receipt, Watch};

    /// Returns messages that end after so many bytes, and their count.
    fn awaited(ends: &[usize]) -> (Awaited, Rc<Watch>) {
        let watch = Watch::new(0, 1);
        watch.begin_run(ends.len() as u32);
        let mut awaited = Awaited::default();
        awaited.add(0, ends.iter().map(|end| (*end, Ticket::new(&watch))).collect());
        (awaited, watch)
    }

    fn check(watch: &Watch, sent: u32, queued: u32, dropped: u32, closed: u32) {
        let expected = Receipt { matched: sent + queued + dropped + closed, sent, queued, dropped, closed };
        assert_eq!(watch.receipt(), expected);
    }

    #[test]
    fn a_message_is_sent_with_its_last_byte() {
        let (mut awaited, watch) = awaited(&[10, 20, 30]);
        assert!(!awaited.advance(9));
        check(&watch, 0, 3, 0, 0);
        assert!(!awaited.advance(11));
        check(&watch, 2, 1, 0, 0);
        awaited.add(10, vec![(5, Ticket::new(&watch))]);
        assert!(!awaited.advance(10));
        assert!(awaited.advance(5));
    }

    #[test]
    fn cuts_drop_messages_and_move_the_others() {
        let cut = |at, bytes| Cut { at, bytes, messages: 1 };
        let (mut awaited, watch) = awaited(&[10, 20, 30, 40, 50]);
        assert!(!awaited.advance(5));
        // The first message has been sent in part; the second and the fourth go, and a message between others.
        assert!(!awaited.cut(&[cut(5, 10), cut(25, 10), cut(35, 2)]));
        check(&watch, 0, 3, 2, 0);
        assert_eq!(awaited.messages.iter().map(|(end, _)| end - awaited.gone).collect::<Vec<_>>(), [5, 15, 23]);
        awaited.replace(5, 0, 7);
        awaited.replace(5, 7, 9);
        assert_eq!(awaited.messages.iter().map(|(end, _)| end - awaited.gone).collect::<Vec<_>>(), [5, 24, 32]);
        assert!(!awaited.truncate(24));
        check(&watch, 0, 2, 2, 1);
        assert!(awaited.advance(24));
        check(&watch, 2, 0, 2, 1);
    }

    #[test]
    fn messages_without_a_receipt_to_come_leave() {
        let (mut awaited, watch) = awaited(&[10; 100]);
        watch.take();
        let before = awaited.messages.capacity();
        let later = Watch::new(0, 2);
        later.begin_run(100);
        (0..100).for_each(|_| awaited.add(10, vec![(1, Ticket::new(&later))]));
        assert!(awaited.messages.len() <= before && awaited.messages.len() >= 100);
    }
}
