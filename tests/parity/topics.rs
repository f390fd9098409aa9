//! Topics from handlers: several for each connection, on whichever shard they are at home.

use ringhub::{
    handler::{Accept, Scope, SubscribeError},
    proto::PreparedMessage,
};

use crate::{
    Journal, Live, Script, serve,
    support::{Client, Received, text},
    topic,
};

/// `sub x`, `echo x`, `unsub x`, `pub x text`, `local x text`, `topics`: each is answered with what it came to.
fn server(shards: usize) -> (Live, Journal) {
    let (script, journal) = Script::<()>::by_message(|connection, command| {
        let words: Vec<&str> = command.splitn(3, ' ').collect();
        let answer = match words[..] {
            ["sub", name] => format!("{:?}", connection.subscribe(&topic(name), false)),
            ["echo", name] => format!("{:?}", connection.subscribe(&topic(name), true)),
            ["unsub", name] => format!("{}", connection.unsubscribe(&topic(name))),
            ["pub", name, text] => {
                _ = connection.publish(&topic(name), &PreparedMessage::text(text), Scope::Global);
                "published".into()
            }
            ["local", name, text] => {
                _ = connection.publish(&topic(name), &PreparedMessage::text(text), Scope::Local);
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

/// Subscribes, and waits until that is live. Returns whether it had to wait.
fn subscribe(client: &mut Client, how: &str, name: &str) -> bool {
    client.send_text(&format!("{how} {name}"));
    match client.receive() {
        Received::Text(answer) if answer == "> Ok(true)" => false,
        Received::Text(answer) if answer == "> Ok(false)" => {
            client.expect(text(&format!("live {name}")));
            true
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn subscribe_to_topics_of_any_home() {
    let (server, _journal) = server(3);
    let (mut client, mut publisher) = (server.connect("/"), server.connect("/"));
    let names: Vec<String> = (0..12).map(|number| format!("topic-{number}")).collect();
    let waited = names.iter().filter(|name| subscribe(&mut client, "sub", name)).count();
    assert!(waited > 0 && waited < names.len(), "{waited} homes are elsewhere");
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
    ask(&mut client, "sub a", "Ok(true)");
    ask(&mut client, "sub a", &format!("{:?}", Err::<bool, _>(SubscribeError::Already)));
    // The broadcasts of the server count too.
    for number in 2..1_024 {
        ask(&mut client, &format!("sub {number}"), "Ok(true)");
    }
    ask(&mut client, "sub b", &format!("{:?}", Err::<bool, _>(SubscribeError::TooMany)));
    ask(&mut client, "unsub a", "true");
    ask(&mut client, "sub b", "Ok(true)");
}

#[test]
fn local_scope_stays_on_the_shard() {
    let (server, _journal) = server(1);
    let (mut client, mut publisher) = (server.connect("/"), server.connect("/"));
    subscribe(&mut client, "sub", "t");
    ask(&mut publisher, "local t here", "published");
    client.expect(text("here"));
}

/// The client is told that it is connected when it sees everything.
#[test]
fn subscriptions_from_the_beginning() {
    let (script, _) = Script::<()>::new();
    let script = script.opening(|request| {
        let topics = request.query().map(|(key, value)| (topic(&key), value == "echo"));
        Ok(topics.fold(Accept::with(()), |accept, (topic, echo)| accept.subscribe(topic, echo)))
    });
    let script = script.on_message(|connection, name| {
        connection.publish(&topic(name), &PreparedMessage::text(name), Scope::Global);
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

/// Who has ended may still tell the others.
#[test]
fn a_goodbye_at_the_end() {
    let (script, journal) = Script::<()>::new();
    let script = script.opening(|_| Ok(Accept::with(()).subscribe(topic("all"), true)));
    let script = script.on_close(|connection, closed| {
        assert!(!connection.send_text("too late").is_accepted());
        assert_eq!(connection.subscribe(&topic("other"), false), Err(SubscribeError::NotOpen));
        let goodbye = PreparedMessage::text(&closed.reason);
        connection.publish(&topic("all"), &goodbye, Scope::Global);
        connection.broadcast(Some(connection.id()), &goodbye, Scope::Global);
        connection.broadcast(None, &goodbye, Scope::Local);
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

/// What the client sends goes to a topic, and its handler is not asked.
#[test]
fn forward_publishes_for_the_client() {
    let (script, journal) = Script::<()>::new();
    let script =
        script.opening(|_| Ok(Accept::with(()).subscribe(topic("all"), false).forward(topic("all"), Scope::Global)));
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
