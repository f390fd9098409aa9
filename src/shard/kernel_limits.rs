//! Limits what the kernel keeps for the sockets of subscribers, by the rules of their topics.

use super::state::Shard;
use crate::{
    hub::KernelRules,
    sys::{Io, SendLimits},
};

impl<I: Io> Shard<I> {
    /// Limits the output that the kernel keeps for the connections that have subscribed in this turn, before the first
    /// message of their topics is sent. A connection that leaves a topic keeps its limits.
    pub(super) fn limit_sockets(&mut self) {
        for (id, rules) in self.hub.take_limited() {
            let KernelRules { send_buffer_bytes, unsent_low_water_bytes } = rules;
            let bytes = |limit: Option<u64>| limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            let of_topics = SendLimits {
                send_buffer_bytes: bytes(send_buffer_bytes),
                unsent_low_water_bytes: bytes(unsent_low_water_bytes),
            };
            if let Some(socket) = self.sockets[id.slot() as usize].as_ref().filter(|_| rules != KernelRules::default())
            {
                self.io.limit_output(socket, of_topics.min(self.send_limits));
            }
        }
    }
}
