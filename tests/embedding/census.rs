//! Looks at the connections and topics of a server, closes by identity, revocations, and subscriptions from outside.

use std::time::{Duration, SystemTime};

use ringhub::{
    CloseCode, ConnectionFilter, ConnectionId, ConnectionPage, Hub, Identity, Publication, SubscribeOptions, Who,
    auth::{Bearer, RevocationError},
    handler::{Accept, RouteOptions, SubscribeError},
    server::HubError,
};

use crate::{
    Live, Script, builder, serve,
    support::{Client, Received, dial, text},
    topic,
};

/// Starts a server whose handler names each client by `?name=`, and subscribes it to `?topic=`.
fn named(shards: usize) -> Live {
    let script = Script::<()>::new().0.opening(|request| {
        let mut accept = Accept::default();
        if let Some(name) = request.query_value("name") {
            accept = accept.identity(Identity::new(name));
        }
        Ok(match request.query_value("topic") {
            Some(name) => accept.subscribe(topic(&name), SubscribeOptions::default()),
            None => accept,
        })
    });
    let script = script.on_subscribed(|connection, name| _ = connection.send_text(format!("live {name}")));
    serve(shards, |builder| builder.route("/{room}", script))
}

fn page(hub: &Hub, filter: ConnectionFilter) -> ConnectionPage {
    Hub::wait(hub.connection_page(&filter, None, 1_000)).unwrap()
}

fn tomorrow() -> SystemTime {
    SystemTime::now() + Duration::from_secs(24 * 3_600)
}

#[test]
fn connections_are_found_by_identity_and_topic() {
    let server = named(3);
    let hub = server.hub();
    assert_eq!(page(&hub, ConnectionFilter::default()), ConnectionPage::default());
    let mut ann: Vec<Client> = (0..20).map(|_| server.connect("/lobby?name=ann&topic=news")).collect();
    let mut bob = server.connect("/lobby?name=bob&topic=news");
    ann.iter_mut().chain([&mut bob]).for_each(|client| client.expect(text("live news")));
    let _stranger = server.connect("/cellar");
    let all = page(&hub, ConnectionFilter::default());
    assert_eq!((all.connections.len(), all.next), (22, None));
    assert_eq!(page(&hub, ConnectionFilter::default().topic(topic("news"))).connections.len(), 21);
    assert_eq!(page(&hub, ConnectionFilter::default().identity("ann")).connections.len(), 20);
    let of_bob = page(&hub, ConnectionFilter::default().identity("bob").topic(topic("news")));
    let [summary] = &of_bob.connections[..] else { panic!("{of_bob:?}") };
    assert_eq!(summary.address, Some(bob.stream().local_addr().unwrap()));
    assert_eq!((&*summary.route, summary.path.as_deref()), ("/{room}", Some("/lobby")));
    assert_eq!((&*summary.topics, summary.topic_count), (&[topic("news")][..], 1), "broadcasts are no topic");
    assert!(page(&hub, ConnectionFilter::default().identity("eve")).connections.is_empty());
    // By small pages.
    let (mut found, mut after) = (Vec::<ConnectionId>::new(), None);
    loop {
        let part = Hub::wait(hub.connection_page(&ConnectionFilter::default(), after, 5)).unwrap();
        assert!(part.connections.len() <= 5);
        found.extend(part.connections.iter().map(|summary| summary.id));
        let Some(next) = part.next else { break };
        after = Some(next);
    }
    assert_eq!(found, all.connections.iter().map(|summary| summary.id).collect::<Vec<_>>());
    let closed = Hub::wait(hub.disconnect_identity("ann", CloseCode(4000), "out"));
    assert_eq!(closed, Ok(20));
    ann.iter_mut().for_each(|client| client.expect_close(4000, "out"));
    let refused = Hub::wait(hub.disconnect_identity("ann", CloseCode(1006), ""));
    assert!(matches!(refused, Err(HubError::Close(_))), "{refused:?}");
    bob.expect_nothing();
}

