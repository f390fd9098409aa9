//! Broadcasts, with the cases of Kore's `broadcast(source or none, op, data, local or global)`.

use ringhub::{
    Publication,
    handler::{ConnectionId, Scope},
    server::Hub,
};

use crate::{
    Live, Script, serve,
    support::{Client, Received, text},
};

/// Starts a server whose handler broadcasts by command: `all x`, `others x`, `shard x`, `others-of-shard x`. It answers
/// `id` with the connection's id.
fn broadcasting(shards: usize) -> Live {
    let (script, _) = Script::<()>::by_message(|connection, text| {
        let (to, message) = text.split_once(' ').unwrap_or((text, ""));
        let message = Publication::text(message);
        let id = connection.id();
        match to {
            "all" => connection.broadcast(None, &message, Scope::Server),
            "others" => connection.broadcast(Some(id), &message, Scope::Server),
            "shard" => connection.broadcast(None, &message, Scope::Shard),
            "others-of-shard" => connection.broadcast(Some(id), &message, Scope::Shard),
            "id" => _ = connection.send_json(&(id.shard(), id.slot(), id.generation())).unwrap(),
            _ => unreachable!("{text}"),
        }
    });
    serve(shards, |builder| builder.route("/", script))
}

fn id(client: &mut Client) -> ConnectionId {
    client.send_text("id");
    let Received::Text(id) = client.receive() else { panic!("no id") };
    let (shard, slot, generation) = serde_json::from_str(&id).unwrap();
    ConnectionId::new(shard, slot, generation)
}

/// Lets `sender` broadcast, and checks that exactly the clients for which `gets` holds get the message, once.
fn check(server: &Live, clients: &mut [Client], sender: usize, how: &str, gets: impl Fn(usize, ConnectionId) -> bool) {
    let ids: Vec<ConnectionId> = clients.iter_mut().map(id).collect();
    clients[sender].send_text(&format!("{how} news"));
    let to_all = |message: &str| Hub::wait(server.hub().send_all(Publication::text(message))).unwrap();
    // The hub's broadcast may reach the home of broadcasts before the client's broadcast.
    to_all("meanwhile");
    for (at, client) in clients.iter_mut().enumerate() {
        let mut expected = vec![text("meanwhile")];
        expected.extend(gets(at, ids[at]).then(|| text("news")));
        while !expected.is_empty() {
            let received = client.receive();
            let found = expected.iter().position(|expected| *expected == received);
            expected.remove(found.unwrap_or_else(|| panic!("{how}: {received:?} for client {at}")));
        }
    }
    to_all("end");
    clients.iter_mut().for_each(|client| client.expect(text("end")));
    clients.iter_mut().for_each(Client::expect_nothing);
}

#[test]
fn broadcast_reaches_everybody_exactly_once() {
    for shards in [1, 3] {
        let server = broadcasting(shards);
        let mut clients = server.connect_to_all("/", 3);
        for sender in 0..clients.len() {
            check(&server, &mut clients, sender, "all", |_, _| true);
        }
    }
}

#[test]
fn broadcast_skips_the_source_exactly_once() {
    for shards in [1, 3] {
        let server = broadcasting(shards);
        let mut clients = server.connect_to_all("/", 3);
        for sender in 0..clients.len() {
            check(&server, &mut clients, sender, "others", |at, _| at != sender);
        }
    }
}

#[test]
fn kore_local_broadcast_stays_on_the_shard() {
    let server = broadcasting(3);
    let mut clients = server.connect_to_all("/", 3);
    for sender in 0..clients.len() {
        let shard = id(&mut clients[sender]).shard();
        check(&server, &mut clients, sender, "shard", |_, id| id.shard() == shard);
        check(&server, &mut clients, sender, "others-of-shard", |at, id| at != sender && id.shard() == shard);
    }
}

/// Many clients and the hub broadcast at once. All clients see one order, in which only their own messages are missing.
#[test]
fn broadcasts_have_one_order_for_all() {
    let server = broadcasting(3);
    let mut clients = server.connect_to_all("/", 3);
    let ids: Vec<ConnectionId> = clients.iter_mut().map(id).collect();
    let hub = server.hub();
    let from_hub = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            Hub::wait(hub.send_all(Publication::text(&format!("hub {number}")))).unwrap();
        }
    });
    for number in 0..MESSAGES {
        for (at, client) in clients.iter_mut().enumerate().skip(1) {
            client.send_text(&format!("others {at} {number}"));
        }
    }
    from_hub.join().unwrap();
    let mut take = |at: usize, count: usize| -> Vec<String> {
        let next = |_| match clients[at].receive() {
            Received::Text(text) => text,
            other => panic!("{other:?}"),
        };
        (0..count).map(next).collect()
    };
    // The first client has sent nothing, so it sees all messages.
    let all = take(0, MESSAGES * ids.len());
    for at in 1..ids.len() {
        let own = format!("{at} ");
        let others: Vec<&String> = all.iter().filter(|text| !text.starts_with(&own)).collect();
        assert_eq!(others.len(), MESSAGES * (ids.len() - 1));
        let seen = take(at, others.len());
        assert!(seen.iter().eq(others), "client {at} sees another order");
    }
    clients.iter_mut().for_each(Client::expect_nothing);
}

#[test]
fn kore_the_hub_skips_a_source_on_every_shard() {
    let server = broadcasting(3);
    let mut clients = server.connect_to_all("/", 1);
    let ids: Vec<ConnectionId> = clients.iter_mut().map(id).collect();
    for (source, source_id) in ids.iter().enumerate() {
        Hub::wait(server.hub().broadcast(Some(*source_id), Publication::text("news"))).unwrap();
        Hub::wait(server.hub().send_all(Publication::text("end"))).unwrap();
        for (at, client) in clients.iter_mut().enumerate() {
            if at != source {
                client.expect(text("news"));
            }
            client.expect(text("end"));
        }
    }
}

const MESSAGES: usize = 50;
