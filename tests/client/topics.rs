//! `TopicClient` against the hub.

use ringhub::client::{
    ClientEvent, NoTopicReceipt, Payload, PublishOptions, Reconnect, TopicClient, TopicError, TopicEvent, TopicEvents,
    TopicMessage, TopicOptions, TopicPlace, TopicPublished, TopicReceipt,
};
use tokio::sync::mpsc;

use crate::{
    client, on_tokio,
    support::{Server, exchange, post},
};

/// Builds a client of a server, and reads its events in a task of their own.
async fn connect(server: &Server, target: &str) -> (TopicClient, mpsc::UnboundedReceiver<TopicEvent>) {
    let builder = client(&format!("ws://{}{target}", server.address())).reconnect(Reconnect::default());
    let (client, events) = TopicClient::new(builder).unwrap();
    client.connect().await.unwrap();
    (client, read(events))
}

pub(crate) fn read(mut events: TopicEvents) -> mpsc::UnboundedReceiver<TopicEvent> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn message(events: &mut mpsc::UnboundedReceiver<TopicEvent>) -> TopicMessage {
    match events.recv().await {
        Some(TopicEvent::Message(message)) => message,
        other => panic!("{other:?} instead of a message"),
    }
}

/// The client takes the largest message of a server with the default settings in its largest form.
#[test]
fn a_message_may_grow_on_its_way() {
    let server = Server::start(&[]);
    on_tokio(async {
        let (reader, mut events) = connect(&server, "/ws").await;
        reader.subscribe("news").await.unwrap();
        let body = "\u{1}".repeat(1 << 20);
        assert_eq!(exchange(server.address(), &post("/t/news", "text/plain", &body)).status(), 202);
        assert!(matches!(message(&mut events).await.payload, Payload::Text(text) if text == body));
    });
}

#[test]
fn a_client_has_many_topics() {
    let server = Server::start(&[]);
    on_tokio(async {
        let (reader, mut events) = connect(&server, "/ws").await;
        let (writer, _others) = connect(&server, "/ws").await;
        let place = reader.subscribe("news").await.unwrap().unwrap();
        assert_eq!(place.offset, 0);
        reader.subscribe_with_echo("own").await.unwrap();
        let json = Payload::json(&[1, 2]).unwrap();
        for (number, payload) in
            [Payload::Text("one".into()), json, Payload::Binary(vec![0xff].into())].iter().enumerate()
        {
            let placed = writer.publish("news", payload).await.unwrap();
            assert_eq!((placed.epoch, placed.offset), (place.epoch, number as u64 + 1));
            let found = message(&mut events).await;
            assert_eq!((&*found.topic, found.place), ("news", Some(placed)));
            match (found.payload, payload) {
                (Payload::Text(found), Payload::Text(sent)) => assert_eq!(&found, sent),
                (Payload::Json(found), Payload::Json(sent)) => assert_eq!(found.get(), sent.get()),
                (Payload::Binary(found), Payload::Binary(sent)) => assert_eq!(&found, sent),
                (found, sent) => panic!("{found:?} instead of {sent:?}"),
            }
        }
        reader.publish("own", &Payload::Text("mine".into())).await.unwrap();
        assert_eq!(message(&mut events).await.topic, "own");
        let error = reader.subscribe("news").await.unwrap_err();
        assert!(matches!(&error, TopicError::Refused(error) if error.name == "already_subscribed"), "{error}");
        reader.unsubscribe("news").await.unwrap();
        let error = reader.unsubscribe("news").await.unwrap_err();
        assert_eq!(error.to_string(), "the connection is no subscriber of news (111 not_subscribed)");
        let error = reader.refresh("token").await.unwrap_err();
        assert!(matches!(&error, TopicError::Refused(error) if error.code == 123 && !error.is_temporary), "{error}");
        reader.ping().await.unwrap();
        exchange(server.address(), &post("/t/own", "application/json", "null"));
        assert!(matches!(message(&mut events).await.payload, Payload::Json(json) if json.get() == "null"));
    });
}

/// The server gets all that the client says about a message, and the client gets what the server tells of it.
#[test]
fn a_message_with_an_event_a_key_an_id_and_a_receipt() {
    let server = Server::start(&["--shards", "2"]);
    on_tokio(async {
        let (reader, mut events) = connect(&server, "/ws").await;
        let (writer, _others) = connect(&server, "/ws").await;
        reader.subscribe("orders").await.unwrap();
        let paid = Payload::Text("paid".into());
        let options = PublishOptions::new().event("state").key("17").id("first").receipt(true);
        let placed = writer.publish_with("orders", &paid, &options).await.unwrap();
        assert_eq!((placed.place.offset, counts(&placed)), (1, [1, 1, 0, 0, 0]));
        let found = message(&mut events).await;
        assert_eq!((found.place, found.event.as_deref()), (Some(placed.place), Some("state")));
        // A repetition has the answer of the first, with its receipt.
        for again in [options, options.receipt(false)] {
            assert_eq!(writer.publish_with("orders", &paid, &again).await.unwrap(), placed);
        }
        let refused = |answer: Result<TopicPublished, TopicError>| match answer {
            Err(TopicError::Refused(error)) => error.name,
            other => panic!("{other:?}"),
        };
        // The event and the key belong to the contents.
        for other in [options.event("other"), options.key("18")] {
            assert_eq!(refused(writer.publish_with("orders", &paid, &other).await), "other_contents");
        }
        for wrong in [PublishOptions::new().event(""), PublishOptions::new().key("\n"), PublishOptions::new().id("")] {
            assert_eq!(refused(writer.publish_with("orders", &paid, &wrong).await), "bad_member");
        }
        // The first publisher of this id has asked for no receipt.
        let options = PublishOptions::new().id("second");
        let second = writer.publish_with("orders", &paid, &options).await.unwrap();
        assert_eq!((second.place.offset, &second.receipt), (2, &None));
        let again = writer.publish_with("orders", &paid, &options.receipt(true)).await.unwrap();
        let Some(Err(NoTopicReceipt { name, .. })) = again.receipt else { panic!("{again:?}") };
        assert_eq!((again.place, &*name), (second.place, "not_asked"));
        // The client's own message is not for itself, unless it has subscribed with echo.
        let receipt = PublishOptions::new().receipt(true);
        assert_eq!(counts(&reader.publish_with("orders", &paid, &receipt).await.unwrap())[0], 0);
        writer.subscribe_with_echo("orders").await.unwrap();
        assert_eq!(counts(&writer.publish_with("orders", &paid, &receipt).await.unwrap())[0], 2);
        for offset in [2, 4] {
            assert_eq!(message(&mut events).await.place.unwrap().offset, offset);
        }
    });
}