#[test]
fn topics_have_counts_of_all_shards() {
    let server = named(3);
    let hub = server.hub();
    let mut clients = Vec::new();
    for number in 0..40 {
        clients.extend((0..=number % 3).map(|_| server.connect(&format!("/x?topic=topic-{number}"))));
    }
    for most in [1_000, 7] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = Hub::wait(hub.topics(after, most)).unwrap();
            found.extend(page.topics);
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        found.sort_by(|one, other| one.topic.cmp(&other.topic));
        let mut expected: Vec<_> = (0..40).map(|number| (topic(&format!("topic-{number}")), number % 3 + 1)).collect();
        expected.sort();
        let found: Vec<_> = found.into_iter().map(|summary| (summary.topic, summary.subscribers)).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(Hub::wait(hub.subscribers(&topic("topic-2"))), Ok(3));
    assert_eq!(Hub::wait(hub.subscribers(&topic("unknown"))), Ok(0));
    clients.into_iter().for_each(Client::leave);
    crate::until("all have left", || {
        Hub::wait(hub.topics(None, 1_000)).unwrap().topics.is_empty()
            && Hub::wait(hub.subscribers(&topic("topic-2"))) == Ok(0)
    });
}

/// A client of `ringhub.v1` is told of a subscription that the program has ended, after the last message of the topic,
/// and can make it again.
#[test]
fn a_client_is_told_of_a_subscription_that_the_program_has_ended() {
    let server = Live::start(builder(1).topics());
    let hub = server.hub();
    let mut client = Client::open_with(dial(server.address), "/ws", &["ringhub.v1"], &[]).unwrap();
    let subscribe = |client: &mut Client| {
        client.send_text(r#"{"subscribe":{"id":1,"topic":"news"}}"#);
        let received = client.receive();
        assert!(matches!(&received, Received::Text(text) if text.contains("subscribed\":{\"id\":1,")), "{received:?}");
    };
    subscribe(&mut client);
    let id = page(&hub, ConnectionFilter::default()).connections[0].id;
    Hub::wait(hub.publish(&topic("news"), Publication::text("last"))).unwrap();
    assert_eq!(Hub::wait(hub.unsubscribe_connection(id, &topic("news"))), Ok(true));
    Hub::wait(hub.publish(&topic("news"), Publication::text("not for you"))).unwrap();
    let last = client.receive();
    assert!(matches!(&last, Received::Text(text) if text.contains("\"data\":\"last\"")), "{last:?}");
    client.expect(text(
        "{\"unsubscribed\":{\"topic\":\"news\",\"code\":117,\"name\":\"ended\",\"reason\":\"the server has ended the \
         subscription to news\",\"temporary\":false}}",
    ));
    client.send_text(r#"{"unsubscribe":{"id":2,"topic":"news"}}"#);
    let refused = client.receive();
    assert!(matches!(&refused, Received::Text(text) if text.contains("not_subscribed")), "{refused:?}");
    subscribe(&mut client);
}

/// A handler is told of the subscriptions that the program has ended, and not of those that it has ended itself.
#[test]
fn a_handler_is_told_of_a_subscription_that_the_program_has_ended() {
    let (script, journal) = Script::<()>::by_message(|connection, _| {
        assert!(connection.is_subscribed(&topic("own")) && connection.unsubscribe(&topic("own")));
        connection.send_text(format!("left, {}", connection.is_subscribed(&topic("own"))));
    });
    let script = script
        .opening(|_| Ok(Accept::default().subscribe(topic("own"), SubscribeOptions::default())))
        .on_subscribed(|connection, name| _ = connection.send_text(format!("live {name}")))
        .on_unsubscribed(|connection, _| {
            // A subscription that is made in this call is reported after the call.
            connection.subscribe(&topic("next"), SubscribeOptions::default()).unwrap();
        });
    let server = serve(1, |builder| builder.route("/", script));
    let (hub, mut client) = (server.hub(), server.connect("/"));
    client.expect(text("live own"));
    let id = page(&hub, ConnectionFilter::default()).connections[0].id;
    assert_eq!(Hub::wait(hub.unsubscribe_connection(id, &topic("own"))), Ok(true));
    client.expect(text("live next"));
    assert_eq!(Hub::wait(hub.unsubscribe_connection(id, &topic("own"))), Ok(false));
    Hub::wait(hub.subscribe_connection(id, &topic("own"), SubscribeOptions::default())).unwrap();
    client.expect(text("live own"));
    client.send_text("leave");
    client.expect(text("left, false"));
    journal.expect(&["open", "subscribed own", "unsubscribed own", "subscribed next", "subscribed own", "text leave"]);
    client.leave();
    journal.expect_at_the_end(server, &["close 1000 \"bye\" clean"]);
}

/// A program that serves `/ws` by a pattern keeps this path.
#[test]
fn a_pattern_of_the_program_keeps_the_path_of_many_topics() {
    let (echo, _) = Script::<()>::by_message(|connection, text| _ = connection.send_text(text));
    let server = serve(1, |builder| builder.topics().route("/{room}", echo));
    let mut client = server.connect("/ws");
    client.send_text("hello");
    client.expect(text("hello"));
}

/// A topic with its home on any shard: when the call returns, the subscription is live.
#[test]
fn connections_are_subscribed_from_outside() {
    let server = named(3);
    let hub = server.hub();
    let mut clients = server.connect_to_all("/x", 1);
    let page = page(&hub, ConnectionFilter::default());
    let options = SubscribeOptions::default();
    for client in &mut clients {
        let own = client.stream().local_addr().unwrap();
        let id = page.connections.iter().find(|summary| summary.address == Some(own)).unwrap().id;
        for number in 0..6 {
            let name = format!("topic-{number}");
            let subscribe = || Hub::wait(hub.subscribe_connection(id, &topic(&name), options));
            assert_eq!(subscribe(), Ok(()));
            assert_eq!(subscribe(), Err(HubError::Subscribe(SubscribeError::Already)));
            Hub::wait(hub.publish(&topic(&name), Publication::text(&name))).unwrap();
            client.expect(text(&format!("live {name}")));
            client.expect(text(&name));
            let unsubscribe = || Hub::wait(hub.unsubscribe_connection(id, &topic(&name)));
            assert_eq!((unsubscribe(), unsubscribe()), (Ok(true), Ok(false)));
            Hub::wait(hub.publish(&topic(&name), Publication::text("not for you"))).unwrap();
        }
        client.expect_nothing();
    }
    let id = page.connections[0].id;
    let id_of_nobody = ConnectionId::new(id.shard(), 9_999, 0);
    let absent = Hub::wait(hub.subscribe_connection(id_of_nobody, &topic("x"), options));
    assert_eq!(absent, Err(HubError::NoConnection(id_of_nobody)));
    // Broadcasts are a subscription too.
    for number in 0..1_023 {
        Hub::wait(hub.subscribe_connection(id, &topic(&format!("many-{number}")), options)).unwrap();
    }
    let one_more = Hub::wait(hub.subscribe_connection(id, &topic("one-more"), options));
    assert_eq!(one_more, Err(HubError::Subscribe(SubscribeError::TooMany)));
}

/// A revocation holds for identities of authenticators and of handlers, and closes who is there.
#[test]
fn revoked_identities_stay_out() {
    let server = named(2);
    let hub = server.hub();
    let mut ann: Vec<Client> = (0..10).map(|_| server.connect("/x?name=ann")).collect();
    let mut bob = server.connect("/x?name=bob");
    assert_eq!(Hub::wait(hub.revoke(&Who::identity("ann"), tomorrow())), Ok(10));
    ann.iter_mut().for_each(|client| client.expect_close(1008, "revoked"));
    let refused = server.open("/x?name=ann", &[], &[]).map(drop).unwrap_err();
    assert_eq!(refused.status(), 403, "{refused:?}");
    bob.expect_nothing();
    assert_eq!(hub.revocations(None, 9).len(), 1);
    assert!(hub.lift(&Who::identity("ann")) && !hub.lift(&Who::identity("ann")));
    server.connect("/x?name=ann").leave();
    let over = Hub::wait(hub.revoke(&Who::identity("ann"), SystemTime::now()));
    assert_eq!(over, Err(HubError::Revocation(RevocationError::Over)));
}

/// The hub of a server that has not started finds nobody, and revokes nevertheless.
#[test]
fn a_revocation_before_the_start_holds() {
    let options = RouteOptions::new().authenticator(Bearer::new([("ann", "word")]).unwrap());
    let builder = crate::builder(1).route_with("/", Script::<()>::new().0, options);
    let hub = builder.hub();
    assert_eq!(Hub::wait(hub.revoke(&Who::identity("ann"), tomorrow())), Ok(0));
    assert_eq!(page(&hub, ConnectionFilter::default()), ConnectionPage::default());
    assert!(Hub::wait(hub.topics(None, 5)).unwrap().topics.is_empty());
    let server = Live::start(builder);
    let refused = server.open("/", &[], &[("Authorization", "Bearer word")]).map(drop).unwrap_err();
    assert_eq!(refused.status(), 403);
}
