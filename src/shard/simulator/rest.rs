//! The checks of shards that have nothing to do: nothing is under way, and nothing is left of ended connections.

use super::{super::lag::BacklogSize, engine::Engine, simulation::Simulation};
use crate::hub::testing::{TopicUse, UnderWay};

impl Simulation {
    /// Returns whether a turn of a shard, or a step of the control thread or of the engine, is due.
    pub(super) fn is_due(&self) -> bool {
        let is_engine_due = self.engine.as_ref().is_some_and(Engine::is_due);
        is_engine_due || self.control.is_due() || self.drivers.iter().any(|driver| driver.is_due(self.now))
    }

    /// Checks that every end sleeps, and that nothing is under way.
    pub(super) fn check_rest(&self) {
        assert!(!self.is_due(), "an end is awake");
        for (number, driver) in self.drivers.iter().enumerate() {
            let under_way = UnderWay::of(&driver.shard.hub);
            assert_eq!(under_way, UnderWay::default(), "every end sleeps, and shard {number} has work");
            assert!(driver.shard.incoming.is_empty(), "every end sleeps, and shard {number} has input");
        }
        let is_engine_at_rest = self.engine.as_ref().is_none_or(Engine::is_at_rest);
        assert!(is_engine_at_rest, "every end sleeps, and the engine has not ordered everything");
        assert!(self.control.is_at_rest(), "every end sleeps, and requests of the control thread are not answered");
    }

    /// Checks that each home knows the interest of the other shards, while nothing is under way.
    pub(super) fn check_interest(&self) {
        for (name, &home) in self.topics.iter().zip(&self.homes) {
            let uses = self.drivers.iter().map(|driver| TopicUse::of(&driver.shard.hub, name));
            let uses: Vec<Option<TopicUse>> = uses.collect();
            let remote = |is_interested: fn(&TopicUse) -> bool| -> Vec<u16> {
                let others = uses.iter().enumerate().filter(|(shard, _)| *shard != home);
                let interested = others.filter(|(_, own)| own.as_ref().is_some_and(is_interested));
                interested.map(|(shard, _)| shard as u16).collect()
            };
            let subscribed = remote(|own| own.subscribed > 0);
            assert_eq!(subscribed, remote(|own| own.is_live), "the shards with subscribers of {name} get its messages");
            assert!(remote(|own| own.is_pending).is_empty(), "every subscription to {name} is live");
            let publishing = remote(|own| own.subscribed == 0 && own.attached > 0);
            let known = uses[home].as_ref().map_or((&[][..], &[][..]), |own| (&*own.interested, &*own.remembering));
            assert_eq!(known, (&*subscribed, &*publishing), "the interest in {name} at its home");
        }
    }

    /// Checks that nothing is left of connections that have all ended.
    pub(super) fn check_leftovers(&self) {
        for (number, driver) in self.drivers.iter().enumerate() {
            let shard = &driver.shard;
            assert_eq!(shard.open(), 0, "connections of shard {number}");
            assert!(shard.sockets.iter().all(Option::is_none), "sockets of shard {number}");
            let handlers = &shard.handlers;
            let handlers = [handlers.own.len(), handlers.drained.len(), handlers.ended.len(), handlers.abandoned.len()];
            assert_eq!(shard.handlers.expiries.len(), 0, "tokens that shard {number} knows");
            assert_eq!(handlers, [0; 4], "connections that the handlers of shard {number} know");
            assert!(shard.flush.is_idle() && shard.flush.paused.is_empty(), "output of shard {number}");
            assert_eq!(shard.incoming.unfinished.bytes(), 0, "unfinished messages of shard {number}");
            assert_eq!(shard.incoming.unparsed(), 0, "connections of shard {number} with unparsed input");
            assert_eq!(shard.backlogs, BacklogSize::default(), "measured backlogs of shard {number}");
            assert!(shard.laggards.is_empty(), "laggards of shard {number}");
            assert!(shard.opening.is_empty(), "opening handshakes of shard {number}");
            assert_eq!(shard.hub.subscribed(), 0, "subscriptions of shard {number}");
            assert!(shard.joined.is_empty() && shard.commands.is_empty(), "work of shard {number}");
            let unused = TopicUse::default();
            for name in &self.topics {
                let own = TopicUse::of(&shard.hub, name).unwrap_or_default();
                assert_eq!(own, unused, "shard {number} and topic {name}");
            }
        }
    }
}
