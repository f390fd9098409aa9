//! The rates of messages that are published by HTTP, for each address, identity and token.

use std::collections::BTreeSet;

use crate::{
    auth::{Credentials, Identity},
    clock::Clock,
    config::Config,
    metrics::{Counter, Counters},
    proto::Refusal,
    rates::{AddressBlock, PublishRates, Rate, RateTable, over_rate},
};

/// The buckets of all addresses, identities and tokens that publish by HTTP.
#[derive(Debug)]
pub(super) struct PublishBuckets {
    clock: Clock,
    of_addresses: RateTable,
    of_identities: RateTable,
    of_tokens: RateTable,
}

/// A rate that holds for a message, with the bucket that the message is taken out of.
struct Held<'a> {
    rate: Rate,
    table: &'a RateTable,
    key: Key<'a>,
    counter: Counter,
    /// The name of the setting.
    setting: &'static str,
}

/// A sender of messages, by one of its properties.
#[derive(Hash)]
enum Key<'a> {
    Address(AddressBlock),
    Identity(&'a str),
    Token(&'a [u8]),
}

impl PublishBuckets {
    pub(super) fn new(clock: Clock) -> PublishBuckets {
        let table = RateTable::default;
        PublishBuckets { clock, of_addresses: table(), of_identities: table(), of_tokens: table() }
    }

    /// Returns the bytes of memory of all buckets.
    pub(super) fn bytes(&self) -> usize {
        [&self.of_addresses, &self.of_identities, &self.of_tokens].map(RateTable::bytes).iter().sum()
    }

    /// Counts a message that a request publishes against the rates of its sender. Each of the sender's `identities`
    /// counts by its name, but not the networks among them: their names stand for many senders. A refused message
    /// counts against no rate, so a sender that has used up its own uses up no rate of others behind the same address,
    /// or of others with one of its names.
    ///
    /// # Errors
    ///
    /// 429 (RFC 6585 4) with the time after which the sender may publish again.
    pub(super) fn count<'a>(
        &self,
        config: &Config,
        sender: &Credentials<'_>,
        identities: impl Iterator<Item = &'a Identity>,
        counters: &Counters,
    ) -> Result<(), Refusal> {
        let rates = &config.http.publish_rates;
        if *rates == PublishRates::default() {
            return Ok(());
        }
        let (now, token) = (self.clock.now(), sender.token());
        // An address of a trusted proxy stands for many clients.
        let address = sender.address().filter(|&address| !config.trusted_proxies.include(address));
        let of_address = rates.of_address.zip(address).map(|(rate, address)| Held {
            rate,
            table: &self.of_addresses,
            key: Key::Address(AddressBlock::of(address)),
            counter: Counter::LimitedPublishesOfAddress,
            setting: "max_publish_rate_per_address",
        });
        let of_identity = |rate| {
            // Two authenticators may find the same name, which has one bucket.
            let names: BTreeSet<&str> =
                identities.filter(|identity| !identity.is_network).map(|identity| &*identity.name).collect();
            names.into_iter().map(move |name| Held {
                rate,
                table: &self.of_identities,
                key: Key::Identity(name),
                counter: Counter::LimitedPublishesOfIdentity,
                setting: "max_publish_rate_per_identity",
            })
        };
        let of_token = rates.of_token.zip(token.as_deref()).map(|(rate, token)| Held {
            rate,
            table: &self.of_tokens,
            key: Key::Token(token),
            counter: Counter::LimitedPublishesOfToken,
            setting: "max_publish_rate_per_token",
        });
        let of_identities = rates.of_identity.map(of_identity).into_iter().flatten();
        let all: Vec<Held<'_>> = of_address.into_iter().chain(of_identities).chain(of_token).collect();
        for Held { rate, table, key, counter, setting } in &all {
            if let Some(due) = table.due(rate, key, now) {
                counters.add(*counter, 1);
                return Err(over_rate(format!("more messages than {setting} allows"), now, due));
            }
        }
        for Held { rate, table, key, .. } in &all {
            // Each bucket had room a moment ago, and only this thread takes out of them.
            _ = table.take(rate, key, now);
        }
        Ok(())
    }
}
