//! `TopicClient`: a client that speaks `ringhub.v1`, with many topics on one connection.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    builder::ClientBuilder,
    error::{ClientBuildError, ConnectError, SendError},
    event::{ClientEvent, Events},
    handle::Client,
    opened::Opened,
    topic_event::{CommandError, Frame, Payload, TopicEvent, TopicPlace},
};
use crate::proto::MessageLimits;

/// A client that speaks the subprotocol `ringhub.v1` (docs/protocol.md): it subscribes to any number of topics on one
/// connection, and publishes to them. Clones are handles to the same client, and the drop of the last one closes the
/// connection.
///
/// Answers to commands come with the events: while a command waits, some task has to read [`TopicEvents`]. With
/// [`ClientBuilder::reconnect`] the client subscribes again to its topics after each reconnect.
///
/// ```no_run
/// use ringhub::client::{Client, Payload, TopicClient, TopicEvent};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (client, mut events) = TopicClient::new(Client::builder().url("ws://127.0.0.1:6455/ws"))?;
/// client.connect().await?;
/// tokio::spawn(async move {
///     while let Some(event) = events.next().await {
///         if let TopicEvent::Message(message) = event {
///             println!("{}: {:?}", message.topic, message.payload);
///         }
///     }
/// });
/// client.subscribe("news").await?;
/// let place = client.publish("orders/7", &Payload::Text("paid".into())).await?;
/// println!("offset {}", place.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TopicClient(Arc<Wiring>);

/// The client, and the commands that wait for their answers.
struct Wiring {
    client: Client,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The id of the next command.
    next: u64,
    commands: HashMap<u64, oneshot::Sender<Result<Answer, TopicError>>>,
    /// The topics to subscribe to again after a reconnect, and whether with echo.
    topics: BTreeMap<String, bool>,
}

/// The events of a [`TopicClient`], which also bring the answers to its commands.
pub struct TopicEvents {
    events: Events,
    wiring: Weak<Wiring>,
}

/// The answer to a command: the place in it, if it has one.
type Answer = Option<TopicPlace>;

/// The reason for which a command has failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum TopicError {
    /// The server has refused the command.
    Refused(CommandError),
    /// The command could not be sent.
    Send(SendError),
    /// The connection was lost before the answer, so nobody knows whether the command has had its effect. Nobody reads
    /// the events any more, or the connection was lost.
    Lost,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::Refused(error) => error.fmt(f),
            TopicError::Send(error) => error.fmt(f),
            TopicError::Lost => f.write_str("the connection was lost before the answer"),
        }
    }
}

impl std::error::Error for TopicError {}

