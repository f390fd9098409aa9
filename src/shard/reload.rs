//! Takes the settings of a reload, between two turns.
//!
//! Everything that the shard reads when it needs it is replaced at once. What connections keep is changed in one pass:
//! a message that has begun keeps its limits to its end, and deadlines that have become earlier are entered.

use std::{rc::Rc, sync::Arc};

use super::{
    seats::LocalRoute,
    state::{Shard, hub_limits, send_limits},
};
use crate::{
    config::Config,
    endpoints::Endpoints,
    handler::{Route, Rules},
    hub::{ConnectionId, Publishing},
    proto::{MessageLimits, Millis},
    sys::Io,
};

impl<I: Io> Shard<I> {
    /// Puts other settings in force. `before` is the table of endpoints whose rules the shard has taken last.
    pub(crate) fn take_settings(&mut self, now: Millis, config: &Config, before: &Endpoints, endpoints: &Endpoints) {
        self.note_time(now);
        let limits = &config.limits;
        let has_other_message_time = limits.message_ticks_max != self.limits.message_ticks_max;
        self.limits = limits.clone();
        self.send_limits = send_limits(config);
        self.unfinished_bytes_max = limits.unfinished_bytes_max / config.shards;
        self.hub.set_limits(hub_limits(config));
        let under_way: Vec<(ConnectionId, MessageLimits)> =
            self.incoming.unfinished.ids().map(|id| (id, self.handlers.limits_in_force(id))).collect();
        let is_changed = |is: fn(&Rules, &Rules) -> bool| {
            before.routes().iter().zip(endpoints.routes()).any(|(old, new)| is(&old.rules, &new.rules))
        };
        let has_other_limits = is_changed(|old, new| old.limits != new.limits);
        let has_other_times = is_changed(|old, new| old.keep_alive != new.keep_alive);
        let has_other_rates = is_changed(|old, new| old.rates != new.rates);
        self.take_rules(before.routes(), endpoints.routes());
        self.begin_to_count(endpoints.routes());
        if has_other_limits {
            self.take_limits_of_topics(endpoints);
        }
        for (id, limits) in under_way {
            if self.handlers.limits_in_force(id) != limits {
                self.handlers.change_own(id, |own| own.until_end = Some(limits));
            }
        }
        if has_other_rates {
            self.refill_rates(before.routes(), endpoints.routes());
        }
        if has_other_times || has_other_message_time || has_other_rates {
            let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
            ids.into_iter().for_each(|id| self.schedule(id));
        }
    }

    /// Begins to count what clients send if a route has rates and none had before.
    fn begin_to_count(&mut self, routes: &[Route]) {
        if self.rates.is_some() || !routes.iter().any(|route| route.rules.rates.has_any()) {
            return;
        }
        self.rates = Some(Box::default());
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        ids.into_iter().for_each(|id| self.begin_rates(id));
    }

    /// Fills the buckets of all connections whose routes have other rates than before.
    fn refill_rates(&mut self, before: &[Route], after: &[Route]) {
        let Some(table) = &mut self.rates else { return };
        for id in self.hub.connections.ids() {
            let route = usize::from(self.handlers.seats[id.slot() as usize].0);
            if before[route].rules.rates != after[route].rules.rates {
                table.refill(id);
            }
        }
    }

    /// Gives the routes their new rules. A keep-alive that code has set for all connections stays unless the reload
    /// changes the keep-alive of the route.
    fn take_rules(&mut self, before: &[Route], after: &[Route]) {
        let routes = self.handlers.routes.iter().zip(before.iter().zip(after)).map(|(local, (before, after))| {
            let is_same = before.rules.keep_alive == after.rules.keep_alive;
            let keep_alive = if is_same { local.rules.keep_alive } else { after.rules.keep_alive };
            LocalRoute {
                name: Arc::clone(&local.name),
                handler: Rc::clone(&local.handler),
                rules: Rules { keep_alive, ..after.rules.clone() },
            }
        });
        self.handlers.routes = routes.collect();
    }

    /// Sets the limits of the clients whose messages go to topics that take only smaller messages than their routes.
    fn take_limits_of_topics(&mut self, endpoints: &Endpoints) {
        let ids: Vec<ConnectionId> = self.hub.connections.ids().collect();
        for id in ids {
            let publishes = self.hub.connections.get(id).and_then(|connection| connection.publishes);
            let Some(Publishing { topic, .. }) = publishes else { continue };
            let route = usize::from(self.handlers.seats[id.slot() as usize].0);
            let of_topic = endpoints.limits_of_forwarding(route, self.hub.topic_name(topic));
            if self.handlers.own(id).of_topic != of_topic {
                self.handlers.change_own(id, |own| own.of_topic = of_topic);
            }
        }
    }
}
