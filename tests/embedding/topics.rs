//! Topics from handlers: several for each connection, with homes on any shard.

use ringhub::{
    Publication,
    handler::{Accept, Scope, SubscribeError, SubscribeOptions},
};

use crate::{
    Journal, Live, Script, serve,
    support::{Client, Received, text},
    topic,
};

/// Starts a server whose handler answers each command with its outcome: `sub x`, `echo x`, `unsub x`, `pub x text`,
/// `local x text`, `topics`.
fn server(shards: usize) -> (Live, Journal) {
    let (script, journal) = Script::<()>::by_message(|connection, command| {
        let words: Vec<&str> = command.splitn(3, ' ').collect();
        let answer = match words[..] {
            ["sub", name] => format!("{:?}", connection.subscribe(&topic(name), SubscribeOptions::default())),
            ["echo", name] => format!("{:?}", connection.subscribe(&topic(name), SubscribeOptions::default().echo())),
            ["unsub", name] => format!("{}", connection.unsubscribe(&topic(name))),
            ["pub", name, text] => {
                _ = connection.publish(&topic(name), Publication::text(text), Scope::Server);
                "published".into()
            }
            ["local", name, text] => {
                _ = connection.publish(&topic(name), Publication::text(text), Scope::Shard);
                "published".into()
            }
            _ => {
                let mut topics: Vec<String> = connection.topics().iter().map(ToString::to_string).collect();
                topics.sort_unstable();
                topics.join(" ")
            }
        };
        connection.send_text(format!("> {answer}"));
    });
    let script = script.on_subscribed(|connection, name| _ = connection.send_text(format!("live {name}")));
    (serve(shards, |builder| builder.route("/", script)), journal)
}

fn ask(client: &mut Client, command: &str, answer: &str) {
    client.send_text(command);
    client.expect(text(&format!("> {answer}")));
}

/// Subscribes, and waits until the subscription is live.
fn subscribe(client: &mut Client, how: &str, name: &str) {
    ask(client, &format!("{how} {name}"), "Ok(())");
    client.expect(text(&format!("live {name}")));
}

#[test]
fn subscribe_to_topics_of_any_home() {
    let (server, _journal) = server(3);
    let (mut client, mut publisher) = (server.connect("/"), server.connect("/"));
    let names: Vec<String> = (0..12).map(|number| format!("topic-{number}")).collect();
    names.iter().for_each(|name| subscribe(&mut client, "sub", name));
    let mut sorted = names.clone();
    sorted.sort_unstable();
    ask(&mut client, "topics", &sorted.join(" "));
    for name in &names {
        ask(&mut publisher, &format!("pub {name} to {name}"), "published");
        client.expect(text(&format!("to {name}")));
    }
    client.expect_nothing();
}

#[test]
fn own_messages_only_with_echo() {
    let (server, _journal) = server(3);
    let mut client = server.connect("/");
    subscribe(&mut client, "sub", "without");
    subscribe(&mut client, "echo", "with");
    ask(&mut client, "pub without 1", "published");
    client.send_text("pub with 2");
    let mut both = [client.receive(), client.receive()];
    both.sort_by_key(|received| format!("{received:?}"));
    assert_eq!(both, [text("2"), text("> published")]);
    client.expect_nothing();
}

#[test]
fn unsubscribe_ends_it() {
    let (server, _journal) = server(3);
    let (mut client, mut publisher) = (server.connect("/"), server.connect("/"));
    for name in ["a", "b", "c", "d"] {
        subscribe(&mut client, "sub", name);
        ask(&mut client, &format!("unsub {name}"), "true");
        ask(&mut client, &format!("unsub {name}"), "false");
        ask(&mut publisher, &format!("pub {name} x"), "published");
    }
    ask(&mut client, "topics", "");
    client.expect_nothing();
}

#[test]
fn subscriptions_that_are_refused() {
    let (server, _journal) = server(1);
    let mut client = server.connect("/");
    subscribe(&mut client, "sub", "a");
    ask(&mut client, "sub a", &format!("{:?}", Err::<(), _>(SubscribeError::Already)));
    // The broadcasts of the server count as a topic too.
    for number in 2..1_024 {
        subscribe(&mut client, "sub", &number.to_string());
    }
    ask(&mut client, "sub b", &format!("{:?}", Err::<(), _>(SubscribeError::TooMany)));
    ask(&mut client, "unsub a", "true");
    subscribe(&mut client, "sub", "b");
}

#[test]
fn local_scope_stays_on_the_shard() {
    let (server, _journal) = server(1);
    let (mut client, mut publisher) = (server.connect("/"), server.connect("/"));
    subscribe(&mut client, "sub", "t");
    ask(&mut publisher, "local t here", "published");
    client.expect(text("here"));
}