/// A command, as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Command<'a> {
    Subscribe(OfTopic<'a>),
    Unsubscribe(OfTopic<'a>),
    Publish(OfTopic<'a>),
    Refresh { id: u64, token: &'a str },
    Ping { id: u64 },
}

#[derive(Serialize, Default)]
struct OfTopic<'a> {
    id: u64,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// A payload that stands in a command as it is.
#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Text(&'a str),
    Json(&'a RawValue),
}

impl TopicClient {
    /// Builds a client that speaks `ringhub.v1`. The URL is that of a route that speaks it, such as
    /// `ws://127.0.0.1:6455/ws`, without `binary=true`. Unless the builder has other limits of messages than the
    /// default, the client takes each message of a server with the default `max_message`: frames of 6 MiB and 4 KiB.
    ///
    /// # Errors
    ///
    /// The first setting that is not valid.
    pub fn new(builder: ClientBuilder) -> Result<(TopicClient, TopicEvents), ClientBuildError> {
        let (client, events) = builder.subprotocol(PROTOCOL).preset_message_bytes(MESSAGE_BYTES_MAX).build()?;
        let wiring = Arc::new(Wiring { client, waiting: Mutex::default() });
        let events = TopicEvents { events, wiring: Arc::downgrade(&wiring) };
        Ok((TopicClient(wiring), events))
    }

    /// Opens a connection, as [`Client::connect`] does.
    ///
    /// # Errors
    ///
    /// As of [`Client::connect`].
    pub async fn connect(&self) -> Result<Opened, ConnectError> {
        self.0.client.connect().await
    }

    /// Returns the client below, for pings, closes and its counters.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Subscribes to a topic, without the client's own messages. Returns the place of the last message before the
    /// subscription, if the server knows it.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn subscribe(&self, topic: &str) -> Result<Option<TopicPlace>, TopicError> {
        self.subscribe_with(topic, false).await
    }

    /// Subscribes to a topic, with the client's own messages, as [`TopicClient::subscribe`] does.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn subscribe_with_echo(&self, topic: &str) -> Result<Option<TopicPlace>, TopicError> {
        self.subscribe_with(topic, true).await
    }

    async fn subscribe_with(&self, topic: &str, has_echo: bool) -> Result<Option<TopicPlace>, TopicError> {
        let place = self.ask(|id| Command::Subscribe(subscription(id, topic, has_echo))).await?;
        self.0.waiting().topics.insert(topic.into(), has_echo);
        Ok(place)
    }

    /// Ends a subscription. The messages of the topic that were sent before come first.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), TopicError> {
        self.0.waiting().topics.remove(topic);
        self.ask(|id| Command::Unsubscribe(OfTopic { id, topic, ..OfTopic::default() })).await.map(drop)
    }

    /// Publishes a message to a topic, and returns its place. The client itself gets the message only if it has
    /// subscribed with echo.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn publish(&self, topic: &str, payload: &Payload) -> Result<TopicPlace, TopicError> {
        let (data, base64) = match payload {
            Payload::Text(text) => (Some(Data::Text(text)), None),
            Payload::Json(json) => (Some(Data::Json(json)), None),
            Payload::Binary(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        let place = self.ask(|id| Command::Publish(OfTopic { id, topic, echo: None, data, base64 })).await?;
        place.ok_or(TopicError::Lost)
    }

    /// Replaces the token of the connection by a fresh one of the same identity.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn refresh(&self, token: &str) -> Result<(), TopicError> {
        self.ask(|id| Command::Refresh { id, token }).await.map(drop)
    }

    /// Asks the server for an answer.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn ping(&self) -> Result<(), TopicError> {
        self.ask(|id| Command::Ping { id }).await.map(drop)
    }

    /// Sends a command, and waits for its answer.
    async fn ask<'a>(&self, command: impl FnOnce(u64) -> Command<'a>) -> Result<Answer, TopicError> {
        let (answer, answered) = oneshot::channel();
        let id = self.0.waiting().begin(Some(answer));
        let sent = self.0.client.send_text(text(&command(id))).await;
        if let Err(error) = sent {
            self.0.waiting().commands.remove(&id);
            return Err(TopicError::Send(error));
        }
        answered.await.unwrap_or(Err(TopicError::Lost))
    }
}

impl fmt::Debug for TopicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicClient").field("url", &self.0.client.url()).finish_non_exhaustive()
    }
}

impl fmt::Debug for TopicEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicEvents").finish_non_exhaustive()
    }
}

impl Wiring {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Returns the id of a new command. Without `answer` nobody waits for its answer.
    fn begin(&mut self, answer: Option<oneshot::Sender<Result<Answer, TopicError>>>) -> u64 {
        let id = self.next;
        self.next += 1;
        if let Some(answer) = answer {
            self.commands.insert(id, answer);
        }
        id
    }

    /// Answers a command. Returns whether somebody has waited for the answer.
    fn answer(&mut self, id: Option<u64>, answer: Result<Answer, TopicError>) -> bool {
        let waiting = id.and_then(|id| self.commands.remove(&id));
        waiting.is_some_and(|waiting| waiting.send(answer).is_ok())
    }
}

