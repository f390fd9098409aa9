//! What the connections of a shard have sent lately, where rates limit that.

use std::num::NonZeroU32;

use crate::{
    hub::ConnectionId,
    proto::{Millis, Tick},
    rates::{Bucket, InputRates},
};

/// The buckets of all connections of a shard. The table exists only on a shard with a route whose input has a rate.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// By slot.
    sent: Vec<Sent>,
}

/// What a connection has sent lately.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    messages: Bucket,
    bytes: Bucket,
    /// When the connection went over its rates without a break since.
    over_since: Tick,
    /// When the connection was received from again, if it has ever been throttled.
    resumed: Option<Tick>,
    /// The tick after the one in which the throttled connection's client was found to be gone.
    gone: Option<NonZeroU32>,
}

const _: () = assert!(size_of::<Sent>() <= 32, "docs and ARCHITECTURE.md say that a connection costs 32 bytes here");

/// A rate that limits what a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputRate {
    /// The rate of messages, pings and pongs.
    Messages,
    /// The rate of bytes.
    Bytes,
}

impl InputRate {
    /// Returns the reason of a close frame to a client that does not keep to the rate.
    pub(super) fn reason(self) -> &'static str {
        match self {
            InputRate::Messages => "more messages than max_message_rate",
            InputRate::Bytes => "more bytes than max_byte_rate",
        }
    }
}

impl Rates {
    /// Begins the count of a new connection.
    pub(super) fn begin(&mut self, id: ConnectionId) {
        let slot = id.slot() as usize;
        if self.sent.len() <= slot {
            self.sent.resize(slot + 1, Sent::default());
        }
        self.sent[slot] = Sent::default();
    }

    /// Fills the buckets of a connection whose route has other rates now: what it owes, it owes at the earlier rates.
    /// The time for which it has been over its rates goes on.
    pub(super) fn refill(&mut self, id: ConnectionId) {
        let sent = &mut self.sent[id.slot() as usize];
        (sent.messages, sent.bytes) = (Bucket::default(), Bucket::default());
    }

    /// Counts a message, a fragment that is an event of its own, a ping or a pong.
    pub(super) fn charge_message(&mut self, id: ConnectionId, rates: &InputRates, now: Millis) {
        if let Some(rate) = &rates.messages {
            self.sent[id.slot() as usize].messages.charge(rate, now, 1);
        }
    }

    /// Counts bytes.
    pub(super) fn charge_bytes(&mut self, id: ConnectionId, rates: &InputRates, now: Millis, count: usize) {
        if let Some(rate) = &rates.bytes {
            self.sent[id.slot() as usize].bytes.charge(rate, now, count as u64);
        }
    }

    /// Returns a rate that the connection's next input would exceed.
    pub(super) fn exceeded(&self, id: ConnectionId, rates: &InputRates, now: Millis) -> Option<InputRate> {
        let sent = &self.sent[id.slot() as usize];
        let is_over = |bucket: &Bucket, rate| bucket.is_empty(rate, now);
        if rates.messages.as_ref().is_some_and(|rate| is_over(&sent.messages, rate)) {
            return Some(InputRate::Messages);
        }
        rates.bytes.as_ref().is_some_and(|rate| is_over(&sent.bytes, rate)).then_some(InputRate::Bytes)
    }

    /// Returns when the connection's next input exceeds no rate.
    pub(super) fn due(&self, id: ConnectionId, rates: &InputRates) -> Millis {
        let sent = &self.sent[id.slot() as usize];
        let due = |bucket: &Bucket, rate: Option<&_>| rate.map_or(Millis(0), |rate| bucket.due(rate, 1));
        due(&sent.messages, rates.messages.as_ref()).max(due(&sent.bytes, rates.bytes.as_ref()))
    }

    /// Notes that the connection is throttled now.
    pub(super) fn throttle(&mut self, id: ConnectionId, now: Tick) {
        let sent = &mut self.sent[id.slot() as usize];
        if sent.resumed.is_none_or(|resumed| now.since(resumed) > BREAK) {
            sent.over_since = now;
        }
    }

    /// Notes that the connection, which was throttled, is received from again.
    pub(super) fn resume(&mut self, id: ConnectionId, now: Tick) {
        self.sent[id.slot() as usize].resumed = Some(now);
    }

    /// Notes that the client of the throttled connection has ended its side, or the connection.
    pub(super) fn note_gone(&mut self, id: ConnectionId, now: Tick) {
        let sent = &mut self.sent[id.slot() as usize];
        sent.gone = sent.gone.or_else(|| NonZeroU32::new(now.after(1).0));
    }

    /// Returns since when the client of the throttled connection is gone.
    pub(super) fn gone_since(&self, id: ConnectionId) -> Option<Tick> {
        self.sent[id.slot() as usize].gone.map(|after| Tick(after.get() - 1))
    }

    /// Returns since when the throttled connection has been over its rates without a break.
    pub(super) fn over_since(&self, id: ConnectionId) -> Tick {
        self.sent[id.slot() as usize].over_since
    }
}

/// A client that is received from for more than so many ticks before it is throttled again has had a break: longer than
/// most round trips, since a client that sends as fast as it can goes on only when it learns of the room.
pub(super) const BREAK: u32 = Tick::PER_SECOND;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::rates::Rate;

    fn id() -> ConnectionId {
        ConnectionId::new(0, 3, 0)
    }

    fn rate(count: u64) -> Option<Rate> {
        NonZeroU64::new(count).map(Rate::per_second)
    }

    #[test]
    fn both_rates_hold_and_a_new_owner_of_the_slot_has_sent_nothing() {
        let rates = InputRates { messages: rate(10), bytes: rate(100) };
        let mut table = Rates::default();
        table.begin(id());
        assert_eq!(table.exceeded(id(), &rates, Millis(0)), None);
        table.charge_bytes(id(), &rates, Millis(0), 300);
        assert_eq!(table.exceeded(id(), &rates, Millis(0)), Some(InputRate::Bytes));
        assert_eq!(table.due(id(), &rates), Millis(2_010));
        (0..40).for_each(|_| table.charge_message(id(), &rates, Millis(0)));
        assert_eq!(table.exceeded(id(), &rates, Millis(2_010)), Some(InputRate::Messages));
        assert_eq!(table.due(id(), &rates), Millis(3_100));
        assert_eq!(table.exceeded(id(), &rates, Millis(3_100)), None);
        table.charge_bytes(id(), &InputRates::default(), Millis(3_100), 9_999);
        assert_eq!(table.exceeded(id(), &rates, Millis(3_100)), None, "no rate, no charge");
        table.begin(id());
        assert_eq!(table.due(id(), &rates), Millis(0));
    }

    /// Only a break begins the time anew, not the moments in which a throttled client is received from.
    #[test]
    fn time_over_the_rate_goes_on_without_a_break() {
        let mut table = Rates::default();
        table.begin(id());
        table.throttle(id(), Tick(0));
        assert_eq!(table.over_since(id()), Tick(0));
        table.resume(id(), Tick(50));
        table.throttle(id(), Tick(50 + BREAK));
        assert_eq!(table.over_since(id()), Tick(0));
        table.resume(id(), Tick(70));
        table.throttle(id(), Tick(71 + BREAK));
        assert_eq!(table.over_since(id()), Tick(71 + BREAK));
    }
}
