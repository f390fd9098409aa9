//! The receipts that a home waits for, and the counts of this shard's walks that homes have yet to get.
//!
//! The home of a topic gives a publication whose publisher wants a receipt a number, and waits for the count of each
//! shard that gets the publication, its own included. A shard counts while it hands the publication out
//! ([`Watch`](super::receipt::Watch)), and sends its count when its walks with the publication have ended.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    ids::{Asker, Key},
    owner::{OWNER_BYTES, Owner, Shares},
    publication::Place,
    receipt::{NoReceipt, Published, Receipt, Watch},
};
use crate::proto::Millis;

/// The receipts of a hub.
#[derive(Debug)]
pub(super) struct Receipts {
    /// The number of the last receipt.
    last: u64,
    /// The receipts that this home waits for, by their numbers.
    waiting: BTreeMap<u64, Waiting>,
    /// The most of them, and the parts that owners have of it.
    most: usize,
    shares: Shares,
    /// The counts of this shard whose walks have ended, and that homes have yet to get. They are taken when the
    /// outcomes of the last sends have been acted on.
    pub(super) ended: Vec<Rc<Watch>>,
    timeout_ms: u64,
    counts: ReceiptCounts,
}

/// How many receipts publishers have asked this home for, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiptCounts {
    /// The receipts that all shards have counted for.
    pub complete: u64,
    /// The receipts that were given up because a shard had not ended its walks in time.
    pub timed_out: u64,
    /// The receipts that were refused because too many were waited for.
    pub too_many: u64,
}

/// A receipt that a home waits for.
#[derive(Debug)]
struct Waiting {
    asker: Option<Asker>,
    owner: Option<Owner>,
    /// The id of the publication, if it has one.
    id: Option<Key>,
    place: Place,
    /// The shards whose counts have not come.
    shards: u16,
    receipt: Receipt,
    until: Millis,
}

/// An answer to a publisher, and to those that have published the same with the same id.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) asker: Option<Asker>,
    pub(super) id: Option<Key>,
    pub(super) published: Published,
}

impl Receipts {
    /// Returns the receipts of a home that waits for so many at most.
    pub(super) fn new(most: usize, timeout_ms: u64) -> Self {
        let (waiting, ended, counts) = (BTreeMap::new(), Vec::new(), ReceiptCounts::default());
        Receipts { last: 0, waiting, most, shares: Shares::default(), ended, timeout_ms, counts }
    }

    /// Begins to wait for the counts of so many shards, for a publication of this owner. Returns the number of the
    /// receipt.
    ///
    /// # Errors
    ///
    /// [`NoReceipt::TooMany`].
    pub(super) fn begin(
        &mut self,
        (place, shards): (Place, u16),
        (asker, owner): (Option<Asker>, Option<Owner>),
        id: Option<Key>,
        now: Millis,
    ) -> Result<u64, NoReceipt> {
        if !self.shares.may_take(owner, 1, self.most.saturating_sub(self.waiting.len())) {
            self.counts.too_many += 1;
            return Err(NoReceipt::TooMany);
        }
        self.shares.take(owner, 1);
        self.last += 1;
        let until = Millis(now.0.saturating_add(self.timeout_ms));
        let waiting = Waiting { asker, owner, id, place, shards, receipt: Receipt::default(), until };
        self.waiting.insert(self.last, waiting);
        Ok(self.last)
    }

    /// Adds the count of a shard to a receipt. Returns the answer if the receipt is complete.
    pub(super) fn add(&mut self, number: u64, receipt: Receipt) -> Option<Answered> {
        // The receipt may have been given up.
        let waiting = self.waiting.get_mut(&number)?;
        waiting.receipt.add(receipt);
        waiting.shards -= 1;
        if waiting.shards > 0 {
            return None;
        }
        self.counts.complete += 1;
        let Waiting { asker, owner, id, place, receipt, .. } = self.waiting.remove(&number)?;
        self.shares.give_back(owner, 1);
        Some(Answered { asker, id, published: Published { place, receipt: Some(Ok(receipt)) } })
    }

    /// Gives up the receipts whose time is over, and returns their answers.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<Answered> {
        let mut given_up = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| first.get().until <= now) {
            let Waiting { asker, owner, id, place, .. } = first.remove();
            self.shares.give_back(owner, 1);
            self.counts.timed_out += 1;
            given_up.push(Answered {
                asker,
                id,
                published: Published { place, receipt: Some(Err(NoReceipt::TimedOut)) },
            });
        }
        given_up
    }

    /// Sets the most receipts, and the time for which publishers wait for them, also for those that wait now.
    pub(super) fn set_limits(&mut self, most: usize, timeout_ms: u64, now: Millis) {
        (self.most, self.timeout_ms) = (most, timeout_ms);
        let until = Millis(now.0.saturating_add(timeout_ms));
        // Receipts are given up in the order of their numbers, so none may wait longer than a later one.
        self.waiting.values_mut().for_each(|waiting| waiting.until = waiting.until.min(until));
    }

    /// Returns when the next receipt is given up.
    pub(super) fn next_end(&self) -> Option<Millis> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.until)
    }

    pub(super) fn counts(&self) -> ReceiptCounts {
        self.counts
    }
}

