//! `TopicClient` against the hub.

use ringhub::client::{
    ClientEvent, Payload, Reconnect, TopicClient, TopicError, TopicEvent, TopicEvents, TopicMessage,
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
        let ask = |request: &str| {
            let lines =
                "Host: x\r\nAuthorization: Bearer boss-of-this-server\r\nConnection: close\r\nContent-Length: 0";
            exchange(server.address(), &format!("{request} HTTP/1.1\r\n{lines}\r\n\r\n")).body
        };
        let list: serde_json::Value = serde_json::from_str(&ask("GET /connections")).unwrap();
        let id = list["connections"][0]["id"].as_str().unwrap();
        // The client opens a connection again after this code.
        assert_eq!(ask(&format!("DELETE /connections/{id}?code=1012")), "{\"closed\":1}\n");
        loop {
            match events.recv().await.unwrap() {
                TopicEvent::Subscribed { topic, place, last } => {
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