/// A client gets its opening answer only when its subscriptions are live.
#[test]
fn subscriptions_from_the_beginning() {
    let (script, _) = Script::<()>::new();
    let script = script.opening(|request| {
        let topics = request.query().map(|(key, value)| (topic(&key), value == "echo"));
        Ok(topics.fold(Accept::with(()), |accept, (topic, echo)| {
            let mut options = SubscribeOptions::default();
            options.has_echo = echo;
            accept.subscribe(topic, options)
        }))
    });
    let script = script.on_message(|connection, name| {
        connection.publish(&topic(name), Publication::text(name), Scope::Server);
    });
    let server = serve(3, |builder| builder.route("/", script));
    for _ in 0..10 {
        let (mut one, mut two) = (server.connect("/?a=echo&b=&c="), server.connect("/?a=&c=echo"));
        for name in ["a", "b", "c"] {
            one.send_text(name);
        }
        one.expect(text("a"));
        let mut both = [two.receive(), two.receive()];
        both.sort_by_key(|received| format!("{received:?}"));
        assert_eq!(both, [text("a"), text("c")]);
        two.send_text("c");
        one.expect(text("c"));
        two.expect(text("c"));
        one.leave();
        two.leave();
    }
}

/// For the topics of `Accept`, `on_subscribed` is called after the opening answer and `on_open`, and before any message
/// of the topic, wherever the topic's home is.
#[test]
fn subscriptions_of_accept_go_live_after_the_opening() {
    for shards in [1, 3] {
        let (script, journal) = Script::<()>::new();
        let script = script.opening(|_| {
            Ok(["a", "b", "c", "d"].iter().fold(Accept::with(()), |accept, name| {
                accept.subscribe(topic(name), SubscribeOptions::default().echo())
            }))
        });
        let script = script.on_open(|connection| _ = connection.send_text("open"));
        let script = script.on_subscribed(|connection, name| {
            _ = connection.send_text(format!("live {name}"));
            connection.publish(name, Publication::text(&format!("to {name}")), Scope::Server);
        });
        let server = serve(shards, |builder| builder.route("/", script));
        for _ in 0..8 {
            let mut client = server.connect("/");
            client.expect(text("open"));
            let mut next = |_| match client.receive() {
                Received::Text(text) => text,
                other => panic!("{other:?} is no text"),
            };
            let mut told: Vec<String> = (0..8).map(&mut next).collect();
            for name in ["a", "b", "c", "d"] {
                let at = |wanted: String| told.iter().position(|text| *text == wanted);
                assert!(at(format!("live {name}")) < at(format!("to {name}")), "{told:?}");
            }
            told.sort_unstable();
            told.dedup();
            assert_eq!(told.len(), 8, "{told:?}");
            client.leave();
        }
        drop(journal);
    }
}

/// A handler may still publish in `on_close`.
#[test]
fn a_goodbye_at_the_end() {
    let (script, journal) = Script::<()>::new();
    let script = script.opening(|_| Ok(Accept::with(()).subscribe(topic("all"), SubscribeOptions::default().echo())));
    let script = script.on_close(|connection, closed| {
        assert!(!connection.send_text("too late").is_accepted());
        assert_eq!(connection.subscribe(&topic("other"), SubscribeOptions::default()), Err(SubscribeError::NotOpen));
        let goodbye = Publication::text(&closed.reason);
        connection.publish(&topic("all"), &goodbye, Scope::Server);
        connection.broadcast(Some(connection.id()), &goodbye, Scope::Server);
        connection.broadcast(None, &goodbye, Scope::Shard);
    });
    let server = serve(1, |builder| builder.route("/", script));
    let (mut one, two) = (server.connect("/"), server.connect("/"));
    two.leave();
    for _ in 0..3 {
        one.expect(text("bye"));
    }
    one.expect_nothing();
    drop(journal);
}

/// The messages of a client go to a topic without a call of its handler.
#[test]
fn forward_publishes_for_the_client() {
    let (script, journal) = Script::<()>::new();
    let script = script.opening(|_| {
        Ok(Accept::with(()).subscribe(topic("all"), SubscribeOptions::default()).forward(topic("all"), Scope::Server))
    });
    let server = serve(3, |builder| builder.route("/", script));
    let (mut one, mut two) = (server.connect("/"), server.connect("/"));
    one.send_text("from one");
    two.expect(text("from one"));
    two.send_binary(&[7; 100_000]);
    one.expect(crate::support::binary(&[7; 100_000]));
    one.leave();
    two.leave();
    let told = journal.rest(server);
    assert!(!told.iter().any(|entry| entry.contains("text") || entry.contains("binary")), "{told:?}");
}