impl TopicEvents {
    /// Returns the next event; `None` after the last. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<TopicEvent> {
        loop {
            let event = self.events.next().await?;
            let wiring = self.wiring.upgrade();
            match event {
                ClientEvent::Text(text) => {
                    let frame = match serde_json::from_str(&text) {
                        Ok(frame) => frame,
                        // A frame of a later version of the server.
                        Err(_) => return Some(TopicEvent::Unknown(text)),
                    };
                    if let Some(event) = take(frame, text, wiring.as_deref()) {
                        return Some(event);
                    }
                }
                ClientEvent::Reconnected(opened) => {
                    if let Some(wiring) = &wiring {
                        subscribe_again(wiring);
                    }
                    return Some(TopicEvent::Connection(ClientEvent::Reconnected(opened)));
                }
                ClientEvent::Lost(_) | ClientEvent::Closed(_) => {
                    if let Some(wiring) = &wiring {
                        // A drop of the senders tells those that wait.
                        wiring.waiting().commands.clear();
                    }
                    return Some(TopicEvent::Connection(event));
                }
                other => return Some(TopicEvent::Connection(other)),
            }
        }
    }
}

impl Drop for TopicEvents {
    /// Nobody gets an answer any more.
    fn drop(&mut self) {
        if let Some(wiring) = self.wiring.upgrade() {
            wiring.waiting().commands.clear();
        }
    }
}

/// Subscribes again to all topics after a reconnect. Events tell the answers. The queue of a connection that has just
/// opened has room.
fn subscribe_again(wiring: &Wiring) {
    let mut waiting = wiring.waiting();
    let topics = waiting.topics.clone();
    for (topic, has_echo) in topics {
        let id = waiting.begin(None);
        // If the connection is lost again, the next reconnect subscribes.
        _ = wiring.client.try_send_text(text(&Command::Subscribe(subscription(id, &topic, has_echo))));
    }
}

/// Hands an answer to those who wait for it. Returns any other frame as an event. `text` is the frame itself.
fn take(frame: Frame, text: String, wiring: Option<&Wiring>) -> Option<TopicEvent> {
    let answer = |id, answer| wiring.is_some_and(|wiring| wiring.waiting().answer(id, answer));
    match frame {
        Frame::Message(message) => Some(message.read().map_or(TopicEvent::Unknown(text), TopicEvent::Message)),
        Frame::Lagged(lagged) => Some(TopicEvent::Lagged(lagged)),
        Frame::Subscribed(subscribed) => {
            let place = subscribed.place();
            (!answer(subscribed.id, Ok(place))).then_some(TopicEvent::Subscribed { topic: subscribed.topic, place })
        }
        Frame::Unsubscribed(ended) => {
            if answer(ended.id, Ok(None)) {
                return None;
            }
            if let Some(wiring) = wiring {
                wiring.waiting().topics.remove(&ended.topic);
            }
            Some(TopicEvent::Unsubscribed { topic: ended.topic, because: ended.because })
        }
        Frame::Published(placed) => {
            answer(placed.id, Ok(placed.place()));
            None
        }
        Frame::Refreshed { id } | Frame::Pong { id } => {
            answer(id, Ok(None));
            None
        }
        Frame::Error { id, error } => {
            let refused = TopicError::Refused(error.clone());
            (!answer(id, Err(refused))).then_some(TopicEvent::Error(error))
        }
    }
}

fn subscription(id: u64, topic: &str, has_echo: bool) -> OfTopic<'_> {
    OfTopic { id, topic, echo: has_echo.then_some(true), ..OfTopic::default() }
}

fn text(command: &Command<'_>) -> String {
    serde_json::to_string(command).expect("strings and numbers can be encoded")
}

/// The name of the subprotocol.
const PROTOCOL: &str = "ringhub.v1";

/// The largest frame of a server with the default `max_message`: a character may have six bytes in JSON.
const MESSAGE_BYTES_MAX: u32 = 6 * MessageLimits::DEFAULT.message_bytes_max + 4 * 1_024;