/// The most receipts that a home waits for at the same time.
pub const RECEIPTS_MAX: usize = 1_024;

/// Bytes of a receipt that a home waits for, with its place in the table.
pub const RECEIPT_BYTES: usize = 2 * (size_of::<(u64, Waiting)>() + 16) + OWNER_BYTES + 512;

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { epoch: 5, offset: 1, previous: 0 };

    #[test]
    fn a_receipt_is_complete_when_all_shards_have_counted() {
        let mut receipts = Receipts::new(RECEIPTS_MAX, 100);
        let first = receipts.begin((PLACE, 2), (Some((3, 7)), None), None, Millis(0)).unwrap();
        let second = receipts.begin((PLACE, 1), (Some((3, 8)), None), None, Millis(1)).unwrap();
        let own = Receipt { matched: 3, sent: 1, queued: 2, ..Receipt::default() };
        assert!(receipts.add(first, own).is_none());
        assert_eq!(receipts.add(second, own).unwrap().asker, Some((3, 8)));
        assert!(receipts.add(second, own).is_none(), "it is answered");
        let answered = receipts.add(first, Receipt { matched: 1, closed: 1, ..Receipt::default() }).unwrap();
        let sum = Receipt { matched: 4, sent: 1, queued: 2, dropped: 0, closed: 1 };
        assert_eq!(answered.published, Published { place: PLACE, receipt: Some(Ok(sum)) });
        assert_eq!((answered.asker, receipts.next_end()), (Some((3, 7)), None));
        assert_eq!(receipts.counts().complete, 2);
    }

    #[test]
    fn a_receipt_is_given_up_after_its_time() {
        let mut receipts = Receipts::new(RECEIPTS_MAX, 100);
        let first = receipts.begin((PLACE, 1), (None, None), None, Millis(0)).unwrap();
        _ = receipts.begin((PLACE, 1), (None, None), None, Millis(50)).unwrap();
        assert!(receipts.expire(Millis(99)).is_empty());
        assert_eq!(receipts.next_end(), Some(Millis(100)));
        let given_up = receipts.expire(Millis(100));
        assert_eq!(given_up.len(), 1);
        assert_eq!(given_up[0].published.receipt, Some(Err(NoReceipt::TimedOut)));
        assert!(receipts.add(first, Receipt::default()).is_none(), "a late count is for nobody");
        assert_eq!((receipts.expire(Millis(1_000)).len(), receipts.counts().timed_out), (1, 2));
    }

    /// After a reload, a receipt that may wait for less time is not held up by an earlier one.
    #[test]
    fn a_shorter_time_holds_for_receipts_that_wait() {
        let mut receipts = Receipts::new(RECEIPTS_MAX, 1_000_000);
        _ = receipts.begin((PLACE, 1), (None, None), None, Millis(0)).unwrap();
        receipts.set_limits(RECEIPTS_MAX, 100, Millis(50));
        _ = receipts.begin((PLACE, 1), (None, None), None, Millis(60)).unwrap();
        assert_eq!((receipts.expire(Millis(149)).len(), receipts.next_end()), (0, Some(Millis(150))));
        assert_eq!((receipts.expire(Millis(150)).len(), receipts.expire(Millis(160)).len()), (1, 1));
        _ = receipts.begin((PLACE, 1), (None, None), None, Millis(200)).unwrap();
        receipts.set_limits(RECEIPTS_MAX, 1_000, Millis(210));
        assert_eq!(receipts.next_end(), Some(Millis(300)), "a longer time holds for later receipts");
    }

    #[test]
    fn a_home_waits_for_so_many_receipts() {
        let mut receipts = Receipts::new(RECEIPTS_MAX, 100);
        let numbers: Vec<u64> =
            (0..RECEIPTS_MAX).map(|_| receipts.begin((PLACE, 1), (None, None), None, Millis(0)).unwrap()).collect();
        assert_eq!(receipts.begin((PLACE, 1), (None, None), None, Millis(0)), Err(NoReceipt::TooMany));
        assert!(receipts.add(numbers[0], Receipt::default()).is_some());
        assert!(receipts.begin((PLACE, 1), (None, None), None, Millis(0)).is_ok());
        assert_eq!(receipts.counts().too_many, 1);
    }

    /// One owner waits for half of the receipts, so that others get theirs.
    #[test]
    fn an_owner_leaves_receipts_to_others() {
        let mut receipts = Receipts::new(8, 100);
        let begin_all = |receipts: &mut Receipts, owner: &str| {
            let asker = (None, Some(Owner::of(&owner)));
            (0..8).take_while(|_| receipts.begin((PLACE, 1), asker, None, Millis(0)).is_ok()).count()
        };
        assert_eq!(["a", "b", "c"].map(|owner| begin_all(&mut receipts, owner)), [4, 2, 1]);
        assert!(receipts.add(1, Receipt::default()).is_some());
        assert_eq!(begin_all(&mut receipts, "d"), 1);
        receipts.expire(Millis(100));
        assert_eq!(begin_all(&mut receipts, "c"), 4);
    }
}
