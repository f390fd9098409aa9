//! Receipts: what became of a publication for the subscribers that it was for.

use std::{cell::Cell, fmt, rc::Rc};

use super::publication::Place;

/// What has become of a publication, at the moment at which the last walk with it had ended. The subscribers are the
/// connections that the publication was for, on all shards.
///
/// Each subscriber that counts in `matched` counts in exactly one of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The subscribers that the publication was for, without the publisher unless it has subscribed with echo.
    pub matched: u32,
    /// The subscribers whose sockets have taken the publication whole.
    pub sent: u32,
    /// The subscribers that have the publication, or its end, in their backlogs.
    pub queued: u32,
    /// The subscribers for which a policy of the topic has dropped the publication.
    pub dropped: u32,
    /// The subscribers whose connections were closed, or have ended, before their sockets had taken the publication.
    pub closed: u32,
}

impl Receipt {
    /// Adds the part of another shard.
    pub(super) fn add(&mut self, other: Receipt) {
        self.matched += other.matched;
        self.sent += other.sent;
        self.queued += other.queued;
        self.dropped += other.dropped;
        self.closed += other.closed;
    }
}

/// The reason for which a publication that was published has no receipt.
///
/// ```
/// use ringhub::NoReceipt;
/// assert_eq!(NoReceipt::TimedOut.name(), "timed_out");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReceipt {
    /// A shard had not ended its walks within `receipt_timeout`.
    TimedOut,
    /// As many publications wait for their receipts at the home of the topic as may.
    TooMany,
    /// The publication was published before, and its first publisher has asked for no receipt.
    NotAsked,
}

impl NoReceipt {
    /// Returns the name in answers to clients.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NoReceipt::TimedOut => "timed_out",
            NoReceipt::TooMany => "too_many",
            NoReceipt::NotAsked => "not_asked",
        }
    }
}

impl fmt::Display for NoReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoReceipt::TimedOut => "not every shard has ended its walks within receipt_timeout",
            NoReceipt::TooMany => "as many publications wait for their receipts as may",
            NoReceipt::NotAsked => "the publication was published before without a receipt",
        })
    }
}

impl std::error::Error for NoReceipt {}

/// The answer of a topic's home to the publisher of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The place of the publication in its topic's order.
    pub place: Place,
    /// The receipt, if the publisher has asked for one, or the reason for which there is none.
    pub receipt: Option<Result<Receipt, NoReceipt>>,
}

impl Published {
    /// Returns the answer to a publisher that has asked for no receipt.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Published { place, receipt: None }
    }
}

/// The count of a shard for the receipt of one publication. The runs with the publication share it, and so do the
/// [`Ticket`]s in backlogs.
#[derive(Debug)]
pub(super) struct Watch {
    /// The home of the topic, and its number for the receipt.
    pub(super) home: u16,
    pub(super) number: u64,
    /// The runs that have not been handed out.
    runs: Cell<u32>,
    /// Whether the count was taken.
    is_taken: Cell<bool>,
    matched: Cell<u32>,
    /// The subscribers that did not get the publication with a walk's send: their tickets tell what became of it.
    late: Cell<u32>,
    sent: Cell<u32>,
    dropped: Cell<u32>,
    closed: Cell<u32>,
}

impl Watch {
    pub(super) fn new(home: u16, number: u64) -> Rc<Self> {
        let zero = || Cell::new(0);
        let (runs, matched, late, sent, dropped, closed) = (zero(), zero(), zero(), zero(), zero(), zero());
        Rc::new(Watch { home, number, runs, is_taken: Cell::new(false), matched, late, sent, dropped, closed })
    }

    /// Notes that a run has the publication, for so many subscribers.
    pub(super) fn begin_run(&self, matched: u32) {
        self.matched.set(self.matched.get() + matched);
        add_one(&self.runs);
    }

    /// Notes that the topic's policy has dropped the publication out of a run, for so many subscribers.
    pub(super) fn drop_for(&self, members: u32) {
        self.late.set(self.late.get() + members);
        self.dropped.set(self.dropped.get() + members);
    }

    /// Notes that a run with the publication was handed out. Returns whether it was the last one.
    pub(super) fn end_run(&self) -> bool {
        self.runs.set(self.runs.get() - 1);
        self.has_ended()
    }

    /// Returns whether no run has the publication any more.
    pub(super) fn has_ended(&self) -> bool {
        self.runs.get() == 0
    }

    /// Takes the count. Tickets may still tell what becomes of the publication, and nobody listens.
    pub(super) fn take(&self) -> Receipt {
        self.is_taken.set(true);
        self.receipt()
    }

    /// Returns the counts of this moment.
    pub(super) fn receipt(&self) -> Receipt {
        let (matched, late) = (self.matched.get(), self.late.get());
        let (sent, dropped, closed) = (self.sent.get(), self.dropped.get(), self.closed.get());
        Receipt { matched, sent: matched - late + sent, queued: late - sent - dropped - closed, dropped, closed }
    }
}

/// A subscriber that did not get a publication with a walk's send. A ticket that is dropped tells that the connection
/// was closed, or has given the publication up.
#[derive(Debug)]
pub struct Ticket(Option<Rc<Watch>>);

impl Ticket {
    pub(super) fn new(watch: &Rc<Watch>) -> Self {
        add_one(&watch.late);
        Ticket(Some(Rc::clone(watch)))
    }

    /// Returns whether nobody waits for the ticket any more: the count was taken.
    pub(super) fn is_void(&self) -> bool {
        self.0.as_ref().is_none_or(|watch| watch.is_taken.get())
    }

    /// Notes that the socket has taken the publication whole.
    pub(super) fn sent(mut self) {
        if let Some(watch) = self.0.take() {
            add_one(&watch.sent);
        }
    }

    /// Notes that a policy has dropped the publication.
    pub(super) fn dropped(mut self) {
        if let Some(watch) = self.0.take() {
            add_one(&watch.dropped);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(watch) = &self.0 {
            add_one(&watch.closed);
        }
    }
}

fn add_one(count: &Cell<u32>) {
    count.set(count.get() + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subscriber_counts_once() {
        let watch = Watch::new(0, 1);
        watch.begin_run(7);
        watch.begin_run(3);
        let mut tickets: Vec<Ticket> = (0..6).map(|_| Ticket::new(&watch)).collect();
        assert_eq!(watch.receipt(), Receipt { matched: 10, sent: 4, queued: 6, dropped: 0, closed: 0 });
        tickets.pop().unwrap().sent();
        tickets.pop().unwrap().dropped();
        drop(tickets.pop());
        watch.drop_for(2);
        assert!(!watch.end_run() && !tickets[0].is_void());
        assert_eq!(watch.receipt(), Receipt { matched: 10, sent: 3, queued: 3, dropped: 3, closed: 1 });
        assert!(watch.end_run() && !tickets[0].is_void());
        assert_eq!(watch.take(), Receipt { matched: 10, sent: 3, queued: 3, dropped: 3, closed: 1 });
        assert!(tickets[0].is_void());
    }
}
