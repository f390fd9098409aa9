//! A link: the four lanes between two ends of the mesh, seen from one of the two ends.

use std::mem;

use super::{
    entry::{Delivery, Request},
    lane::{LaneIn, LaneOut, lane},
};

/// The lanes between one end of the mesh, the owner, and another end.
#[derive(Debug)]
pub(super) struct Link {
    requests_out: LaneOut<Request>,
    requests_in: LaneIn<Request>,
    deliveries_out: LaneOut<Delivery>,
    deliveries_in: LaneIn<Delivery>,
    /// Whether an entry was sent, or moved into a lane, since the other end was last signalled.
    is_touched: bool,
}

impl Link {
    /// Returns both sides of a link. Each lane has places for `entries` entries, and takes no entry while the entries
    /// in it weigh more than `bytes_max`.
    pub(super) fn pair(entries: usize, bytes_max: usize) -> (Link, Link) {
        let (up, down) = (lane(entries, bytes_max), lane(entries, bytes_max));
        let (up_deliveries, down_deliveries) = (lane(entries, bytes_max), lane(entries, bytes_max));
        (
            Link::new(up.0, down.1, up_deliveries.0, down_deliveries.1),
            Link::new(down.0, up.1, down_deliveries.0, up_deliveries.1),
        )
    }

    fn new(
        requests_out: LaneOut<Request>,
        requests_in: LaneIn<Request>,
        deliveries_out: LaneOut<Delivery>,
        deliveries_in: LaneIn<Delivery>,
    ) -> Self {
        Link { requests_out, requests_in, deliveries_out, deliveries_in, is_touched: false }
    }

    /// Sends a request. Returns the weight of the request if it has to wait for room, else 0.
    #[inline]
    pub(super) fn request(&mut self, request: Request) -> usize {
        self.is_touched = true;
        self.requests_out.send(request)
    }

    /// Sends a delivery. Returns the weight of the delivery if it has to wait for room, else 0.
    #[inline]
    pub(super) fn deliver(&mut self, delivery: Delivery) -> usize {
        self.is_touched = true;
        self.deliveries_out.send(delivery)
    }

    /// Returns whether a request would go into its lane at once.
    pub(super) fn has_room_for_requests(&self) -> bool {
        self.requests_out.would_take()
    }

    /// Moves entries from the overflows into the lanes while the lanes have room.
    pub(super) fn send_overflow(&mut self) {
        let moved = self.requests_out.send_overflow() + self.deliveries_out.send_overflow();
        self.is_touched |= moved > 0;
    }

    /// Returns whether an entry was sent, or moved into a lane, since the last call.
    #[inline]
    pub(super) fn take_touched(&mut self) -> bool {
        mem::take(&mut self.is_touched)
    }

    /// Takes the next request of the other end.
    #[inline]
    pub(super) fn next_request(&mut self) -> Option<Request> {
        self.requests_in.take()
    }

    /// Takes the next delivery of the other end.
    #[inline]
    pub(super) fn next_delivery(&mut self) -> Option<Delivery> {
        self.deliveries_in.take()
    }

    /// Returns whether the other end has sent a request that was not taken.
    pub(super) fn has_request(&self) -> bool {
        !self.requests_in.is_empty()
    }

    /// Returns whether the other end has sent a delivery that was not taken.
    pub(super) fn has_delivery(&self) -> bool {
        !self.deliveries_in.is_empty()
    }

    /// Returns the number of entries in the fuller of the two lanes to the owner.
    pub(super) fn fullest_in(&self) -> usize {
        self.requests_in.entries().max(self.deliveries_in.entries())
    }

    /// Returns the weight of the requests that wait for room.
    pub(super) fn requests_waiting(&self) -> usize {
        self.requests_out.overflow_bytes()
    }

    /// Returns the weight of the deliveries that wait for room.
    pub(super) fn deliveries_waiting(&self) -> usize {
        self.deliveries_out.overflow_bytes()
    }

    /// Returns the weight of the requests and deliveries that this end has sent and that were not taken.
    pub(super) fn bytes(&self) -> usize {
        self.requests_out.bytes() + self.deliveries_out.bytes()
    }

    /// Returns how many requests and deliveries have ever had to wait.
    pub(super) fn overflowed(&self) -> u64 {
        self.requests_out.overflowed() + self.deliveries_out.overflowed()
    }

    /// Returns how many deliveries may wait without another allocation.
    #[cfg(test)]
    pub(super) fn deliveries_capacity(&self) -> usize {
        self.deliveries_out.overflow_capacity()
    }
}