/// Returns the numbers of a receipt: matched, sent, queued, dropped, closed.
#[track_caller]
fn counts(placed: &TopicPublished) -> [u32; 5] {
    match &placed.receipt {
        Some(Ok(TopicReceipt { matched, sent, queued, dropped, closed, .. })) => {
            [*matched, *sent, *queued, *dropped, *closed]
        }
        other => panic!("{other:?} instead of a receipt"),
    }
}

/// Closes the one connection of a server with a code after which the client opens a connection again.
fn cut(server: &Server) {
    let ask = |request: &str| {
        let lines = "Host: x\r\nAuthorization: Bearer boss-of-this-server\r\nConnection: close\r\nContent-Length: 0";
        exchange(server.address(), &format!("{request} HTTP/1.1\r\n{lines}\r\n\r\n")).body
    };
    let list: serde_json::Value = serde_json::from_str(&ask("GET /connections")).unwrap();
    let id = list["connections"][0]["id"].as_str().unwrap();
    assert_eq!(ask(&format!("DELETE /connections/{id}?code=1012")), "{\"closed\":1}\n");
}

/// With a history, a client that is cut again and again has each message once.
#[test]
fn a_client_resumes() {
    let file = std::env::temp_dir().join(format!("ringhub-client-resumes-{}.toml", std::process::id()));
    std::fs::write(&file, "[[topics]]\nmatch = \"kept\"\nhistory_messages = 10\n").unwrap();
    let config = file.to_str().unwrap();
    let server = Server::start(&["--admin-tokens", "boss-of-this-server", "--config", config]);
    let publish = |number: u64| {
        assert_eq!(exchange(server.address(), &post("/t/kept", "text/plain", &number.to_string())).status(), 202);
    };
    on_tokio(async {
        (1..=20).for_each(publish);
        let (client, mut events) = connect(&server, "/ws").await;
        let subscribed = client.subscribe_with("kept", TopicOptions::new().last(3)).await.unwrap();
        assert_eq!((subscribed.place.map(|place| place.offset), subscribed.recovered), (Some(17), Some(true)));
        let mut expected = 18;
        for round in 0..4 {
            while expected <= 20 + 5 * round {
                let message = message(&mut events).await;
                assert_eq!(message.place.map(|place| place.offset), Some(expected));
                expected += 1;
            }
            cut(&server);
            (1..=5).for_each(|number| publish(20 + 5 * round + number));
            loop {
                match events.recv().await.unwrap() {
                    TopicEvent::Subscribed { place, last, recovered, .. } => {
                        assert_eq!((place, recovered), (last, Some(true)));
                        break;
                    }
                    TopicEvent::Connection(ClientEvent::Closed(closed)) => panic!("{closed}"),
                    TopicEvent::Connection(_) => {}
                    // A message that has come before the cut.
                    TopicEvent::Message(message) => {
                        assert_eq!(message.place.map(|place| place.offset), Some(expected));
                        expected += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        let other = client.subscribe_with("unkept", TopicOptions::new().earliest()).await.unwrap();
        assert_eq!(other.recovered, Some(false));
        let place = TopicPlace { epoch: 1, offset: 1 };
        client.unsubscribe("kept").await.unwrap();
        let again = client.subscribe_with("kept", TopicOptions::new().since(place)).await.unwrap();
        assert_eq!((again.recovered, again.place.map(|place| place.offset)), (Some(false), Some(30)));
    });
    std::fs::remove_file(&file).unwrap();
}

/// After a reconnect the client subscribes again, and the events tell from where on.
#[test]
fn a_client_subscribes_again() {
    let server = Server::start(&["--admin-tokens", "boss-of-this-server"]);
    on_tokio(async {
        let (client, mut events) = connect(&server, "/ws").await;
        client.subscribe("one").await.unwrap();
        client.subscribe("other").await.unwrap();
        client.unsubscribe("other").await.unwrap();
        exchange(server.address(), &post("/t/one", "text/plain", "first"));
        assert_eq!(message(&mut events).await.place.unwrap().offset, 1);
        cut(&server);
        loop {
            match events.recv().await.unwrap() {
                TopicEvent::Subscribed { topic, place, last, .. } => {
                    assert_eq!((&*topic, place.unwrap().offset), ("one", 1));
                    assert_eq!(last, place, "nothing is missing");
                    break;
                }
                TopicEvent::Connection(ClientEvent::Closed(closed)) => panic!("{closed}"),
                TopicEvent::Connection(_) => {}
                other => panic!("{other:?}"),
            }
        }
        exchange(server.address(), &post("/t/one", "text/plain", "hello"));
        assert_eq!(message(&mut events).await.topic, "one");
    });
}
